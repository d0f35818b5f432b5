"""Quantiles of a histogram's cumulative counts, as Prometheus interpolates them."""

import math
from collections.abc import Sequence

LEAST = 100
"""Observations below which a quantile is taken as unknown."""


def quantile(buckets: Sequence[tuple[float, float]], q: float) -> float | None:
    """The value that the share ``q`` stays within, interpolated linearly within its bucket.

    ``buckets``: (upper bound, count up to it), ascending, the last bound infinite. None where
    there are too few observations, or the value lies beyond the last finite bound.
    """
    total = buckets[-1][1] if buckets else 0.0
    if total < LEAST:
        return None
    rank, low, below = q * total, 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if math.isinf(bound):
                return None
            return low + (bound - low) * (rank - below) / max(count - below, 1e-12)
        low, below = bound, count
    return None
