"""Differences of shares: expectations by enumeration, worked cases, the level, early and late."""

import itertools
import math
from statistics import median

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from tidegate_operator.evidence import proportions, ratio
from tidegate_operator.evidence.proportions import ExcessEvidence
from tidegate_operator.evidence.tally import Tally

ALPHA = 0.05
THRESHOLD = 500.0
"""Five tests that can roll back at a level of 1%."""
PLANNED = 140

shares = st.floats(0.01, 0.99)


def tally(n: int, x: int) -> Tally:
    return Tally(requests=n, bad=x)


def looked(state: ExcessEvidence, first: Tally, second: Tally, excess: float) -> ExcessEvidence:
    return proportions.observe(state, first, second, excess=excess, planned_looks=PLANNED)


@given(
    st.lists(st.tuples(st.integers(0, 40), shares, shares), max_size=4),
    shares,
    shares,
    st.just(0.0) | st.floats(0, 0.95),
    st.data(),
)
def test_whatever_happened_the_next_look_is_not_expected_to_add_evidence(
    past: list[tuple[int, float, float]],
    first: float,
    second: float,
    excess: float,
    data: st.DataObject,
) -> None:
    """The exact expectation over all outcomes of a look, for any allowed pair of shares."""
    state = ExcessEvidence()
    for n, one, other in past:
        state = looked(state, tally(n, round(one * n)), tally(n // 2, round(other * n / 2)), excess)
    if first > second + excess:
        first = data.draw(st.floats(0.001, min(second + excess, 0.999)))
    n, m = data.draw(st.integers(0, 7)), data.draw(st.integers(0, 7))
    expected = sum(
        stats.binom.pmf(i, n, first)
        * stats.binom.pmf(j, m, second)
        * proportions.above(looked(state, tally(n, i), tally(m, j), excess))
        for i, j in itertools.product(range(n + 1), range(m + 1))
    )
    assert expected <= proportions.above(state) * (1 + 1e-7)


def test_worked_by_hand() -> None:
    """Expected 30.18 of 300.36 bad; against it twenty times the odds, and the pooled share."""
    before = ExcessEvidence(first=tally(100, 20), second=tally(300, 30))
    other = 30.18 / 300.36
    odds = 20 * other / (1 - other)
    one = odds / (1 + odds)
    pooled = (50 * one + 150 * other) / 200
    worked = (
        12 * math.log(one)
        + 38 * math.log(1 - one)
        + 15 * math.log(other)
        + 135 * math.log(1 - other)
        - 27 * math.log(pooled)
        - 173 * math.log(1 - pooled)
    )
    after = looked(before, tally(50, 12), tally(150, 15), 0.0)
    log_harm = ratio.unpack(after.harm)
    assert log_harm[-1] == pytest.approx(math.log(ratio.AT_ONCE) + worked)
    assert (after.first, after.second) == (tally(150, 32), tally(450, 45))


@pytest.mark.parametrize("excess", [0.001, 0.02, 0.5])
def test_the_allowed_pair_is_the_nearest(excess: float) -> None:
    """Against a minimiser of the divergence."""

    def divergence(share: float) -> float:
        return 50 * entropy(one, share + excess) + 5 * entropy(0.1, share)

    def entropy(p: float, q: float) -> float:
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    odds = 3.0 * (0.1 + excess) / (0.9 - excess)
    one = odds / (1 + odds)
    at = np.array([one]), np.array([0.1])
    moved, share = proportions._nearest(at, np.array(50.0), np.array(5.0), excess)
    best = optimize.minimize_scalar(divergence, bounds=(0.1, one - excess), method="bounded")
    assert moved[0] == pytest.approx(share[0] + excess)
    assert divergence(float(share[0])) <= best.fun + 1e-9


def test_nothing_to_bet_on() -> None:
    """Neither at the first look, nor where one arm is alone, nor where all is allowed."""
    start = looked(ExcessEvidence(), tally(50, 50), tally(50, 0), 0.02)
    assert proportions.above(start) == 1.0
    before = ExcessEvidence(first=tally(100, 20), second=tally(300, 30))
    for first, second in ((tally(50, 50), Tally()), (Tally(), tally(50, 0))):
        assert proportions.above(looked(before, first, second, 0.02)) == 1.0
    allowed = looked(before, tally(50, 50), tally(50, 0), 0.95)
    assert proportions.above(allowed) == pytest.approx(1.0)


def test_what_is_better_is_no_harm() -> None:
    state = ExcessEvidence()
    for _ in range(50):
        state = looked(state, tally(100, 5), tally(100, 30), 0.0)
    assert proportions.above(state) < 1.0


def needed(late: int, bad: float, *, excess: float, good: float, requests: tuple[int, int]) -> int:
    """Looks until the excess is shown, after so many good ones."""
    random = np.random.default_rng(late)
    state = ExcessEvidence()
    for look in range(late + 400):
        rate = good if look < late else bad
        first, second = (
            tally(n, int(random.binomial(n, p)))
            for n, p in zip(requests, (rate, good), strict=True)
        )
        state = looked(state, first, second, excess)
        if proportions.above(state) >= THRESHOLD:
            return look - late + 1
    raise AssertionError("never shown")


@pytest.mark.parametrize("late", [20, 160, 1000])
@pytest.mark.parametrize(("bad", "most"), [(0.2, 20), (0.5, 4)])
def test_good_looks_before_it_do_not_hide_a_fault(late: int, bad: float, most: int) -> None:
    """300 mirrored pairs a look, thirty of stable with itself: 5 and 1 looks where a fault begins
    after 160, for 42 and 15 by totals alone.
    """
    assert needed(late, bad, excess=0.02, good=0.03, requests=(300, 30)) <= most


def test_a_fault_from_the_start_is_found_at_once() -> None:
    early = [
        needed(0, bad, excess=0.001, good=0.01, requests=(250, 250)) for bad in (0.05, 0.2, 1.0)
    ]
    assert median(early) <= 3
    assert max(early) <= 10


@pytest.mark.parametrize(
    ("first", "second", "excess", "requests"),
    [
        (0.07, 0.05, 0.02, (50, 5)),
        (0.011, 0.01, 0.001, (250, 250)),
        (0.2, 0.2, 0.0, (25, 225)),
        (0.02, 0.0, 0.02, (300, 30)),
    ],
)
def test_false_alarms_of_arms_that_differ_by_just_what_is_allowed(
    first: float, second: float, excess: float, requests: tuple[int, int]
) -> None:
    runs, looks = 600, 150
    random = np.random.default_rng(7)
    harm, waiting = np.full((runs, len(ratio.DELTAS)), -np.inf), 1.0
    alarmed, known = np.zeros(runs, bool), np.zeros((2, runs))
    for look in range(looks):
        arms = [
            (np.full(runs, float(n)), random.binomial(n, p, runs).astype(float))
            for n, p in zip(requests, (first, second), strict=True)
        ]
        if look:
            expected = np.asarray(proportions.expectation(*known))
            by = proportions.increment(arms[0], arms[1], expected, excess)
            starting = ratio.begins_now(look - 1, waiting, looks)
            waiting -= starting
            harm = ratio.grow(harm, starting, look - 1, by)
            alarmed |= ratio.total(harm, waiting) >= -math.log(ALPHA)
        known += arms[1]
    assert alarmed.mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


def test_users_that_stick_together_need_more_of_it() -> None:
    state = ExcessEvidence()
    for _ in range(3):
        state = looked(state, tally(100, 30), tally(100, 5), 0.02)
    assert proportions.above(state) > 100.0
    assert proportions.above(state, 2.0) == pytest.approx(proportions.above(state) ** 0.5)


def test_it_is_told_by_the_requests_since_the_excess_was_last_allowed() -> None:
    state = looked(ExcessEvidence(), tally(1000, 40), tally(1000, 30), 0.02)
    assert state.lately == Tally()
    state = looked(state, tally(20, 15), tally(20, 0), 0.02)
    assert state.lately == tally(20, 15)
    state = looked(state, tally(1000, 0), tally(1000, 30), 0.02)
    assert state.lately == Tally()


def test_the_state_of_an_older_operator_is_gone_on_with() -> None:
    old = b'{"logE":3.2,"first":{"requests":900,"bad":9},"second":{"requests":900,"bad":9}}'
    state = msgspec.json.decode(old, type=ExcessEvidence)
    assert proportions.above(state) == 1.0
    state = looked(state, tally(100, 50), tally(100, 1), 0.001)
    assert proportions.above(state) > THRESHOLD
    assert len(msgspec.json.encode(state)) < 600


@pytest.mark.parametrize("excess", [-0.1, 1.0, math.nan])
def test_an_excess_that_means_nothing(excess: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        looked(ExcessEvidence(), tally(1, 0), tally(1, 0), excess)


@pytest.mark.parametrize(
    ("first", "second"),
    [((100, 100), (100, 0)), ((100, 100), (100, 100)), ((9, 12), (9, 0)), ((10**7, 10**7), (9, 0))],
)
@pytest.mark.parametrize("excess", [0.0, 0.02])
def test_edges(first: tuple[int, int], second: tuple[int, int], excess: float) -> None:
    state = ExcessEvidence()
    for _ in range(3):
        state = looked(state, tally(*first), tally(*second), excess)
    found = proportions.above(state)
    assert math.isfinite(found)
    assert (found > 20.0) == (first[1] > second[1])
