"""Do two arms differ in a mean? An interval that may be read at any time.

Asymptotic confidence sequence (Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas 2024,
"Time-uniform central limit theory and asymptotic confidence sequences", thm. 2.2 and sec. 2.5):
unlike an e-process it holds for large samples only, some 500 units in each arm (1,000 where
values are skewed).

Requests of one user resemble each other, so users are the units. Sidecars add up by bucket of
users (64 for each arm); the variance of a mean then comes from how the buckets scatter around it
(linearised ratio, Cochran 1977, "Sampling Techniques", sec. 6.3; Deng, Knoblich and Lu 2018,
"Applying the delta method in metric analytics", sec. 3), however many requests a user sends.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from tidegate_operator.evidence.interval import Interval

Floats = NDArray[np.float64]

_FEWEST = 2
"""Units, or buckets, below which nothing is known of a variance."""


class Effect(NamedTuple):
    """A difference and its standard error."""

    difference: float
    error: float


@dataclass(frozen=True, slots=True)
class Units:
    """An arm whose units are independent."""

    mean: float
    mean_variance: float

    @classmethod
    def of_values(cls, n: int, total: float, squares: float) -> "Units":
        """From the number of values (at least 2), their sum and the sum of their squares."""
        mean = total / n
        return cls(mean, max(squares - n * mean**2, 0.0) / (n - 1) / n)

    @classmethod
    def of_successes(cls, n: int, successes: int) -> "Units":
        """From trials (at least 1) that succeed or not."""
        share = successes / n
        return cls(share, share * (1.0 - share) / n)


class Buckets:
    """An arm by bucket of users: outcomes, sum of their values, sum of the users' covariate.

    The covariate is added up once for each outcome. Buckets without an outcome are left out.
    """

    def __init__(self, n: ArrayLike, total: ArrayLike, covariate: ArrayLike | None = None) -> None:
        counts = np.asarray(n, dtype=np.float64)
        kept = counts > 0
        self.n: Floats = counts[kept]
        self.total: Floats = np.asarray(total, dtype=np.float64)[kept]
        self.covariate: Floats = (
            np.zeros(len(self.n))
            if covariate is None
            else np.asarray(covariate, dtype=np.float64)[kept]
        )

    @property
    def mean(self) -> float:
        """Mean of an outcome."""
        return float(self.total.sum() / self.n.sum())

    def adjusted(self, theta: float, at: float) -> "Buckets":
        """The same with ``theta`` times the covariate's distance from ``at`` taken off."""
        return Buckets(self.n, self.total - theta * (self.covariate - at * self.n))

    @property
    def mean_variance(self) -> float:
        """Variance of the mean; infinite below two buckets."""
        count = len(self.n)
        if count < _FEWEST:
            return math.inf
        scatter = float((_scatter(self.n, self.total) ** 2).sum())
        return scatter * count / (count - 1) / float(self.n.sum()) ** 2


def effect(control: Units | Buckets, treatment: Units | Buckets) -> Effect:
    """Treatment minus control."""
    variance = control.mean_variance + treatment.mean_variance
    return Effect(treatment.mean - control.mean, math.sqrt(variance))


def lift(control: Units | Buckets, treatment: Units | Buckets) -> Effect:
    """Treatment minus control in units of control's mean (delta method).

    Raises ZeroDivisionError where control's mean is 0.
    """
    base = control.mean
    ratio = treatment.mean / base
    variance = (treatment.mean_variance + control.mean_variance * ratio**2) / base**2
    return Effect(ratio - 1.0, math.sqrt(variance))


def cuped(control: Buckets, treatment: Buckets) -> tuple[Buckets, Buckets]:
    """Both arms with what the covariate foretells taken off: the same difference, less variance.

    theta is the pooled regression of the buckets' scatter in the outcome on that in the covariate
    (Deng, Xu, Kohavi and Walker 2013, "Improving the sensitivity of online controlled experiments
    by utilizing pre-experiment data", sec. 3), so that buckets of n, sum and covariate suffice.
    """
    arms = (control, treatment)
    outcomes = np.concatenate([_scatter(arm.n, arm.total) for arm in arms])
    foretold = np.concatenate([_scatter(arm.n, arm.covariate) for arm in arms])
    spread = float(foretold @ foretold)
    theta = float(outcomes @ foretold) / spread if spread > 0.0 else 0.0
    foretold_in_all = sum(float(arm.covariate.sum()) for arm in arms)
    centre = foretold_in_all / sum(float(arm.n.sum()) for arm in arms)
    return control.adjusted(theta, centre), treatment.adjusted(theta, centre)


def interval(found: Effect, units: float, alpha: float, expected: float = 5000.0) -> Interval:
    """The differences that are not excluded at level ``alpha`` at all looks together.

    ``units``: independent units (distinct users) of both arms. The interval is narrowest, for
    what is known by then, at ``expected`` units; it must be fixed before the first look::

        difference +- error * sqrt(2 (N rho^2 + 1) / (N rho^2) * ln(sqrt(N rho^2 + 1) / alpha))
    """
    if units < _FEWEST or not math.isfinite(found.error):
        return Interval(-math.inf, math.inf)
    half = found.error * boundary(units, alpha, expected)
    return Interval(found.difference - half, found.difference + half)


def boundary(units: float, alpha: float, expected: float = 5000.0) -> float:
    """Standard errors on each side: 3.035 at ``expected`` units and level 0.05, for 1.96 of a
    test that is looked at once.
    """
    information = units * _tuned(alpha, expected)
    odds = (information + 1.0) / information
    return math.sqrt(2.0 * odds * (math.log1p(information) / 2.0 - math.log(alpha)))


def p_value(found: Effect, units: float, alpha: float, expected: float = 5000.0) -> float:
    """The level at which the interval just excludes no difference.

    Always valid: its least value over all looks so far may be reported as p (Johari, Koomen,
    Pekelis and Walsh 2022, "Always valid inference", sec. 3). ``alpha`` only tunes, as in
    ``interval``: there the difference is excluded where p is below it.
    """
    if units < _FEWEST or not math.isfinite(found.error):
        return 1.0
    if found.error == 0.0:
        return float(found.difference == 0.0)
    information = units * _tuned(alpha, expected)
    square = (found.difference / found.error) ** 2
    log_p = math.log1p(information) / 2.0 - square * information / (2.0 * (information + 1.0))
    return math.exp(min(log_p, 0.0))


def few_buckets(found: Effect, buckets: int, alpha: float, units: float, expected: float) -> Effect:
    """The effect with its error stretched for a variance that is itself known from few buckets.

    The factor by which Student's t (``buckets`` less one for each arm) reaches further than the
    normal distribution at the boundary's own tail.
    """
    freedom = buckets - 2
    if freedom < 1:
        return Effect(found.difference, math.inf)
    reach = boundary(units, alpha, expected)
    tail = float(special.ndtr(-reach))
    return Effect(found.difference, found.error * -float(special.stdtrit(freedom, tail)) / reach)


def _tuned(alpha: float, expected: float) -> float:
    """rho^2 that makes the boundary narrowest at ``expected`` units."""
    log_alpha = math.log(alpha)
    return (-2.0 * log_alpha + math.log1p(-2.0 * log_alpha)) / expected


def _scatter(n: Floats, total: Floats) -> Floats:
    """How far each bucket's sum lies from what the arm's mean foretells."""
    distance: Floats = total - n * (total.sum() / n.sum())
    return distance
