"""Is a share above its bound? A test that may be looked at after every request.

An e-process has expectation at most 1 whenever the bound holds, at every stopping time, so by
Ville's inequality it ever reaches 1/alpha with probability at most alpha: looking often costs
nothing.
"""

import math
from collections.abc import Sequence

from scipy import special

from tidegate_operator.api.canaryrollout import Tally

_LARGEST = 1e300


def share_above(tally: Tally, allowed: float) -> float:
    """E-value against "each request is bad with probability at most ``allowed``".

    One-sample beta-binomial mixture: the likelihood ratio against ``allowed``, averaged over a
    uniform prior of the true share on (allowed, 1]. Every point of that prior is at least as
    unlikely under any smaller share, so the test holds for the whole hypothesis (Robbins 1970,
    "Statistical methods related to the law of the iterated logarithm", sec. 3; Howard et al.
    2021, "Time-uniform, nonparametric, nonasymptotic confidence sequences", sec. 3.2)::

        E = int_{p0}^{1} p^x (1-p)^(n-x) dp / ((1-p0) p0^x (1-p0)^(n-x))

    Worked: 3 bad of 3 at p0 = 0.05 gives 2,105: a version that fails everything is caught at
    once. 5 bad of 100 at p0 = 0.05 gives 0.035, 20 of 100 gives 123,457.
    """
    n, x = tally.requests, min(tally.bad, tally.requests)
    if n == 0:
        return 1.0
    if allowed >= 1.0:
        return 0.0
    if allowed <= 0.0:
        return _LARGEST if x else 1.0
    tail = float(special.betaincc(x + 1, n - x + 1, allowed))
    if tail <= 0.0:
        return 0.0
    log_e = (
        float(special.betaln(x + 1, n - x + 1))
        + math.log(tail)
        - math.log1p(-allowed)
        - x * math.log(allowed)
        - (n - x) * math.log1p(-allowed)
    )
    return min(math.exp(min(log_e, 690.0)), _LARGEST)


def over_steps(tallies: Sequence[Tally], allowed: float, total_steps: int) -> float:
    """E-value of a whole rollout from one tally for each step so far.

    The average over all planned steps s of an e-process that starts with step s (1 before it):
    still an e-process, so the level is spent once for the rollout, and a fault that begins late
    is not hidden behind the good requests of earlier steps.
    """
    steps = max(total_steps, len(tallies), 1)
    total = float(steps - len(tallies))
    since = Tally()
    for tally in reversed(tallies):
        since = since + tally
        total += share_above(since, allowed)
    return min(total / steps, _LARGEST)
