"""Does every arm get what its weight says? The sidecar's router, request by request.

Spread: over every prefix and every window of the requests, how far is an arm from its share, in
requests; and how well can a client that sends every second to twentieth request tell its arm (the
correlation of being its request with being the arm's; 0.05 would be one in 400 of the variance).

Sticky: how far is the number of users on an arm from its share, in standard errors, and how many
leave an arm that grows. Splits of a canary and of a test, each user asked of two pods.
"""

import math
from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Final

from result import report

from tidegate_contract.table import WHOLE, Arm, Assignment, LoadedVersion, RoutingTable, Share
from tidegate_sidecar.core.routing import Router

NAME: Final = "weights"
SPLITS: Final = (
    {"stable": 9_900, "canary": 100},
    {"stable": 9_500, "canary": 500},
    {"stable": 8_000, "canary": 2_000},
    {"stable": 6_667, "canary": 3_333},
    {"stable": 5_000, "canary": 5_000},
    {"stable": 5_200, "older": 3_100, "oldest": 1_200, "canary": 500},
)
GROWING: Final = (100, 500, 2_000, 3_500, 5_000, 6_500, 8_000, 9_500, WHOLE)
REQUESTS: Final = 200_000
PERIODS: Final = range(2, 21)
USERS: Final = 100_000


def a_table(weights: dict[str, int], revision: int = 1, *, sticky: bool = False) -> RoutingTable:
    """A table with these arms, their versions from 1."""
    arms = [Arm(name=n, version=v, weight=w) for v, (n, w) in enumerate(weights.items(), 1)]
    return RoutingTable(
        namespace="default",
        model="m",
        revision=revision,
        split_revision=revision,
        split=arms,
        assignment=Assignment(header="x-user-id", salt="uid") if sticky else None,
        versions=[LoadedVersion(version=arm.version) for arm in arms],
        baseline=[Share(version=1, weight=WHOLE)],
    )


def spread(weights: dict[str, int], pod: str) -> dict[str, float]:
    """The largest errors of one split in one pod."""
    router = Router("m", pod)
    router.change(a_table(weights))
    chosen = [router.route(None)[0].name for _ in range(REQUESTS)]
    prefix = window = correlation = 0.0
    for name, weight in weights.items():
        hits = [one == name for one in chosen]
        errors = list(accumulate((hit - weight / WHOLE for hit in hits), initial=0.0))
        prefix = max(prefix, *map(abs, errors))
        window = max(window, max(errors) - min(errors))
        correlation = max(correlation, *correlations(hits))
    return {"prefix": prefix, "window": window, "correlation": correlation}


def correlations(hits: list[bool]) -> Iterator[float]:
    """How well each client of a fixed period is told from the others by what it gets."""
    share = sum(hits) / len(hits)
    for period in PERIODS:
        for phase in range(period):
            its = hits[phase::period]
            part = len(its) / len(hits)
            covariance = sum(its) / len(hits) - part * share
            yield abs(covariance) / math.sqrt(part * (1 - part) * share * (1 - share))


def sticky(growing: str, other: str) -> dict[str, float]:
    """One arm that grows while the other shrinks, as all users see it."""
    deviation, moved = 0.0, 0
    routers = []
    for revision, weight in enumerate(GROWING, 1):
        table = a_table({other: WHOLE - weight, growing: weight}, revision, sticky=True)
        one, another = (Router("m", pod) for pod in ("pod-1", f"pod-{revision}"))
        one.change(table)
        another.change(table)
        on = [one.route(f"user-{i}")[0].name == growing for i in range(USERS)]
        moved += sum(
            another.route(f"user-{i}")[0].name != (growing if on[i] else other)
            for i in range(0, USERS, 10)
        )
        routers.append(on)
        share = weight / WHOLE
        if 0 < share < 1:
            error = math.sqrt(USERS * share * (1 - share))
            deviation = max(deviation, abs(sum(on) - USERS * share) / error)
    for before, after in pairwise(routers):
        moved += sum(was and not stays for was, stays in zip(before, after, strict=True))
    return {"deviation": deviation, "moved": moved}


def main() -> None:
    """Measure; prints the figures and keeps each split's."""
    spreads = [spread(weights, f"pod-{i}") for i, weights in enumerate(SPLITS)]
    stickies = [sticky("canary", "stable"), sticky("treatment", "control")]
    samples = {"spread": spreads, "sticky": stickies}
    figures = {
        "prefix_error": round(max(one["prefix"] for one in spreads), 4),
        "window_error": round(max(one["window"] for one in spreads), 4),
        "correlation": round(max(one["correlation"] for one in spreads), 4),
        "sticky_deviation": round(max(one["deviation"] for one in stickies), 2),
        "users_moved": int(sum(one["moved"] for one in stickies)),
    }
    report(NAME, figures, samples)


if __name__ == "__main__":
    main()
