"""The adaptive strategy: each reason where it belongs, and its formulas."""

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_batcher import adaptive
from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.strategy import View


class Known:
    """A cost that is known, with nothing left to chance."""

    def __init__(self, fixed: float, per_row: float, batches: int = 100, telling: int = 1) -> None:
        self.fixed, self.per_row, self.batches = fixed, per_row, batches
        self.telling = telling

    def seconds(self, rows: int) -> float:
        return self.fixed + self.per_row * rows

    def at_most(self, rows: int) -> float:
        return self.seconds(rows)


def view(**more: Any) -> View:
    plain: dict[str, Any] = {
        "now": 10.0,
        "rows": 4,
        "requests": 4,
        "oldest": 10.0,
        "free_since": 0.0,
        "level": 3,
        "answer_by": inf,
        "least": 1,
        "most": 32,
        "max_wait": 0.005,
        "target": None,
        "optimize": "Throughput",
        "arrivals": 0.0,
        "coming_until": inf,
        "cost": Known(0.002, 0.0001),
        "slots": 1,
        "in_flight": 0,
    }
    return View(**(plain | more))


def decide(**more: Any) -> tuple[int, str]:
    decision = Adaptive().decide(view(**more))
    return decision.rows, decision.reason


def test_nothing_waits_before_the_cost_is_known() -> None:
    cost = Known(0.002, 0.0001, batches=19)
    assert decide(arrivals=1e6, cost=cost) == (32, adaptive.LEARNING)
    assert decide(arrivals=1e6, cost=cost, least=5) == (0, adaptive.TOO_FEW)


def test_full() -> None:
    assert decide(rows=32) == (32, adaptive.FULL)
    assert decide(rows=99) == (32, adaptive.FULL)


@pytest.mark.parametrize(
    ("optimize", "rows", "due", "waits"),
    [
        # a = 2 ms: throughput rises while n rows are held up by less than that for the next
        ("Throughput", 4, 0.00049, True),
        ("Throughput", 4, 0.00051, False),
        # (n + 1) d + n b: 5 x 0.31 ms + 0.4 ms is below 2 ms, 5 x 0.33 ms + 0.4 ms above
        ("Latency", 4, 0.00031, True),
        ("Latency", 4, 0.00033, False),
    ],
)
def test_it_waits_only_while_that_pays(optimize: str, rows: int, due: float, waits: bool) -> None:
    expected = (0, adaptive.PAYS) if waits else (32, adaptive.NO_GAIN)
    assert decide(rows=rows, arrivals=1 / due, optimize=optimize) == expected


def test_it_waits_for_as_many_as_are_on_their_way() -> None:
    decision = Adaptive().decide(view(rows=2, arrivals=10_000.0, coming_until=10.001))
    assert (decision.rows, decision.until, decision.at_rows) == (0, 10.001, 11)


def test_never_longer_than_the_policy() -> None:
    assert decide(oldest=9.995, arrivals=1e6) == (32, adaptive.WAITED)
    assert Adaptive().decide(view(oldest=9.996, arrivals=1e6)).until == pytest.approx(10.001)


def test_never_longer_than_the_deadline_leaves() -> None:
    # five rows take 2.5 ms
    assert decide(answer_by=10.00251, arrivals=1e6) == (0, adaptive.PAYS)
    assert decide(answer_by=10.00249, arrivals=1e6) == (32, adaptive.NO_TIME)
    assert decide(target=0.0050, oldest=9.9974, arrivals=1e6) == (5, adaptive.NO_TIME_FOR_TARGET)


def test_a_smaller_batch_where_a_larger_would_be_late() -> None:
    assert decide(rows=32, answer_by=10.00301) == (10, adaptive.CUT_FOR_DEADLINE)
    assert decide(rows=32, answer_by=10.001) == (32, adaptive.FULL)  # late whatever is done


def test_two_batches_within_the_target() -> None:
    assert decide(rows=32, target=0.00601) == (10, adaptive.CUT_FOR_TARGET)
    assert decide(rows=32, target=0.001) == (32, adaptive.FULL)  # met by no size


def test_a_target_does_not_cut_below_what_shows_the_cost_to_be_a_guess() -> None:
    guess = Known(0.002, 0.002, telling=2)
    assert decide(rows=8, target=0.010, cost=guess) == (2, adaptive.CUT_FOR_TARGET)


def test_the_least_is_waited_for() -> None:
    assert decide(least=5) == (0, adaptive.TOO_FEW)
    assert decide(least=5, oldest=9.0) == (32, adaptive.WAITED)


@given(
    rows=st.integers(1, 200),
    most=st.integers(1, 64),
    answer_by=st.floats(9.99, 11.0),
    target=st.none() | st.floats(0.0001, 0.2),
    arrivals=st.floats(0.0, 1e6),
    waited=st.floats(0.0, 0.02),
    optimize=st.sampled_from(["Throughput", "Latency"]),
)
def test_a_decision_sends_something_or_says_when(
    rows: int, most: int, waited: float, **more: Any
) -> None:
    seen = view(rows=rows, most=most, oldest=10.0 - waited, **more)
    decision = Adaptive().decide(seen)
    if decision.rows:
        assert 1 <= decision.rows <= most
    else:
        assert seen.now < decision.until <= seen.oldest + seen.max_wait
        assert rows < decision.at_rows <= most
        assert rows < most
    assert Adaptive().decide(seen) == decision
