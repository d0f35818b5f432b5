"""Intervals of shares: worked cases, and their level under the null."""

import math

import numpy as np
import pytest

from tidegate_operator.evidence.share_interval import share_interval
from tidegate_operator.evidence.tally import Tally


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
