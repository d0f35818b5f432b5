"""How one model batches just now, for people: in acknowledgements, and at ``/profile``."""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from tidegate_contract.acknowledgement import BatchLive
from tidegate_contract.table import Level
from tidegate_sidecar.core.batcher import Batcher
from tidegate_sidecar.core.counters import Counters
from tidegate_sidecar.core.profile import Profile
from tidegate_sidecar.core.strategies import Chosen


class Live:
    """Tells it. ``pressed``: why batches are smaller than usual; None: they are not."""

    def __init__(
        self, batcher: Batcher, counters: Counters, profile: Profile, strategy: Chosen
    ) -> None:
        self.pressed: str | None = None
        self._batcher = batcher
        self._counters = counters
        self._profile = profile
        self._strategy = strategy
        self._names: Mapping[int, str] = {}

    def follow(self, strategy: Chosen, levels: Iterable[Level]) -> None:
        """Tell of another strategy from now on, and of levels by other names."""
        self._strategy = strategy
        self._names = {one.level: one.name for one in levels}

    def batches(self, waiting: int, now: float) -> BatchLive:
        """A summary. ``waiting``: requests."""
        outcomes = [tally.outcomes for tally in self._counters.tallies.values()]
        explained = self._batcher.scheduler.explain(now)
        learned = max(explained, key=lambda one: one.batches, default=None)
        row = self._batcher.row_bytes
        return BatchLive(
            strategy=self._strategy.name,
            batch_size=self._profile.batch_size(),
            fixed_seconds=learned.fixed if learned and learned.batches else None,
            seconds_per_row=learned.per_row if learned and learned.batches else None,
            queue_length=waiting,
            dropped=sum(one.get("rejected", 0) + one.get("expired", 0) for one in outcomes),
            p99=self._profile.p99(),
            row_bytes=None if row is None else ceil(row),
            notes=[note for note in (self._strategy.note, self.pressed) if note],
        )

    def describe(self, waiting: int, now: float) -> dict[str, Any]:
        """Where the requests' time goes, and why batches are as they are."""
        return {
            "strategy": self._strategy.name,
            "waiting": waiting,
            "memory": self.pressed,
            "requests": [
                one | {"name": self._names.get(one["level"], "")}
                for one in self._profile.describe()
            ],
            "batches": [
                one._asdict() | {"group": str(one.group)}
                for one in self._batcher.scheduler.explain(now)
            ],
        }
