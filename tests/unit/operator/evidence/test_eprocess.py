"""The test of a share: worked cases, its level under the null, its power when it is broken."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from tidegate_operator.api.canaryrollout import Tally
from tidegate_operator.evidence.eprocess import (
    over_steps,
    share_above,
    share_below,
    share_interval,
)


def test_worked_by_hand() -> None:
    # int_{p0}^1 p^3 dp / ((1 - p0) p0^3) = (1 - p0^4) / (4 (1 - p0) p0^3)
    expected = (1 - 0.05**4) / (4 * 0.95 * 0.05**3)
    assert share_above(Tally(requests=3, bad=3), 0.05) == pytest.approx(expected)
    # int_{p0}^1 (1-p) dp / (1-p0)^2 = 1/2: one good request halves the evidence, at any bound
    assert share_above(Tally(requests=1, bad=0), 0.2) == pytest.approx(0.5)
    assert share_above(Tally(requests=5, bad=0), 0.2) == pytest.approx(1 / 6)


def test_the_docstrings_figures() -> None:
    assert share_above(Tally(requests=100, bad=5), 0.05) == pytest.approx(0.035, abs=5e-4)
    assert share_above(Tally(requests=100, bad=20), 0.05) == pytest.approx(123_457, rel=1e-3)


@pytest.mark.parametrize(("n", "x", "p0"), [(40, 7, 0.1), (200, 3, 0.01), (10, 10, 0.5)])
def test_against_the_integral(n: int, x: int, p0: float) -> None:
    def ratio(p: float) -> float:
        return float((p / p0) ** x * ((1 - p) / (1 - p0)) ** (n - x) / (1 - p0))

    integral, _ = integrate.quad(ratio, p0, 1, limit=200)
    assert share_above(Tally(requests=n, bad=x), p0) == pytest.approx(integral, rel=1e-6)


@pytest.mark.parametrize(
    ("tally", "p0", "value"),
    [
        (Tally(), 0.05, 1.0),
        (Tally(requests=10, bad=10), 1.0, 0.0),
        (Tally(requests=10, bad=0), 0.0, 1.0),
        (Tally(requests=10, bad=1), 0.0, 1e300),
        (Tally(requests=10**9, bad=10**9), 0.05, pytest.approx(10**299.66, rel=0.2)),
        (Tally(requests=10**9, bad=0), 0.05, pytest.approx(0.0, abs=1e-6)),
        # counters of a hung version can for a moment hold more bad than finished requests
        (Tally(requests=3, bad=9), 0.05, pytest.approx(2105.25, rel=1e-3)),
    ],
)
def test_at_the_edges(tally: Tally, p0: float, value: float) -> None:
    assert share_above(tally, p0) == value


@given(st.integers(1, 10**6), st.floats(1e-6, 0.999), st.data())
def test_more_bad_requests_are_never_less_evidence(n: int, p0: float, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, n - 1))
    less, more = (share_above(Tally(requests=n, bad=bad), p0) for bad in (x, x + 1))
    assert math.isfinite(less)
    assert 0.0 <= less <= more
    assert share_above(Tally(requests=n + 1, bad=x), p0) <= less * (1 + 1e-9)


@pytest.mark.parametrize("share", [0.05, 0.02])
def test_false_alarms_under_the_null_with_a_look_after_every_request(share: float) -> None:
    """Rollouts of a version that just keeps its bound, three steps each."""
    runs, per_step, alpha = 400, 150, 0.05
    random = np.random.default_rng(7)
    bad = random.random((runs, 3, per_step)) < share
    alarms = sum(_alarm(run, 0.05, 1 / alpha) is not None for run in bad)
    assert alarms <= runs * alpha + 3 * math.sqrt(runs * alpha * (1 - alpha))


def test_a_fault_is_found_whenever_it_begins_and_a_good_past_does_not_hide_it() -> None:
    random = np.random.default_rng(3)
    for step in range(3):
        share = np.full((3, 200), 0.01)
        share[step:] = 0.4
        found = _alarm(random.random((3, 200)) < share, 0.05, 200.0)
        assert found is not None
        assert found[0] == step
        assert found[1] <= 40


def test_a_version_that_fails_everything_is_caught_within_a_few_requests() -> None:
    steps, threshold = 8, 2 / 0.01
    for step in range(7):
        good = [Tally(requests=1000, bad=2)] * step
        needed = next(
            n
            for n in range(1, 20)
            if over_steps([*good, Tally(requests=n, bad=n)], 0.05, steps) >= threshold
        )
        assert needed <= 3


def test_the_level_is_spent_once_over_the_steps() -> None:
    assert over_steps([], 0.05, 4) == 1.0
    one = Tally(requests=3, bad=3)
    single = share_above(one, 0.05)
    both = share_above(one + one, 0.05)
    assert over_steps([one], 0.05, 4) == pytest.approx((3 + single) / 4)
    assert over_steps([one, one], 0.05, 4) == pytest.approx((2 + single + both) / 4)
    assert over_steps([one, one], 0.05, 1) == pytest.approx((single + both) / 2)


def _alarm(bad: np.ndarray, allowed: float, threshold: float) -> tuple[int, int] | None:
    """Step and request at which the threshold is first reached."""
    done: list[Tally] = []
    for step, requests in enumerate(bad):
        for n, x in enumerate(np.cumsum(requests), start=1):
            now = Tally(requests=n, bad=int(x))
            if over_steps([*done, now], allowed, len(bad)) >= threshold:
                return step, n
        done.append(Tally(requests=len(requests), bad=int(requests.sum())))
    return None


@pytest.mark.parametrize(
    ("requests", "bad", "expected", "printed"),
    [(1000, 700, 100, (0.651629, 0.745949)), (50, 15, 50, (0.129556, 0.511896))],
)
def test_reference_case_4(
    requests: int, bad: int, expected: int, printed: tuple[float, float]
) -> None:
    """The reference cuts its digits off."""
    found = share_interval(Tally(requests=requests, bad=bad), 0.05, expected)
    assert tuple(math.floor(end * 1e6) / 1e6 for end in found) == printed


@pytest.mark.parametrize("bad", [0, 1, 49, 50])
def test_an_intervals_ends(bad: int) -> None:
    low, high = share_interval(Tally(requests=50, bad=bad), 0.05)
    assert 0.0 <= low <= bad / 50 <= high <= 1.0
    assert (low == 0.0) == (bad <= 1)
    assert (high == 1.0) == (bad >= 49)
    assert share_interval(Tally(), 0.05) == (0.0, 1.0)


def test_an_interval_holds_at_all_looks_together() -> None:
    random = np.random.default_rng(11)
    looks = np.unique(np.geomspace(10, 5000, 60).astype(int))
    outside = 0
    for _ in range(200):
        bad = (random.random(5000) < 0.1).cumsum()
        ends = [share_interval(Tally(requests=int(n), bad=int(bad[n - 1])), 0.05) for n in looks]
        outside += any(not low <= 0.1 <= high for low, high in ends)
    assert outside <= 200 * 0.05 + 3 * math.sqrt(200 * 0.05 * 0.95)


def test_requests_without_an_error_that_prove_a_rate_to_be_low() -> None:
    """The first number at which E reaches 20."""
    for allowed, expected in ((0.01, 386), (0.001, 3856)):
        needed = next(
            n
            for n in range(expected - 20, expected + 20)
            if share_below(Tally(requests=n), allowed) >= 20.0
        )
        assert needed == expected


@given(st.integers(0, 10**6), st.floats(1e-6, 1.0), st.data())
def test_more_bad_requests_prove_less_of_a_low_share(
    n: int, p0: float, data: st.DataObject
) -> None:
    x = data.draw(st.integers(0, n))
    found = share_below(Tally(requests=n, bad=x), p0)
    assert 0.0 <= found < math.inf
    assert share_below(Tally(requests=n + 1, bad=x + 1), p0) <= found * (1 + 1e-9) + math.ulp(0)
