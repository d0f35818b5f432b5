"""One lane: what waits for a version of the model, and the slots that its batches take."""

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from typing import NamedTuple

from tidegate_batcher.aging import Reserve
from tidegate_batcher.item import Item
from tidegate_batcher.queue import Group, Queue


class Explanation(NamedTuple):
    """Why one group of a lane is batched as it is. ``group``: its key.

    ``fixed``, ``per_row``, ``ratio``: the learned cost, see ``Latency``, from so many ``batches``.
    ``reason``: of the last decision; ``reasons``: how often each was given. ``waiting``: rows.
    """

    lane: int
    group: Hashable
    fixed: float
    per_row: float
    ratio: float
    batches: int
    waiting: int
    arrivals: float
    reason: str
    reasons: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Lane:
    """What waits for one version, and its slots.

    ``most``: rows that the model takes at once. ``usual``: rows of a batch at most where the policy
    names no number. ``row_bytes``: of a row's outputs. ``limit``: rows of a batch by policy and
    pressure; ``cap``: rows above which even a single item is sliced.
    ``hold_*``: nothing is to be decided before a time, unless so many rows wait, or somebody comes
    of a higher level or with an earlier deadline. ``pace``, ``base``: no item is answered later
    than ``base`` + ``pace`` for each row that waits, seconds; 0 while nothing is known.
    """

    key: int
    slots: int
    most: int
    usual: int
    row_bytes: float
    reserve: Reserve
    queue: Queue = field(default_factory=Queue)
    in_flight: int = 0
    free_since: float = -inf
    limit: int = 1
    cap: int = 1
    hold_until: float = -inf
    hold_rows: int = 0
    hold_level: int = 0
    hold_by: float = -inf
    pace: float = 0.0
    base: float = 0.0

    @property
    def free(self) -> bool:
        """Whether a slot is free."""
        return self.in_flight < self.slots

    def bound(self, most: int | None, pressure: float) -> None:
        """Hold batches to so many rows, None: as usual; times a share above 0 up to 1."""
        self.limit = max(1, int(min(most or self.usual, self.most) * pressure))
        self.cap = max(1, int(self.most * pressure))
        self.hold_until = -inf

    def turn(self) -> tuple[int, float]:
        """What its next batch is judged by where lanes take turns; something waits.

        Level and time of arrival of the item a quarter into it. By the first one, a lane with
        little traffic would wait for a batch more than an equal item of the other lane; by the
        middle one, for less.
        """
        line = self.queue.turn()
        assert line
        items = line.items
        return line.level, items[min(len(items), self.limit) // 4].arrived

    def ahead(self, item: Item, own: Group) -> tuple[float, int]:
        """What of the queue goes before an item of a group, by level and the learned costs.

        Returns the seconds that full batches take on one slot, and the rows of the item's own.
        """
        seconds = 0.0
        rows = item.rows
        for group in self.queue.groups.values():
            before = sum(line.rows for line in group.ordered if line.level <= item.level)
            if group is own:
                full, last = divmod(before + item.rows, self.limit)
                seconds += full * group.cost.seconds(self.limit)
                rows = last or self.limit
                seconds -= 0 if last else group.cost.seconds(self.limit)
            elif before:
                batches = ceil(before / self.limit)
                seconds += batches * group.cost.fixed + before * group.cost.per_row
        return seconds, rows

    def explain(self, now: float) -> Iterator[Explanation]:
        """Say for every group what was learned and decided."""
        for group in self.queue.groups.values():
            yield Explanation(
                lane=self.key,
                group=group.key,
                fixed=group.cost.fixed,
                per_row=group.cost.per_row,
                ratio=group.cost.ratio,
                batches=group.cost.batches,
                waiting=group.rows,
                arrivals=group.arrivals.rate(now),
                reason=group.reason,
                reasons=dict(group.reasons),
            )
