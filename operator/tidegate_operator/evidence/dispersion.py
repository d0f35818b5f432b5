"""How much more do errors vary between users than chance alone would have it?

Tests that count requests take each for a coin of its own. With sticky users a canary at 5% may
have ten of two hundred users, and one of them who always sends bad input looks like a bad
version: a fifth of all healthy canaries would be rolled back. Sidecars therefore also count by
bucket of users, and ln E is divided by the dispersion, as quasi-likelihood does (McCullagh and
Nelder 1989, "Generalized Linear Models", sec. 4.5; Wedderburn 1974).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def dispersion(*arms: tuple[Floats, Floats]) -> Floats:
    """Variance of the errors of an arm over that of a Poisson count: the largest of the arms'.

    Each arm: requests and errors by bucket along the last axis; axes before it are kept (many
    runs at once). From the scatter of buckets around their own arm's rate, so that a canary that
    fails alike for everybody is not excused; at least 1. The largest, since the canary's few users
    say too little of themselves, and stable's many do not know of an odd one among the canary's::

        phi = B / (B - 1) * sum_b (x_b - n_b x / n)^2 / x
    """
    largest: Floats = np.max([_of_arm(requests, bad) for requests, bad in arms], axis=0)
    return np.maximum(largest, 1.0)


def _of_arm(requests: Floats, bad: Floats) -> Floats:
    n, x = requests.sum(axis=-1, keepdims=True), bad.sum(axis=-1, keepdims=True)
    scatter = bad - requests * (x / np.maximum(n, 1.0))
    buckets = (requests > 0).sum(axis=-1)
    correction = buckets / np.maximum(buckets - 1.0, 1.0)
    found: Floats = correction * (scatter**2).sum(axis=-1) / np.maximum(x[..., 0], 1.0)
    return found
