"""The score of a policy: its parts are what they say, and hold their bounds."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_tune.score import ClassOutcome, Outcome, Parts, Weights, jain, parts


def outcome(*classes: ClassOutcome, efficiency: float = 0.5) -> Outcome:
    return Outcome(classes, efficiency)


def test_a_policy_that_answers_all_in_time_has_only_efficiency_to_gain() -> None:
    vip = ClassOutcome("vip", offered=10, answered=10, p99=0.05, target=0.1)
    batch = ClassOutcome("batch", offered=90, answered=90, p99=0.9, target=1.0)
    found = parts(outcome(vip, batch, efficiency=0.8))
    assert found == Parts(1.0, 1.0, 0.8, 1.0)
    assert math.isclose(found.weigh(Weights()), 0.4 + 0.3 + 0.16 + 0.1)


def test_classes_count_by_their_share() -> None:
    late = ClassOutcome("vip", offered=10, answered=10, p99=0.4, target=0.1)
    good = ClassOutcome("batch", offered=30, answered=15, p99=0.5, target=1.0)
    found = parts(outcome(late, good))
    assert found.throughput == 25 / 40
    assert math.isclose(found.latency, (0.25 * 10 + 30) / 40)
    assert math.isclose(found.fairness, 1.5**2 / (2 * 1.25))


def test_a_class_that_nobody_answered_has_no_latency_to_show() -> None:
    lost = ClassOutcome("batch", offered=5, answered=0, p99=0.0, target=1.0)
    assert parts(outcome(lost)) == Parts(0.0, 0.0, 0.5, 0.0)


def test_weights_are_taken_by_their_sum() -> None:
    assert Parts(1, 0, 0, 0).weigh(Weights(2, 1, 1, 0)) == 0.5


def test_no_load_scores_nothing() -> None:
    nobody = ClassOutcome("vip", offered=0, answered=0, p99=0.0, target=1.0)
    assert parts(outcome(nobody)) == Parts(0, 0, 0, 0)


@pytest.mark.parametrize(("shares", "index"), [([1, 1, 1], 1.0), ([1, 0, 0, 0], 0.25), ([0], 0.0)])
def test_jain(shares: list[float], index: float) -> None:
    assert jain(shares) == index


@given(st.lists(st.tuples(st.integers(1, 99), st.floats(0, 1), st.floats(0, 9)), min_size=1))
def test_every_part_is_between_0_and_1(classes: list[tuple[int, float, float]]) -> None:
    made = [ClassOutcome("x", n, int(n * share), p99, 1.0) for n, share, p99 in classes]
    found = parts(outcome(*made, efficiency=1.7))
    for part in (found.throughput, found.latency, found.utilisation, found.fairness):
        assert 0 <= part <= 1 + 1e-9
