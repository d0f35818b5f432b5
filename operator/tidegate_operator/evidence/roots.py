"""Where a function of one number crosses zero.

Written out because ``scipy.optimize`` would be there for this alone, and takes 24 MB in memory.
"""

from collections.abc import Callable
from typing import Final

_STEPS: Final = 200


def root(
    function: Callable[[float], float], low: float, high: float, *, tolerance: float = 2e-12
) -> float:
    """Where a continuous function is zero between two points at which its signs differ.

    False position that never keeps one end for long (the Illinois method: Dowell and Jarratt 1971,
    "A modified regula falsi method for computing the root of an equation").

    Raises:
        ValueError: the signs do not differ.
    """
    at_low, at_high = function(low), function(high)
    if at_low == 0.0 or at_high == 0.0:
        return low if at_low == 0.0 else high
    if (at_low > 0.0) == (at_high > 0.0):
        raise ValueError(f"no change of sign from {low} to {high}")
    middle = low
    for _ in range(_STEPS):
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        if not min(low, high) < middle < max(low, high):
            middle = (low + high) / 2.0
        value = function(middle)
        if value == 0.0 or abs(high - low) <= tolerance:
            break
        if (value > 0.0) == (at_high > 0.0):
            high, at_high, at_low = middle, value, at_low / 2.0
        else:
            low, at_low = high, at_high
            high, at_high = middle, value
        if abs(high - low) <= tolerance:
            break
    return middle
