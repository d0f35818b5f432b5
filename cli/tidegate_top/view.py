"""From two scrapes of each pod to what is shown of them. Pure: times are in the scrapes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Final, TypeVar

from tidegate_top.scrape import Counts, Hardware, Scrape

K = TypeVar("K")

_BAD: Final = ("server_error", "expired", "rejected")
"""Outcomes with a rate of their own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model in one pod, or in all of them.

    ``throughput``: requests answered well a second. ``p95``: seconds from read to
    answered. ``errors``, ``expired``, ``rejected``: shares of the requests that ended. These and
    ``batch``, rows of a batch, are of the time between the scrapes; None: there was nothing.
    ``in_flight`` and ``queue`` (by priority) are as of now.
    """

    pod: str
    model: str
    throughput: float
    p95: float | None
    errors: float | None
    expired: float | None
    rejected: float | None
    batch: float | None
    in_flight: int
    queue: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class View:
    """What is shown. ``silent``: by pod, why it says nothing."""

    rows: Sequence[Row]
    hardware: Mapping[str, Hardware] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)


def view(
    before: Mapping[str, Scrape], now: Mapping[str, Scrape], silent: Mapping[str, str]
) -> View:
    """What happened in each pod that was scraped twice; before that, in all together where several
    were.
    """
    changes: dict[str, list[tuple[Counts, float]]] = {}
    rows = []
    for pod in sorted(before.keys() & now.keys()):
        seconds = now[pod].at - before[pod].at
        for model, counts in now[pod].models.items():
            changed = change(before[pod].models.get(model, Counts()), counts)
            rows.append(row(pod, model, changed, seconds))
            changes.setdefault(model, []).append((changed, seconds))
    together = []
    for model, parts in sorted(changes.items()):
        if len(parts) > 1:
            whole = reduce(_sum, (counts for counts, _ in parts))
            mean = sum(seconds for _, seconds in parts) / len(parts)
            together.append(row("all", model, whole, mean))
    hardware = {pod: one.hardware for pod, one in sorted(now.items()) if one.hardware}
    return View(together + rows, hardware, dict(sorted(silent.items())))


def change(before: Counts, now: Counts) -> Counts:
    """What was counted in between; the sidecar starts again at 0 when it was restarted."""
    ended = sum(now.outcomes.values())
    restarted = ended < sum(before.outcomes.values()) or now.batches < before.batches
    since = Counts() if restarted else before
    return Counts(
        {name: value - since.outcomes.get(name, 0) for name, value in now.outcomes.items()},
        {bound: value - since.buckets.get(bound, 0) for bound, value in now.buckets.items()},
        now.batches - since.batches,
        now.rows - since.rows,
        now.in_flight,
        now.queue,
    )


def row(pod: str, model: str, changed: Counts, seconds: float) -> Row:
    """Rates and quantiles of what was counted within some seconds."""
    ended = sum(changed.outcomes.values())
    errors, expired, rejected = (
        changed.outcomes.get(one, 0) / ended if ended else None for one in _BAD
    )
    return Row(
        pod,
        model,
        changed.outcomes.get("ok", 0) / seconds,
        quantile(0.95, changed.buckets),
        errors,
        expired,
        rejected,
        changed.rows / changed.batches if changed.batches else None,
        round(changed.in_flight),
        {level: round(waiting) for level, waiting in sorted(changed.queue.items())},
    )


def quantile(q: float, buckets: Mapping[float, float]) -> float | None:
    """A quantile of a cumulative histogram, spread evenly within a bucket as PromQL's
    ``histogram_quantile`` has it: beyond the last finite bound it is that bound. None: no values.
    """
    ordered = sorted(buckets.items())
    if not ordered or not ordered[-1][1]:
        return None
    wanted = q * ordered[-1][1]
    lower, below = 0.0, 0.0
    for bound, within in ordered:
        if within >= wanted:
            share = (wanted - below) / (within - below) if within > below else 0.0
            return lower if bound == float("inf") else lower + share * (bound - lower)
        lower, below = bound, within
    return lower


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(
        _added((one.outcomes, other.outcomes)),
        _added((one.buckets, other.buckets)),
        one.batches + other.batches,
        one.rows + other.rows,
        one.in_flight + other.in_flight,
        _added((one.queue, other.queue)),
    )


def _added(parts: Iterable[Mapping[K, float]]) -> dict[K, float]:
    total: dict[K, float] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return total
