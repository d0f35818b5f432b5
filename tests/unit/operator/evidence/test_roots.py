"""Zeros: where scipy finds them, too."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from tidegate_operator.evidence.roots import root

FUNCTIONS: list[Callable[[float], float]] = [
    lambda x: x,
    lambda x: math.expm1(5 * x),
    lambda x: math.atan(1000 * x),
    lambda x: -x * (1 + x * x),
    lambda x: 1e-200 * x,
]


@pytest.mark.parametrize("function", FUNCTIONS)
@given(low=st.floats(-3, -0.01), high=st.floats(0.01, 3), shift=st.floats(-0.009, 0.009))
def test_it_is_scipys(
    function: Callable[[float], float], low: float, high: float, shift: float
) -> None:
    def moved(x: float) -> float:
        return function(x - shift)

    found = root(moved, low, high)
    assert low <= found <= high
    assert found == pytest.approx(optimize.brentq(moved, low, high), abs=1e-10)
    assert root(moved, high, low) == pytest.approx(found, abs=1e-10)


def test_an_end_may_be_the_zero() -> None:
    assert root(lambda x: x, 0.0, 1.0) == 0.0
    assert root(lambda x: x, -1.0, 0.0) == 0.0


def test_no_zero_is_an_error() -> None:
    with pytest.raises(ValueError, match="no change of sign"):
        root(lambda x: x * x + 1, -1.0, 1.0)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_it_takes_few_steps(function: Callable[[float], float]) -> None:
    steps = []

    def counted(x: float) -> float:
        steps.append(x)
        return function(x - 0.3)

    root(counted, -2.0, 3.0)
    assert len(steps) < 60
