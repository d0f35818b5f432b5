"""A share above its bound: worked cases, the level, and faults that begin early and late."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tidegate_operator.evidence import ratio, share
from tidegate_operator.evidence.share import ShareEvidence

THRESHOLD = 500.0
"""Five tests that can roll back at a level of 1%: a rollout with the default metrics."""
PLANNED = 140
"""Looks of a rollout with the default steps."""


def looked(state: ShareEvidence, requests: int, bad: int, allowed: float = 0.05) -> ShareEvidence:
    return share.observe(state, requests, bad, allowed=allowed, planned_looks=PLANNED)


def needed(state: ShareEvidence, requests: int, bad: int) -> int:
    """Looks of that kind until the bound of 5% is shown to be broken."""
    for count in range(1, 2000):
        state = looked(state, requests, bad)
        if share.above(state) >= THRESHOLD:
            return count
    raise AssertionError("never shown")


def test_worked_by_hand() -> None:
    """3 bad of 3: (e^delta / (1 + 0.05 (e^delta - 1)))^3, 7.0 in logs at e^delta = 20."""
    logs = share.increment(3, 3, 0.05)
    odds = np.linspace(math.log(1.05), math.log(20), 32)
    assert logs == pytest.approx(3 * (odds - np.log(1 + 0.05 * (np.exp(odds) - 1))))
    assert logs[-1] == pytest.approx(7.0, abs=0.02)
    waits = 1 - ratio.AT_ONCE
    expected = waits + ratio.AT_ONCE * float(np.exp(logs).mean())
    assert share.above(looked(ShareEvidence(), 3, 3)) == pytest.approx(expected)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.floats(0, 1)), max_size=6),
    st.integers(1, 60),
    st.floats(0.001, 0.9),
    st.just(0.0) | st.floats(1e-9, 1.0),
)
def test_whatever_happened_the_next_look_is_not_expected_to_add_evidence(
    past: list[tuple[int, float]], requests: int, allowed: float, part: float
) -> None:
    """The exact expectation over all outcomes of a look, for any share within the bound."""
    state = ShareEvidence()
    for count, bad in past:
        state = looked(state, count, round(bad * count), allowed)
    outcomes = [share.above(looked(state, requests, bad, allowed)) for bad in range(requests + 1)]
    chances = stats.binom.pmf(range(requests + 1), requests, part * allowed)
    assert float(chances @ outcomes) <= share.above(state) * (1 + 1e-9)


@pytest.mark.parametrize("allowed", [0.05, 0.001])
def test_false_alarms_of_versions_that_just_keep_their_bound(allowed: float) -> None:
    runs, looks, alpha = 2000, 300, 0.05
    random = np.random.default_rng(7)
    harm, waiting = np.full((runs, len(ratio.DELTAS)), -np.inf), 1.0
    alarmed = np.zeros(runs, bool)
    for look in range(looks):
        bad = random.binomial(100, allowed, runs)
        starting = ratio.begins_now(look, waiting, looks)
        waiting -= starting
        harm = ratio.grow(harm, starting, look, share.increment(100, bad, allowed))
        alarmed |= ratio.total(harm, waiting) >= -math.log(alpha)
    assert 0.0 < alarmed.mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)


@pytest.mark.parametrize("bad", [10, 20, 50, 100])
@pytest.mark.parametrize("good_looks", [10, 100, 300])
def test_a_fault_that_begins_late_is_found_within_twice_the_time(good_looks: int, bad: int) -> None:
    """100 requests a look. 30,000 good ones must not hide a fault."""
    good = ShareEvidence()
    for _ in range(good_looks):
        good = looked(good, 100, 1)
    assert needed(good, 100, bad) <= 2 * needed(ShareEvidence(), 100, bad)


def test_a_version_that_fails_everything_is_caught_within_a_few_requests() -> None:
    assert needed(ShareEvidence(), 1, 1) == 4
    good = ShareEvidence()
    for _ in range(300):
        good = looked(good, 100, 0)
    assert needed(good, 1, 1) <= 9


def test_it_is_told_by_the_requests_since_the_bound_was_last_kept() -> None:
    state = looked(looked(ShareEvidence(), 1000, 10), 20, 15)
    assert (state.requests, state.bad) == (20, 15)
    state = looked(state, 20, 0)
    assert (state.requests, state.bad) == (40, 15)
    state = looked(state, 1000, 0)
    assert (state.requests, state.bad) == (0, 0)


def test_a_look_without_requests_changes_nothing() -> None:
    state = looked(ShareEvidence(), 10, 1)
    assert looked(state, 0, 0) == state
    assert share.above(ShareEvidence()) == 1.0


def test_where_none_may_be_bad_one_is_enough() -> None:
    state = looked(ShareEvidence(), 1000, 0, 0.0)
    assert share.above(state) == pytest.approx(1.0)
    assert share.above(looked(state, 1, 1, 0.0)) > 1e200


def test_more_bad_than_finished_requests_are_that_many_bad_ones() -> None:
    """A scrape may come between the two counters."""
    assert looked(ShareEvidence(), 3, 9) == looked(ShareEvidence(), 3, 3)


def test_users_that_stick_together_need_more_of_it() -> None:
    state = looked(ShareEvidence(), 30, 12)
    assert share.above(state, 2.0) == pytest.approx(share.above(state) ** 0.5)


def test_a_fault_of_a_billion_requests_has_a_number_for_its_evidence() -> None:
    assert share.above(looked(ShareEvidence(), 10**9, 10**9)) == pytest.approx(1e300)
