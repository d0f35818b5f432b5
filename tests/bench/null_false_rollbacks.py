"""Healthy canaries that are rolled back although nothing is wrong, with a look after every poll.

The configuration is that of `canaries`. constant: equal error rates. ramp: the share goes from 5
over 20 to 50% while the error rate of both triples. latency: the canary is exactly as much slower
than stable as it may be (1.5 times, lognormal), by the shifted bound. paired: which of two equal
versions is right alone, by McNemar's test; disagreement: pairs that disagree exactly as often as
allowed, alone and beyond stable's disagreement with itself. clustered: sticky users with lognormal
activity and error rates of their own (coefficient of variation 1), a canary of 5 and of 10% (the
worse is shown), ln E divided by the dispersion; by_request: the same without. naive_z: what a
z-test of two proportions at each poll does.
"""

import argparse
import math
import sys
from collections.abc import Callable

import numpy as np
from canaries import LEVEL, LOOKS, RATE, REQUESTS, Canaries, Floats, Z, z
from numpy.typing import NDArray
from result import report
from scipy import special, stats

from tidegate_operator.evidence import proportions, share
from tidegate_operator.evidence.dispersion import dispersion
from tidegate_operator.evidence.tally import Tally

NAME = "null_false_rollbacks"
TIMES = 1.5
SIGMA = 0.5
BUCKETS = 64

Rates = Callable[[int], tuple[float, float, float]]


def main() -> None:
    """Play all of them, print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    constant, ramp = played(runs, 1, _constant), played(runs, 2, _ramp)
    latency = played(runs, 3, _Latency())
    clustered = {users: _clustered(runs, users) for users in (200, 2000)}
    figures = {
        "constant": constant[0],
        "ramp": ramp[0],
        "latency": latency[0],
        "paired": _paired(runs),
        "disagreement": _disagreement(runs),
        **{f"clustered_{users}": found[0] for users, found in clustered.items()},
        "by_request": {f"clustered_{users}": found[1] for users, found in clustered.items()},
        "naive_z": {"constant": constant[1], "ramp": ramp[1], "latency": latency[1]},
        "level": LEVEL,
        "standard_error_at_level": round(math.sqrt(LEVEL * (1 - LEVEL) / runs), 4),
        "looks": LOOKS,
        "runs": runs,
    }
    report(NAME, figures, figures)


def _constant(_: int) -> tuple[float, float, float]:
    return RATE, RATE, 0.1


def _ramp(look: int) -> tuple[float, float, float]:
    rate = RATE * (1 + 2 * look / LOOKS)
    return rate, rate, (0.05, 0.2, 0.5)[3 * look // LOOKS]


class _Latency:
    """Stable is bad above its 95th percentile as measured before, the canary above 1.5 of it."""

    def __init__(self) -> None:
        measured = np.random.default_rng(4).lognormal(0.0, SIGMA, 4000)
        bound = float(np.quantile(measured, 0.95))
        self.stable = float(stats.lognorm.sf(bound, SIGMA))
        self.canary = float(stats.lognorm.sf(TIMES * bound, SIGMA, scale=TIMES))

    def __call__(self, _: int) -> tuple[float, float, float]:
        return self.canary, self.stable, 0.1


def played(runs: int, seed: int, rates: Rates) -> tuple[float, float]:
    """Shares that are rolled back: by the operator's test, by a z-test at each poll.

    ``rates``: at a look, the canary's error rate, stable's, and the canary's share.
    """
    canaries = Canaries(runs, np.random.default_rng(seed))
    sums, naive = np.zeros((4, runs)), np.zeros(runs, bool)
    for look in range(LOOKS):
        counts = canaries.poll(*rates(look))
        canaries.look(counts)
        sums += counts
        naive |= z(sums) > Z
    _progress(f"{seed} of 3 played")
    return _share(np.isfinite(canaries.alarmed)), _share(naive)


def _paired(runs: int) -> float:
    """Five pairs a poll on which only one version is right."""
    first = np.random.default_rng(5).binomial(5, 0.5, (runs, LOOKS)).cumsum(axis=1)
    pairs = 5.0 * np.arange(1, LOOKS + 1)
    log_e = pairs * math.log(2.0) + special.betaln(1 + first, 1 + pairs - first)
    return _share(log_e.max(axis=1) >= -math.log(LEVEL))


def _disagreement(runs: int) -> dict[str, float]:
    """50 mirrored pairs a poll, five of stable with itself; a look at every third poll."""
    random = np.random.default_rng(6)
    alone = beyond = 0
    looks = LOOKS // 3
    for _ in range(runs):
        found, highest = share.ShareEvidence(), 0.0
        for bad in random.binomial(150, 0.02, looks).tolist():
            found = share.observe(found, 150, bad, allowed=0.02, planned_looks=looks)
            highest = max(highest, share.above(found))
        alone += highest >= 1 / LEVEL
        excess, highest = proportions.ExcessEvidence(), 0.0
        pairs, itself = (random.binomial(n, rate, looks) for n, rate in ((150, 0.05), (15, 0.03)))
        for bad, bad_itself in zip(pairs.tolist(), itself.tolist(), strict=True):
            excess = proportions.observe(
                excess,
                Tally(requests=150, bad=bad),
                Tally(requests=15, bad=bad_itself),
                excess=0.02,
                planned_looks=looks,
            )
            highest = max(highest, proportions.above(excess))
        beyond += highest >= 1 / LEVEL
    _progress("disagreement played")
    return {"alone": alone / runs, "beyond_itself": beyond / runs}


def _clustered(runs: int, users: int) -> tuple[float, float]:
    found = [_sticky(runs, users, share) for share in (0.05, 0.1)]
    _progress(f"{users} sticky users played")
    return max(one for one, _ in found), max(other for _, other in found)


def _sticky(runs: int, users: int, share: float) -> tuple[float, float]:
    random = np.random.default_rng(users + round(100 * share))
    good, bad = _users(random, runs, users, share)
    by_user, by_request = Canaries(runs, random), Canaries(runs, random)
    requests, errors = np.zeros((2, runs, 2, BUCKETS))
    for _ in range(LOOKS):
        failed = random.poisson(bad).astype(np.float64)
        asked = failed + random.poisson(good)
        requests += asked
        errors += failed
        n, x = asked.sum(axis=2), failed.sum(axis=2)
        counts = np.array([n[:, 1], x[:, 1], n[:, 0], x[:, 0]])
        by_request.look(counts)
        by_user.look(counts, dispersion(*((requests[:, arm], errors[:, arm]) for arm in (0, 1))))
    return tuple(_share(np.isfinite(one.alarmed)) for one in (by_user, by_request))  # type: ignore[return-value]


def _users(
    random: np.random.Generator, runs: int, users: int, share: float
) -> tuple[Floats, Floats]:
    """Good and bad requests to expect in a poll, by run, arm and bucket of users."""
    activity = random.lognormal(0.0, 1.0, (runs, users))
    activity *= REQUESTS / activity.sum(axis=1, keepdims=True)
    prone = np.minimum(RATE * random.exponential(1.0, (runs, users)), 1.0)
    arm = random.random((runs, users)) < share
    bucket = random.integers(0, BUCKETS, (runs, users))
    cell = ((np.arange(runs)[:, None] * 2 + arm) * BUCKETS + bucket).ravel()
    good, bad = (
        np.bincount(cell, weights.ravel(), runs * 2 * BUCKETS).reshape(runs, 2, BUCKETS)
        for weights in (activity * (1 - prone), activity * prone)
    )
    return good, bad


def _share(flags: NDArray[np.bool_]) -> float:
    return round(float(np.mean(flags)), 4)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
