"""Where a request's time goes, for each version and level, by the stages that it passes.

============  =======================================================
queue         from read completely to taken into a batch
formation     to the batch written to the model server's socket
processing    to its answer read completely
distribution  to every member's answer written to its caller's socket
============  =======================================================

The last three are the same for all members of a batch, and cost one look at a clock each.
"""

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, Final, NamedTuple

from tidegate_contract import names
from tidegate_sidecar.core.counters import SECONDS, Counters, Histogram
from tidegate_sidecar.core.pending import Pending

STAGES: Final = ("queue", "formation", "processing", "distribution")
QUANTILES: Final = (0.5, 0.95, 0.99)
LATELY: Final = 30.0
"""Seconds, at least; at most twice as many."""

_BOUNDS: Final = tuple(1e-6 * 2 ** (i / 2) for i in range(52))
"""Seconds, from 1 us to 47 s: batches are written and given out in microseconds."""

_level = attrgetter("level")
_Stages = tuple[Histogram, Histogram, Histogram]


class _Seen(NamedTuple):
    """What had been counted at a time."""

    at: float
    batches: int
    rows: float
    durations: list[int]


class Profile:
    """The stages of what one model answered, and how it went lately."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._stages: dict[tuple[int, int], _Stages] = {}
        self._since = self._before = _Seen(0.0, 0, 0, [])

    def answered(
        self,
        version: int,
        members: Sequence[Pending],
        *,
        formation: float,
        processing: float,
        distribution: float,
        now: float,
    ) -> None:
        """Count a batch that was sent and whose answers are out."""
        levels = {members[0].level: 1} if len(members) == 1 else Counter(map(_level, members))
        for level, count in levels.items():
            stages = self._stages.get((version, level))
            if stages is None:
                made = Histogram(_BOUNDS), Histogram(_BOUNDS), Histogram(_BOUNDS)
                stages = self._stages[version, level] = made
            stages[0].observe(formation, count)
            stages[1].observe(processing, count)
            stages[2].observe(distribution, count)
        if now - self._since.at >= LATELY:
            self._before, self._since = self._since, self._see(now)

    def describe(self) -> list[dict[str, Any]]:
        """By version and level: requests, and of each stage its quantiles and part of the time."""
        found = []
        for (version, level), stages in sorted(self._stages.items()):
            queue = Histogram(SECONDS)
            for (_, its_version, its_level), tally in self._counters.tallies.items():
                if (its_version, its_level) == (version, level):
                    _add(queue, tally.queued)
            all_stages = (queue, *stages)
            whole = sum(one.total for one in all_stages) or 1.0
            found.append(
                {
                    "version": version,
                    "level": level,
                    "requests": sum(stages[0].counts),
                    "stages": {
                        name: _describe(one, whole)
                        for name, one in zip(STAGES, all_stages, strict=True)
                    },
                }
            )
        return found

    def batch_size(self) -> float | None:
        """Rows of a batch lately, the mean; None where there was none."""
        now = self._see(0.0)
        batches = now.batches - self._before.batches
        return (now.rows - self._before.rows) / batches if batches else None

    def p99(self) -> float | None:
        """Seconds that 99% of the requests lately were answered within; None: there were none."""
        recent = Histogram(SECONDS)
        recent.counts = self._see(0.0).durations
        for i, count in enumerate(self._before.durations):
            recent.counts[i] -= count
        return recent.quantile(0.99)

    def _see(self, now: float) -> _Seen:
        durations = Histogram(SECONDS)
        for (arm, _), one in self._counters.durations.items():
            if arm != names.ARM_SHADOW:
                _add(durations, one)
        sizes = self._counters.batch_sizes.values()
        batches, rows = sum(sum(one.counts) for one in sizes), sum(one.total for one in sizes)
        return _Seen(now, batches, rows, durations.counts)


def _add(to: Histogram, other: Histogram) -> None:
    to.total += other.total
    to.counts = [mine + its for mine, its in zip(to.counts, other.counts, strict=True)]


def _describe(stage: Histogram, whole: float) -> dict[str, float | None]:
    count = sum(stage.counts)
    named = {f"p{share * 100:g}": stage.quantile(share) for share in QUANTILES}
    mean = stage.total / count if count else None
    return {"mean": mean, **named, "percent": 100 * stage.total / whole}
