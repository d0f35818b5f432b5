"""Is a share above its bound? A test that may be looked at after every request.

An e-process has expectation at most 1 whenever the bound holds, at every stopping time, so by
Ville's inequality it ever reaches 1/alpha with probability at most alpha: looking often costs
nothing.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from tidegate_operator.api.canaryrollout import Tally
from tidegate_operator.evidence.interval import Interval
from tidegate_operator.evidence.ratio import DELTAS
from tidegate_operator.evidence.roots import root

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


def share_below(tally: Tally, allowed: float) -> float:
    """E-value against "each request is bad with probability at least ``allowed``".

    Average over the alternatives ``allowed * exp(-delta_j)`` of the Poisson likelihood ratio, with
    the deltas of ``ratio``; conservative for single requests, since ``1 + u <= e^u``. Without a
    single bad request it reaches 20 after 386 requests at 1%, after 3,856 at 0.1%.
    """
    x = min(tally.bad, tally.requests)
    logs = tally.requests * allowed * -np.expm1(-DELTAS) - x * DELTAS
    largest = float(logs.max())
    log_e = largest + math.log(float(np.exp(logs - largest).mean()))
    return min(math.exp(min(log_e, 690.0)), _LARGEST)


def share_interval(tally: Tally, alpha: float, expected: int = 1000) -> Interval:
    """The shares that are not excluded at level ``alpha`` at all looks together.

    Two-sided beta-binomial mixture around each share (Howard et al. 2021, "Time-uniform,
    nonparametric, nonasymptotic confidence sequences", sec. 3.2), narrowest at ``expected``
    requests. Worked: 700 of 1,000, narrowest at 100, gives 0.6516 to 0.7459.
    """
    n, x = tally.requests, min(tally.bad, tally.requests)
    if n == 0:
        return Interval(0.0, 1.0)
    log_alpha = math.log(alpha)
    tuned = expected / (-2.0 * log_alpha + math.log1p(-2.0 * log_alpha)) - 1.0
    prior = max(tuned, 1e-3)

    def excluded(p: float) -> float:
        ones, zeros = prior * p, prior * (1.0 - p)
        mixture = special.betaln(ones + x, zeros + n - x) - special.betaln(ones, zeros)
        return float(mixture - special.xlogy(x, p) - special.xlog1py(n - x, -p)) + log_alpha

    edge = 1e-12
    middle = min(max(x / n, edge), 1.0 - edge)
    low = root(excluded, edge, middle) if x and excluded(edge) > 0 else 0.0
    high = 1.0
    if x < n and excluded(1.0 - edge) > 0:
        high = root(excluded, middle, 1.0 - edge)
    return Interval(float(low), float(high))


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
