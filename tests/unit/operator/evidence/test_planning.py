"""Sample sizes."""

import math

import numpy as np
import pytest

from tidegate_operator.evidence import means, planning
from tidegate_operator.evidence.means import Effect


def test_reference_case_5() -> None:
    assert planning.units(0.3, 100.0, power=0.85) == 39_904


@pytest.mark.parametrize(("ratio", "requests"), [(1.5, 3926), (2.0, 1280), (3.0, 467)])
def test_requests_of_a_canary_at_one_percent(ratio: float, requests: int) -> None:
    assert planning.canary_requests(0.01, ratio, 0.1) == requests


def test_that_many_requests_do_detect_it() -> None:
    random = np.random.default_rng(1)
    n, runs = planning.canary_requests(0.05, 1.5, 0.5), 4000
    bad, good = random.binomial(n, 0.075, runs), random.binomial(n, 0.05, runs)
    pooled = (bad + good) / (2 * n)
    z = (bad - good) / n / np.sqrt(pooled * (1 - pooled) * 2 / n)
    assert (z > 1.6449).mean() == pytest.approx(0.8, abs=0.03)


def test_an_uneven_split_needs_more() -> None:
    assert planning.units(0.3, 100.0, 0.1) > 2.7 * planning.units(0.3, 100.0)


@pytest.mark.parametrize(("difference", "min_effect"), [(0.02, 0.005), (0.001, 0.01)])
def test_the_interval_decides_at_the_units_foretold(difference: float, min_effect: float) -> None:
    seen, error = 2000.0, 0.02
    needed = planning.units_at_decision(Effect(difference, error), seen, 0.05, 5000, min_effect)
    assert needed is not None
    assert needed > seen
    then = Effect(difference, error * math.sqrt(seen / needed))
    low, high = means.interval(then, needed, 0.05, 5000)
    if difference > min_effect:
        assert low == pytest.approx(0.0, abs=1e-9)
    else:
        assert high == pytest.approx(min_effect)


def test_what_is_decided_and_what_never_will_be() -> None:
    assert planning.units_at_decision(Effect(1.0, 0.01), 2000, 0.05, 5000, 0.1) == 2000
    assert planning.units_at_decision(Effect(0.1, 50.0), 2000, 0.05, 5000, 0.1) is None
    assert planning.units_at_decision(Effect(0.1, math.inf), 2000, 0.05, 5000, 0.1) is None
    assert planning.units_at_decision(Effect(0.1, 0.1), 0, 0.05, 5000, 0.1) is None
