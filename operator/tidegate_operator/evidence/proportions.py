"""Does one arm fail more often than the other, by more than an allowed difference of shares?

For shares above about 5%, where the ratio's test (``ratio``) stays valid but loses power, and for
every question that is put as a difference: an excess of errors over control, disagreement of
shadow pairs beyond that of stable with itself.

In each look a bet is placed on shares estimated from EARLIER looks only; the E-value is the
likelihood of the look under them, over that under the pair of allowed shares which is nearest (in
Kullback-Leibler divergence, weighted by the look's requests). Where the allowed pairs form a
convex set, as ``first <= second + excess`` does, that is an E-value under all of them (Turner, Ly
and Gruenwald 2024, "Generic E-variables for exact sequential k-sample tests that allow for
optional stopping", sec. 2; Turner and Gruenwald 2023, "Exact anytime-valid confidence intervals
for contingency tables and beyond", thm. 1): ln E's expectation is concave in the shares, 0 at the
nearest pair, and does not rise from there towards any other allowed one. Without an excess the
nearest pair is the pooled share, twice.
"""

import math

import msgspec
from scipy import special

from tidegate_operator.api.canaryrollout import Tally
from tidegate_operator.api.meta import Wire
from tidegate_operator.evidence.roots import root

_PRIOR = 0.18
"""Good and bad requests that each arm is credited with before any are seen (Turner et al.)."""
_LARGEST = 1e300
_TINY = 1e-12


class ExcessEvidence(Wire, frozen=True, kw_only=True):
    """All that is remembered: ln E, and both tallies, on which the next bet rests."""

    log_e: float = 0.0
    first: Tally = Tally()
    second: Tally = Tally()


def observe(
    state: ExcessEvidence, first: Tally, second: Tally, *, excess: float = 0.0
) -> ExcessEvidence:
    """Take in one look at both arms. ``excess``: the difference of shares that is allowed.

    Raises ValueError for an excess outside of [0, 1).
    """
    if not 0.0 <= excess < 1.0:
        raise ValueError(f"an excess of {excess:g} is outside of [0, 1)")
    expected = _estimate(state.first), _estimate(state.second)
    nearest = _nearest(expected, first.requests, second.requests, excess)
    log_e = _log_odds(first, expected[0], nearest[0]) + _log_odds(second, expected[1], nearest[1])
    return msgspec.structs.replace(
        state, log_e=state.log_e + log_e, first=state.first + first, second=state.second + second
    )


def above(state: ExcessEvidence, dispersion: float = 1.0) -> float:
    """E-value against "the first share exceeds the second by at most ``excess``"."""
    return math.exp(min(state.log_e / dispersion, math.log(_LARGEST)))


def excess_above(first: Tally, second: Tally, excess: float) -> float:
    """The same question answered from totals alone, whatever the order in which they came.

    Universal inference (Wasserman, Ramdas and Balakrishnan 2020, sec. 7): the likelihood averaged
    over Beta(1/2, 1/2) of both shares, over the largest that any allowed pair has. The true pair's
    is no larger, so this never exceeds that likelihood ratio, whose expectation is 1.
    Raises ValueError for an excess outside of [0, 1).
    """
    if not 0.0 <= excess < 1.0:
        raise ValueError(f"an excess of {excess:g} is outside of [0, 1)")
    one, other = _largest(first, second, excess)
    log_e = _log_mixture(first) + _log_mixture(second)
    log_e -= _log_likelihood(first, one) + _log_likelihood(second, other)
    return math.exp(min(log_e, math.log(_LARGEST)))


def _largest(first: Tally, second: Tally, excess: float) -> tuple[float, float]:
    """The allowed shares under which these totals are likeliest."""
    one = min(first.bad / first.requests, 1.0) if first.requests else 0.0
    other = min(second.bad / second.requests, 1.0) if second.requests else 1.0
    if one <= other + excess:
        return one, other

    def slope(share: float) -> float:
        moved = share + excess
        return first.requests * (moved - one) / (moved * (1.0 - moved)) + second.requests * (
            share - other
        ) / (share * (1.0 - share))

    low, high = max(other, _TINY), min(one, 1.0 - _TINY) - excess
    if high <= low or slope(low) >= 0.0:
        share = low
    else:
        share = root(slope, low, high) if slope(high) > 0.0 else high
    return share + excess, share


def _log_mixture(seen: Tally) -> float:
    bad = min(seen.bad, seen.requests)
    return float(special.betaln(bad + 0.5, seen.requests - bad + 0.5)) - math.log(math.pi)


def _log_likelihood(seen: Tally, share: float) -> float:
    bad = min(seen.bad, seen.requests)
    return float(special.xlogy(bad, share) + special.xlog1py(seen.requests - bad, -share))


def _estimate(seen: Tally) -> float:
    return (min(seen.bad, seen.requests) + _PRIOR) / (seen.requests + 2 * _PRIOR)


def _nearest(
    expected: tuple[float, float], first: int, second: int, excess: float
) -> tuple[float, float]:
    """The allowed shares that this many requests tell least from the expected ones."""
    one, other = expected
    if one <= other + excess or not (first and second):
        return expected
    if not excess:
        pooled = (first * one + second * other) / (first + second)
        return pooled, pooled

    def slope(share: float) -> float:
        moved = share + excess
        return first * (moved - one) / (moved * (1.0 - moved)) + second * (share - other) / (
            share * (1.0 - share)
        )

    share = root(slope, other, one - excess, tolerance=1e-15)
    return share + excess, share


def _log_odds(seen: Tally, expected: float, allowed: float) -> float:
    bad = min(seen.bad, seen.requests)
    return bad * math.log(expected / allowed) + (seen.requests - bad) * (
        math.log1p(-expected) - math.log1p(-allowed)
    )
