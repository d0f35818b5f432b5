"""How many requests or users will a decision take? Answers before a test, and while it runs."""

import math

from scipy import special

from tidegate_operator.evidence import means
from tidegate_operator.evidence.roots import root

_MOST = 1e9
"""Units beyond which nobody waits."""


def canary_requests(
    rate: float, ratio: float, canary_share: float, *, level: float = 0.05, power: float = 0.8
) -> int:
    """Canary requests to detect that it errs ``ratio`` times as often as stable's ``rate``.

    One-sided, looked at once (Fleiss, Levin and Paik 2003, "Statistical Methods for Rates and
    Proportions", sec. 4.2). Worked at 1%, a share of 10%: 3,926, 1,280 and 467 for ratios of
    1.5, 2 and 3.
    """
    worse = rate * ratio
    odds = canary_share / (1.0 - canary_share)
    variance = worse * (1.0 - worse) + rate * (1.0 - rate) * odds
    return math.ceil(_reach(level, power) ** 2 * variance / (worse - rate) ** 2 - 1e-9)


def units(
    effect: float,
    variance: float,
    treatment_share: float = 0.5,
    *,
    level: float = 0.05,
    power: float = 0.8,
) -> int:
    """Units of both arms to detect a difference of means. Two-sided, looked at once.

    ``variance``: of one unit. Worked: an effect of 0.3 at variance 100 and power 0.85 takes
    39,904. Reading the interval at any time instead costs (3.035 / 1.96)^2 = 2.4 times as many.
    """
    spread = variance / (treatment_share * (1.0 - treatment_share))
    return math.ceil(_reach(level / 2, power) ** 2 * spread / effect**2 - 1e-9)


def units_at_decision(
    found: means.Effect, seen: float, alpha: float, expected: float, min_effect: float
) -> float | None:
    """Units of both arms at which the interval will decide if the difference stays as it is.

    It decides once it excludes 0, or lies within ``min_effect`` of 0. None: not within a billion.
    """
    if not (seen > 0.0 and 0.0 < found.error < math.inf):
        return None

    def undecided(log_units: float) -> float:
        count = math.exp(log_units)
        half = found.error * math.sqrt(seen / count) * means.boundary(count, alpha, expected)
        return half - max(abs(found.difference), min_effect - abs(found.difference))

    now, most = math.log(seen), math.log(_MOST)
    if undecided(now) <= 0.0:
        return seen
    if now >= most or undecided(most) > 0.0:
        return None
    return math.exp(root(undecided, now, most))


def _reach(level: float, power: float) -> float:
    return float(special.ndtri(1.0 - level) + special.ndtri(power))
