"""How much errors vary between users."""

import numpy as np
import pytest

from tidegate_operator.evidence.dispersion import dispersion

NOBODY = np.zeros(64), np.zeros(64)


def test_worked_by_hand() -> None:
    """Three buckets of 10 requests with 0, 2 and 4 errors: 3/2 * (4 + 0 + 4) / 6."""
    arm = np.array([10.0, 10.0, 10.0, 0.0]), np.array([0.0, 2.0, 4.0, 0.0])
    assert dispersion(arm) == pytest.approx(2.0)
    calm = np.array([10.0, 10.0]), np.array([2.0, 2.0])
    assert dispersion(calm) == 1.0
    assert dispersion(calm, arm) == dispersion(arm, calm) == pytest.approx(2.0)
    assert dispersion(NOBODY, NOBODY) == 1.0


def test_requests_that_are_independent_have_none() -> None:
    random = np.random.default_rng(1)
    n = random.poisson(300, (500, 64)).astype(float)
    found = dispersion((n, random.binomial(n.astype(int), 0.02).astype(float)))
    assert float(np.median(found)) == pytest.approx(1.0, abs=0.05)
    assert found.shape == (500,)


def test_a_user_who_always_errs_is_seen_and_a_canary_that_fails_for_all_is_not_excused() -> None:
    n, bad = np.full(64, 100.0), np.ones(64)
    bad[7] = 100.0
    assert dispersion((n, bad)) > 20.0
    assert dispersion((n, n.copy()), (n, np.ones(64))) == 1.0
