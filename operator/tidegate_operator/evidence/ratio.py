"""How many times as often does the canary err as stable does? A test that may be looked at always.

Each stratum (one pod, one priority, one poll) is compared within itself, so that neither a share
that grows nor an error rate that drifts can look like a difference. Of K errors in a stratum in
which the canary had the share rho of the requests, each is the canary's with probability
``rho r / (1 + rho (r - 1))`` if it errs r times as often. Against "r is at most r0", for any
delta > 0,

    M(delta) = prod exp(delta x_c) * [(1 + rho (r0 - 1)) / (1 + rho (r0 e^delta - 1))]^K

is a test supermartingale: exactly a martingale at r = r0 for Poisson counts, and below one for
Bernoulli trials whatever their rate, because in ``E M = prod (1 + r0 p (theta_c - 1))^n_c *
(1 + p (theta_s - 1))^n_s`` (theta: each arm's factor for an error) ``1 + u <= e^u`` turns each
factor into the Poisson one. By Ville's inequality it ever reaches 1/alpha with probability at
most alpha. Averages over delta, and over the moment at which M starts, keep that property.

Sources: conditional binomial test of two Poisson rates (Przyborowski and Wilenski 1940); method
of mixtures (Robbins 1970); a mixture over the change point (Shin, Ramdas and Rinaldo 2024,
"E-detectors", sec. 2, here with weights that sum to at most one, so that the level holds for the
whole rollout and not only on average between alarms).
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from tidegate_operator.api.meta import Wire
from tidegate_operator.evidence.interval import Interval

Floats = NDArray[np.float64]

DELTAS: Floats = np.linspace(math.log(1.05), math.log(20.0), 32)
"""Log of how many times more (or less) than the bound: the alternatives that are averaged."""
AT_ONCE = 0.4
"""Probability that is given to "bad from the first look on"."""
RESERVE = 0.3
"""Probability that is never given away: healthy canaries then raise fewer alarms than the level
allows (at 0.1% errors 1.5% in place of 1.9% over 300 looks at 5%), for a look in detection."""

_LATER: Floats = -(((DELTAS - math.log(4.0)) / 0.7) ** 2) / 2
_LATER -= math.log(float(np.exp(_LATER).mean()))
"""Log of the weights of the alternatives for a fault that begins late: around fourfold. Small
ones need many looks, over which many starts add up; only for large ones does each look count."""
_LARGEST = 1e300
_REACH = 5.0
"""Ratios from exp(-5) to exp(5) are told apart."""
_NODES = 32
_FINE = 1001


class Stratum(NamedTuple):
    """Requests and errors of both arms in one pod, one priority and one poll."""

    canary: int
    canary_bad: int
    stable: int
    stable_bad: int


class RatioEvidence(Wire, frozen=True, kw_only=True):
    """All that is remembered of the strata so far, below 1 KB of JSON.

    ``harm``: for the whole rollout, ln of the evidence at each of ``DELTAS`` (float64, base64);
    ``looks`` at it so far; ``waiting``: probability not yet given to a moment at which the fault
    began. ``canary_bad``, ``bad``, ``exponent``: of this step, the canary's errors, those of both
    arms, and the sum of ``K ln(1 + rho (psi - 1))`` at the nodes in ln psi, from which the
    likelihood of any ratio follows.
    """

    harm: str = ""
    looks: int = 0
    waiting: float = 1.0
    canary_bad: int = 0
    bad: int = 0
    exponent: str = ""


def observe(
    state: RatioEvidence,
    strata: Sequence[Stratum],
    *,
    max_ratio: float,
    planned_looks: int,
    gap: bool = False,
) -> RatioEvidence:
    """Take in the strata of one look.

    ``max_ratio`` is the ratio that is still allowed. ``planned_looks``, of the whole rollout,
    only says where power is wanted: the level holds whatever it is, also if it changes midway.
    A ``gap`` counts for harm only, not for the step.
    """
    if not strata:
        return state
    counts = _counts(strata)
    starting = begins_now(state.looks, state.waiting, planned_looks)
    before = unpack(state.harm) if state.harm else np.full(len(DELTAS), -np.inf)
    after = grow(before, starting, state.looks, increment(counts, max_ratio))
    state = msgspec.structs.replace(
        state, harm=pack(after), looks=state.looks + 1, waiting=state.waiting - starting
    )
    if gap:
        return state
    exponent = _exponent(counts, _psi())
    if state.exponent:
        exponent += unpack(state.exponent)
    return msgspec.structs.replace(
        state,
        canary_bad=state.canary_bad + int(counts[1].sum()),
        bad=state.bad + int(counts[1].sum() + counts[3].sum()),
        exponent=pack(exponent),
    )


def new_step(state: RatioEvidence) -> RatioEvidence:
    """The same evidence of harm; what speaks for passing is gathered anew."""
    return RatioEvidence(harm=state.harm, looks=state.looks, waiting=state.waiting)


def harm(state: RatioEvidence, dispersion: float = 1.0) -> float:
    """E-value against "the canary never erred more than ``max_ratio`` times as often".

    Harm is shown once it reaches 1/alpha. ``dispersion`` (at least 1) divides ln E where users
    stick to their arm and requests of one user resemble each other.
    """
    if not state.harm:
        return 1.0
    log_e = float(total(unpack(state.harm), state.waiting))
    return math.exp(min(log_e / dispersion, math.log(_LARGEST)))


def not_worse(state: RatioEvidence, ratio: float, dispersion: float = 1.0) -> float:
    """E-value of this step against "the canary errs at least ``ratio`` times as often".

    Non-inferiority at ``ratio`` is proven once it reaches 1/alpha; at 1 the canary is better.
    Raises ValueError for a ratio outside of 0.14 to 148, which the checkpoint cannot tell.
    """
    if not state.bad:
        return 1.0
    logs = _not_worse_matrix(ratio) @ unpack(state.exponent) - state.canary_bad * DELTAS
    log_e = float(_log_mean_exp(logs)) / dispersion
    return math.exp(min(log_e, math.log(_LARGEST)))


def estimate(state: RatioEvidence) -> float | None:
    """The ratio under which this step's errors are likeliest; None while there are none.

    Unlike the ratio of the pooled rates it is not misled by shares that change.
    """
    if not state.bad:
        return None
    if state.canary_bad in (0, state.bad):
        return math.inf if state.canary_bad else 0.0
    grid, likelihood = _likelihood(state)
    return math.exp(float(grid[int(likelihood.argmax())]))


def interval(state: RatioEvidence, alpha: float, dispersion: float = 1.0) -> Interval:
    """The ratios that this step's errors do not exclude, at level ``alpha`` at all looks together.

    A ratio is excluded once its likelihood falls below ``alpha`` times the average over a fixed
    normal distribution of ln ratio (mean 0, deviation 1): by Ville the true one ever is with
    probability at most alpha.
    """
    if not state.bad:
        return Interval(0.0, math.inf)
    grid, likelihood = _likelihood(state)
    prior = -grid * grid / 2 + math.log(float(grid[1] - grid[0]) / math.sqrt(2 * math.pi))
    average = float(_log_sum_exp(likelihood + prior))
    kept = np.flatnonzero((average - likelihood) / dispersion < -math.log(alpha))
    if not len(kept):
        kept = np.array([int(likelihood.argmax())])
    first, last = max(int(kept[0]) - 1, 0), min(int(kept[-1]) + 1, len(grid) - 1)
    low = 0.0 if grid[first] <= -_REACH else math.exp(float(grid[first]))
    high = math.inf if grid[last] >= _REACH else math.exp(float(grid[last]))
    return Interval(low, high)


def begins_now(looks: int, waiting: float, planned_looks: int) -> float:
    """Probability, out of what waits, of a fault that begins after ``looks``.

    Nearly even over the first half of the plan; then it falls so slowly (1/t^2) that a rollout
    which is held for weeks is not blind either.
    """
    return (waiting - RESERVE) / max(planned_looks / 2, looks + 1.0) if looks else AT_ONCE


def grow(harm: Floats, starting: float, looks: int, by: Floats) -> Floats:
    """``harm`` after one more look: what was there, and what starts now, times M of the look."""
    prior = _LATER if looks else 0.0
    grown: Floats = np.logaddexp(harm, math.log(starting) + prior) + by
    return grown


def increment(counts: Floats, max_ratio: float) -> Floats:
    """The logarithm of M at each of ``DELTAS`` for one look.

    ``counts``: requests and errors of the canary, then of stable, along the first axis; strata
    along the last; what lies between is kept (many runs at once in simulations).
    """
    canary, canary_bad, stable, stable_bad = counts
    share = (canary / np.maximum(canary + stable, 1.0))[..., None]
    bad = (canary_bad + stable_bad)[..., None]
    grown = np.log1p(share * (max_ratio * np.exp(DELTAS) - 1.0))
    allowed = np.log1p(share * (max_ratio - 1.0))
    logs: Floats = canary_bad[..., None] * DELTAS - bad * (grown - allowed)
    summed: Floats = logs.sum(axis=-2)
    return summed


def total(harm: Floats, waiting: float | Floats) -> Floats:
    """The logarithm of E: the average over ``DELTAS``, plus what waits, which keeps its worth."""
    return np.logaddexp(_log_mean_exp(harm), np.log(waiting))


def at_least(strata: Sequence[Stratum], ratio: float) -> float:
    """E-value of one batch of strata against "r is at most ``ratio``", all mass at the start.

    Worked at a share of 0.1 and ratio 1: 20 errors of 120 give 2.485, 40 of 200 give 1,049.8,
    4 of 4 give 474.0.
    """
    return math.exp(float(_log_mean_exp(increment(_counts(strata), ratio))))


def pack(values: Floats) -> str:
    """Numbers as a checkpoint holds them: base64 of little-endian float64."""
    return b64encode(values.astype("<f8").tobytes()).decode()


def unpack(text: str) -> Floats:
    """The numbers again."""
    return np.frombuffer(b64decode(text), dtype="<f8").astype(np.float64)


def _counts(strata: Sequence[Stratum]) -> Floats:
    counts = np.array(strata, dtype=np.float64).T
    # A hung version's requests count as bad before they count as finished.
    counts[1::2] = np.minimum(counts[1::2], counts[0::2])
    return counts


def _exponent(counts: Floats, psi: Floats) -> Floats:
    canary, canary_bad, stable, stable_bad = counts[:, :, None]
    share = canary / np.maximum(canary + stable, 1.0)
    summed: Floats = ((canary_bad + stable_bad) * np.log1p(share * (psi - 1.0))).sum(axis=0)
    return summed


def _likelihood(state: RatioEvidence) -> tuple[Floats, Floats]:
    """A grid of ln ratio that is fine enough for this likelihood, and ln of it there."""
    values = unpack(state.exponent)
    grid = np.linspace(-_REACH, _REACH, _FINE)
    likelihood = state.canary_bad * grid - _fine_matrix() @ values
    best = int(likelihood.argmax())
    if best in {0, _FINE - 1}:
        return grid, likelihood
    step = float(grid[1] - grid[0])
    bend = float(2 * likelihood[best] - likelihood[best - 1] - likelihood[best + 1]) / step**2
    width = 12.0 / math.sqrt(max(bend, 1e-9))
    if width > 60 * step:
        return grid, likelihood
    near = np.linspace(max(grid[best] - width, -_REACH), min(grid[best] + width, _REACH), _FINE)
    return near, state.canary_bad * near - _interpolation(near) @ values


@lru_cache(maxsize=1)
def _psi() -> Floats:
    return np.exp(_REACH * chebyshev.chebpts1(_NODES))


@lru_cache(maxsize=1)
def _fine_matrix() -> Floats:
    return _interpolation(np.linspace(-_REACH, _REACH, _FINE))


@lru_cache(maxsize=64)
def _not_worse_matrix(ratio: float) -> Floats:
    """From the exponent at the nodes to its fall from ``ratio`` to each smaller one."""
    at = math.log(ratio) if ratio > 0 else -math.inf
    if not -_REACH <= at - DELTAS[-1] < at <= _REACH:
        raise ValueError(f"a ratio of {ratio:g} is outside of 0.14 to 148")
    matrix: Floats = _interpolation(np.array([at])) - _interpolation(at - DELTAS)
    return matrix


def _interpolation(log_psi: Floats) -> Floats:
    """Takes values at the nodes to those at ``log_psi``: Chebyshev interpolation.

    The exponent is analytic but for points whose imaginary part is at least pi, so that 32 nodes
    leave a relative error below 1e-8.
    """
    nodes = chebyshev.chebpts1(_NODES)
    coefficients = chebyshev.chebvander(nodes, _NODES - 1).T * (2.0 / _NODES)
    coefficients[0] /= 2.0
    matrix: Floats = chebyshev.chebvander(log_psi / _REACH, _NODES - 1) @ coefficients
    return matrix


def _log_sum_exp(logs: Floats) -> Floats:
    largest = logs.max(axis=-1)
    summed: Floats = largest + np.log(np.exp(logs - largest[..., None]).sum(axis=-1))
    return summed


def _log_mean_exp(logs: Floats) -> Floats:
    mean: Floats = _log_sum_exp(logs) - math.log(logs.shape[-1])
    return mean
