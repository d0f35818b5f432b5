"""From raw counter samples to counts of requests.

Rates that Prometheus computes are extrapolated; a decision needs whole requests. So the samples
of each series are read as they were scraped and their rises are added up, series by series, with
a fall read as a restart from zero. Every sample of one pod has the same time in all its series
(one scrape), so requests and bad requests of both arms always cover the same span.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from tidegate_operator.api.canaryrollout import Tally


@dataclass(frozen=True, slots=True)
class Series:
    """One counter of one pod. ``samples``: (time in epoch seconds, value), oldest first."""

    pod: str
    arm: str
    check: str
    counts: Literal["requests", "bad"]
    samples: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Window:
    """What happened since the cursors, by check and arm.

    ``watched`` leaves out what fell into gaps (no scrape for more than two intervals); ``all``
    has it, but for gaps with a restart inside, where nobody knows what was lost.
    ``cursors``: by pod, the time up to which samples are now used.
    """

    watched: dict[str, dict[str, Tally]] = field(default_factory=dict)
    all: dict[str, dict[str, Tally]] = field(default_factory=dict)
    cursors: dict[str, float] = field(default_factory=dict)


def window(
    series: Iterable[Series],
    cursors: Mapping[str, float],
    start: float,
    *,
    longest_gap: float,
    attended: bool,
) -> Window:
    """Add up what came after each pod's cursor (``start`` for a pod without one).

    The value at the cursor is the last sample not after it; a series that has none begins with
    its first sample. ``attended`` False says that nobody judged while this happened: then all of
    it is gap.
    """
    result = Window(cursors=dict(cursors))
    for one in series:
        cursor = cursors.get(one.pod, start)
        watched = whole = 0.0
        for (t0, v0), (t1, v1) in pairwise(one.samples):
            if t1 <= cursor:
                continue
            reset = v1 < v0
            rise = v1 if reset else v1 - v0
            gap = not attended or t1 - max(t0, cursor) > longest_gap
            if not gap:
                watched += rise
            if not (gap and reset):
                whole += rise
        _add(result.watched, one, watched)
        _add(result.all, one, whole)
        if one.samples and one.samples[-1][0] > cursor:
            newest = max(result.cursors.get(one.pod, start), one.samples[-1][0])
            result.cursors[one.pod] = newest
    return result


def newest_sample(series: Iterable[Series]) -> dict[str, float]:
    """By pod, the time of its newest sample."""
    newest: dict[str, float] = {}
    for one in series:
        if one.samples:
            newest[one.pod] = max(newest.get(one.pod, 0.0), one.samples[-1][0])
    return newest


def _add(into: dict[str, dict[str, Tally]], one: Series, amount: float) -> None:
    arms = into.setdefault(one.check, {})
    count = round(amount)
    arms[one.arm] = arms.get(one.arm, Tally()) + (
        Tally(requests=count) if one.counts == "requests" else Tally(bad=count)
    )
