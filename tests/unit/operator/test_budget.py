"""How many are granted."""

import pytest

from tidegate_operator.budget import Budget


def granted(budget: Budget, seconds: int, **how: float) -> int:
    """Of a hundred asked for in each second."""
    return sum(budget.take(1000 + number / 100, **how) for number in range(100 * seconds))


@pytest.mark.parametrize(("pace", "expected"), [(1.0, 10 + 500), (3.0, 10 + 1500)])
def test_a_row_at_once_and_then_so_many_a_second(pace: float, expected: int) -> None:
    assert abs(granted(Budget(5.0, 10.0), 100, pace=pace) - expected) <= 1


def test_a_seconds_worth_at_once_where_nothing_else_is_said() -> None:
    budget = Budget(4.0)
    assert [budget.take(1000.0) for _ in range(5)] == [True] * 4 + [False]


def test_nothing_of_nothing() -> None:
    assert granted(Budget(0.0), 10, pace=2.0) == 0


def test_some_are_left_for_others() -> None:
    budget = Budget(1.0, 10.0)
    assert [budget.take(1000.0, leave=0.5) for _ in range(6)] == [True] * 5 + [False]
    assert [budget.take(1000.0) for _ in range(6)] == [True] * 5 + [False]
