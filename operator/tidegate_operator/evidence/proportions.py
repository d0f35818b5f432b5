"""Does one arm fail more often than the other, by more than an allowed difference of shares?

For every question that is put as a difference: an excess of errors over control, disagreement of
shadow pairs beyond that of stable with itself.

In each look a bet is placed on a pair of shares that is not allowed: the second arm's as EARLIER
looks estimate it, the first one's at ``e^delta`` times the odds of the highest that is allowed
beside it. The E-value M(delta) is the likelihood of the look under that pair, over that under the
allowed pair which is nearest (in Kullback-Leibler divergence, weighted by the look's requests).
Where the allowed pairs form a convex set, as ``first <= second + excess`` does, that is an E-value
under all of them (Turner, Ly and Gruenwald 2024, "Generic E-variables for exact sequential k-sample
tests that allow for optional stopping", sec. 2; Turner and Gruenwald 2023, "Exact anytime-valid
confidence intervals for contingency tables and beyond", thm. 1): ln E's expectation is concave in
the shares, 0 at the nearest pair, and does not rise from there towards any other allowed one.

Averages over delta, and over the look at which M starts, keep that property: what went well before
a fault began does not hide it. Both averages are those of ``ratio``, for the same reasons.
"""

import math

import numpy as np

from tidegate_operator.api.meta import Wire
from tidegate_operator.evidence.ratio import DELTAS, Floats, begins_now, grow, pack, total, unpack
from tidegate_operator.evidence.tally import Tally

_PRIOR = 0.18
"""Good and bad requests that the second arm is credited with before any are seen (Turner et al.)"""
_LARGEST = 1e300
_HALVINGS = 50


class ExcessEvidence(Wire, frozen=True, kw_only=True):
    """All that is remembered: ``harm``, ln of the evidence at each of ``DELTAS`` (float64, base64);
    ``looks`` at it so far; ``waiting``: probability not yet given to a moment at which the fault
    began; ``first`` and ``second``: both tallies; ``lately``: the first one's since the excess was
    last within its bound, for people. A state without ``harm`` that has tallies is an older
    operator's: its evidence begins with the next look.
    """

    harm: str = ""
    looks: int = 0
    waiting: float = 1.0
    first: Tally = Tally()
    second: Tally = Tally()
    lately: Tally = Tally()


def observe(
    state: ExcessEvidence, first: Tally, second: Tally, *, excess: float, planned_looks: int
) -> ExcessEvidence:
    """Take in one look at both arms. ``excess``: the difference of shares that is allowed.

    ``planned_looks``, of the whole rollout or test, only says where power is wanted: the level
    holds whatever it is. A look without requests of both arms tells nothing, neither does the
    first: on what should it bet? Raises ValueError for an excess outside of [0, 1).
    """
    if not 0.0 <= excess < 1.0:
        raise ValueError(f"an excess of {excess:g} is outside of [0, 1)")
    harm, looks, waiting = state.harm, state.looks, state.waiting
    if first.requests and second.requests and state.second.requests:
        starting = begins_now(looks, waiting, planned_looks)
        before = unpack(harm) if harm else np.full(len(DELTAS), -np.inf)
        expected = np.asarray(expectation(state.second.requests, state.second.bad))
        by = increment(_counts(first), _counts(second), expected, excess)
        harm = pack(grow(before, starting, looks, by))
        looks, waiting = looks + 1, waiting - starting
    both = state.second + second
    lately = state.lately + first
    within = lately.bad <= ((both.rate or 0.0) + excess) * lately.requests
    return ExcessEvidence(
        harm=harm,
        looks=looks,
        waiting=waiting,
        first=state.first + first,
        second=both,
        lately=Tally() if within else lately,
    )


def above(state: ExcessEvidence, dispersion: float = 1.0) -> float:
    """E-value against "at no time did the first share exceed the second by more than ``excess``".

    ``dispersion`` (at least 1) divides ln E where users stick to their arm and requests of one
    user resemble each other.
    """
    if not state.harm:
        return 1.0
    log_e = float(total(unpack(state.harm), state.waiting))
    return math.exp(min(log_e / dispersion, math.log(_LARGEST)))


def expectation(requests: int | Floats, bad: int | Floats) -> float | Floats:
    """The share of bad requests that the next look is expected to have."""
    return (np.minimum(bad, requests) + _PRIOR) / (np.asarray(requests, float) + 2 * _PRIOR)


def increment(
    first: tuple[Floats, Floats], second: tuple[Floats, Floats], expected: Floats, excess: float
) -> Floats:
    """The logarithm of M at each of ``DELTAS`` for one look; axes of the counts come first.

    ``first`` and ``second``: requests and bad ones of each arm; ``expected``: the second's share.
    """
    highest = expected[..., None] + excess
    if not excess < 1.0 - float(expected.max()):  # whatever the first arm does is allowed
        return np.zeros((*expected.shape, len(DELTAS)))
    odds = np.exp(DELTAS) * highest / (1.0 - highest)
    shares = odds / (1.0 + odds), np.broadcast_to(expected[..., None], odds.shape)
    nearest = _nearest(shares, first[0][..., None], second[0][..., None], excess)
    return sum(
        (
            bad[..., None] * np.log(share / allowed)
            + (requests - bad)[..., None] * (np.log1p(-share) - np.log1p(-allowed))
            for (requests, bad), share, allowed in zip(
                (first, second), shares, nearest, strict=True
            )
        ),
        start=np.zeros(odds.shape),
    )


def _nearest(
    shares: tuple[Floats, Floats], first: Floats, second: Floats, excess: float
) -> tuple[Floats, Floats]:
    """The allowed shares that this many requests tell least from the expected ones: where the
    divergence's slope along ``first = second + excess`` is zero.
    """
    one, other = shares
    if not excess:
        pooled = (first * one + second * other) / (first + second)
        return pooled, pooled
    low, high = other, one - excess
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        moved = middle + excess
        rises = first * (moved - one) * middle * (1.0 - middle) > second * (other - middle) * (
            moved * (1.0 - moved)
        )
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    share = (low + high) / 2.0
    return share + excess, share


def _counts(seen: Tally) -> tuple[Floats, Floats]:
    return np.asarray(float(seen.requests)), np.asarray(float(min(seen.bad, seen.requests)))
