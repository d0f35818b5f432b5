"""Did users arrive in the shares that were asked for? If not, something between loses users.

A sample-ratio mismatch makes every other comparison worthless, so it is tested first, and with a
test that may be looked at always: polling a chi-squared test at p < 0.01 flags 17% of perfect
splits. Units are distinct users; requests of sticky users flag most perfect splits.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float64]

CONCENTRATION = 100.0
"""How near to the asked shares the alternative lies: mismatches are small, of a few percent."""
MISMATCH = 1000.0
"""The E-value from which on the split counts as broken."""


def mismatch(counts: Sequence[float], shares: Sequence[float], count_error: float = 0.0) -> float:
    """E-value against "each unit came to arm i with probability ``shares[i]``".

    Dirichlet-multinomial against multinomial (Lindon and Malek 2022, "Anytime-valid inference for
    multinomial count data", sec. 2). ``count_error``: relative standard error of each count where
    distinct users are estimated (HyperLogLog); the counts then weigh as many as an exact count
    with the same scatter would have.
    """
    if sum(counts) <= 0:
        return 1.0
    seen, asked = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    asked = asked / asked.sum()
    seen = seen / (1.0 + float(seen.sum()) * count_error**2)
    log_e = log_mixture(seen, CONCENTRATION * asked) - log_null(seen, asked)
    return math.exp(min(log_e, 690.0))


def log_mixture(counts: Floats, prior: Floats) -> float:
    """Logarithm of the Dirichlet-multinomial probability. Looks add up if each takes ``prior`` plus
    the counts before it.
    """
    return (
        _log_ways(counts)
        + float((special.gammaln(prior + counts) - special.gammaln(prior)).sum())
        + float(special.gammaln(prior.sum()) - special.gammaln(prior.sum() + counts.sum()))
    )


def log_null(counts: Floats, shares: Floats) -> float:
    """Logarithm of the multinomial probability."""
    return _log_ways(counts) + float(special.xlogy(counts, shares).sum())


def chi_squared_p(counts: Sequence[float], shares: Sequence[float]) -> float:
    """Pearson's test. For display: its p holds for one look only. 1 without any counts."""
    seen, asked = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    expected = asked / asked.sum() * seen.sum()
    if not expected.all():
        return 1.0
    statistic = float(((seen - expected) ** 2 / expected).sum())
    return float(special.chdtrc(len(seen) - 1, statistic))


def _log_ways(counts: Floats) -> float:
    return float(special.gammaln(counts.sum() + 1.0) - special.gammaln(counts + 1.0).sum())
