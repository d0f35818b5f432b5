"""Is a share of bad requests above its bound, now or since some moment? May be looked at always.

Where each request is bad with probability p, x bad ones of n speak for the odds ``e^delta`` times
those of the bound p0, against p0 itself, by the likelihood ratio

    M(delta) = e^(delta x) / (1 + p0 (e^delta - 1))^n

whose expectation is 1 at p = p0 and below it for smaller ones. By Ville's inequality it ever
reaches 1/alpha with probability at most alpha. Averages over delta, and over the look at which M
starts, keep that property: what went well before a fault began does not hide it. Both averages are
those of ``ratio``, for the same reasons and at the same cost: one vector of 32 numbers.

Sources: method of mixtures (Robbins 1970, "Statistical methods related to the law of the iterated
logarithm", sec. 3); a mixture over the change point (Shin, Ramdas and Rinaldo 2024, "E-detectors",
sec. 2).
"""

import math

import numpy as np

from tidegate_operator.api.meta import Wire
from tidegate_operator.evidence.ratio import (
    DELTAS,
    Floats,
    begins_now,
    grow,
    pack,
    total,
    unpack,
)

_LARGEST = 1e300


class ShareEvidence(Wire, frozen=True, kw_only=True):
    """All that is remembered, of the whole rollout: ``harm``, ln of the evidence at each of
    ``DELTAS`` (float64, base64); ``looks`` at it so far; ``waiting``: probability not yet given to
    a moment at which the fault began. ``requests``, ``bad``: since the share was last within the
    bound, for people.
    """

    harm: str = ""
    looks: int = 0
    waiting: float = 1.0
    requests: int = 0
    bad: int = 0


def observe(
    state: ShareEvidence, requests: int, bad: int, *, allowed: float, planned_looks: int
) -> ShareEvidence:
    """Take in one look.

    ``planned_looks``, of the whole rollout, only says where power is wanted: the level holds
    whatever it is.
    """
    if not requests:
        return state
    bad = min(bad, requests)
    starting = begins_now(state.looks, state.waiting, planned_looks)
    before = unpack(state.harm) if state.harm else np.full(len(DELTAS), -np.inf)
    after = grow(before, starting, state.looks, increment(requests, bad, allowed))
    lately, bad_lately = state.requests + requests, state.bad + bad
    within = bad_lately <= allowed * lately
    return ShareEvidence(
        harm=pack(after),
        looks=state.looks + 1,
        waiting=state.waiting - starting,
        requests=0 if within else lately,
        bad=0 if within else bad_lately,
    )


def above(state: ShareEvidence, dispersion: float = 1.0) -> float:
    """E-value against "at no time was the share above the bound".

    ``dispersion`` (at least 1) divides ln E where users stick to their arm and requests of one
    user resemble each other.
    """
    if not state.harm:
        return 1.0
    log_e = float(total(unpack(state.harm), state.waiting))
    return math.exp(min(log_e / dispersion, math.log(_LARGEST)))


def increment(requests: int | Floats, bad: int | Floats, allowed: float) -> Floats:
    """The logarithm of M at each of ``DELTAS`` for one look; axes of the counts come first.

    Worked: 3 bad of 3 at a bound of 0.05 give 7.0 at the largest of them.
    """
    n, x = np.asarray(requests, float)[..., None], np.asarray(bad, float)[..., None]
    if allowed <= 0.0:  # a single bad one cannot be
        return np.where(x > 0.0, math.log(_LARGEST), np.zeros(len(DELTAS)))
    logs: Floats = x * DELTAS - n * np.log1p(allowed * np.expm1(DELTAS))
    return logs
