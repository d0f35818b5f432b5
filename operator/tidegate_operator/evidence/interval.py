"""What a shown interval is."""

from typing import NamedTuple


class Interval(NamedTuple):
    """Values that are not excluded; either end may be infinite."""

    low: float
    high: float
