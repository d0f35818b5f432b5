"""The requests that wait for one version: highest level first, oldest group first within it.

Each level keeps its requests in the order of arrival whatever their group, so its first request
names the group whose head is the oldest. Each group keeps its own order for each level. Removing
one from the middle, when its caller has gone, is as cheap as serving it.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice

from tidegate_sidecar.core.counters import LEVELS
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Group

_Line = OrderedDict[Pending, None]


class _Waiting:
    """The waiting requests of one group."""

    __slots__ = ("lines", "rows")

    def __init__(self) -> None:
        self.lines: dict[int, _Line] = {}
        self.rows = 0


class Queue:
    """The requests that wait for one version."""

    def __init__(self) -> None:
        self._levels: dict[int, _Line] = {level: OrderedDict() for level in LEVELS}
        self._groups: dict[Group, _Waiting] = {}
        self._full: set[Group] = set()
        self._limit = 1

    def __len__(self) -> int:
        return sum(map(len, self._levels.values()))

    def __bool__(self) -> bool:
        return bool(self._groups)

    def __iter__(self) -> Iterator[Pending]:
        for line in self._levels.values():
            yield from line

    def limit(self, rows: int) -> None:
        """Say how many rows fill a batch."""
        self._limit = rows
        self._full = {group for group in self._groups if self._fills(group)}

    @property
    def full(self) -> bool:
        """Whether a group fills a batch."""
        return bool(self._full)

    @property
    def head(self) -> Pending:
        """The oldest request of the highest level; the queue is not empty."""
        return next(next(iter(line)) for line in self._levels.values() if line)

    @property
    def turn(self) -> tuple[int, float]:
        """What the next batch is judged by where versions take turns; the queue is not empty.

        Level and time of arrival of the request a quarter into it. By the first one, a version with
        little traffic would wait for a batch more than an equal request of the other version; by
        the middle one, for less.
        """
        line = next(line for line in self._levels.values() if line)
        quarter = min(len(line), self._limit) // 4
        pending = next(islice(line, quarter, None))
        return pending.priority, pending.arrived

    @property
    def oldest(self) -> float:
        """When the oldest request arrived; the queue is not empty."""
        return min(next(iter(line)).arrived for line in self._levels.values() if line)

    def push(self, pending: Pending) -> None:
        """Put a request behind all others of its level."""
        group = pending.plan.group
        waiting = self._groups.get(group)
        if waiting is None:
            waiting = self._groups[group] = _Waiting()
        line = waiting.lines.get(pending.priority)
        if line is None:
            line = waiting.lines[pending.priority] = OrderedDict()
        line[pending] = None
        self._levels[pending.priority][pending] = None
        waiting.rows += pending.plan.rows
        if self._fills(group):
            self._full.add(group)

    def remove(self, pending: Pending) -> bool:
        """Take a request out; False where it does not wait here."""
        if pending not in self._levels[pending.priority]:
            return False
        self._take([pending], pending.plan.group)
        return True

    def pop_batch(self) -> list[Pending]:
        """Take the next batch: the oldest group of the highest level, its lower levels after it.

        Nobody of a group overtakes: the first that does not fit ends the batch. One that is
        larger than the limit by itself goes alone.
        """
        group = self.head.plan.group
        batch: list[Pending] = []
        rows = 0
        for pending in self._in_order(group):
            rows += pending.plan.rows
            if batch and (rows > self._limit or group.alone):
                break
            batch.append(pending)
        self._take(batch, group)
        return batch

    def _in_order(self, group: Group) -> Iterator[Pending]:
        lines = self._groups[group].lines
        for level in LEVELS:
            if level in lines:
                yield from lines[level]

    def _take(self, taken: Iterable[Pending], group: Group) -> None:
        waiting = self._groups[group]
        for pending in taken:
            del self._levels[pending.priority][pending]
            del waiting.lines[pending.priority][pending]
            waiting.rows -= pending.plan.rows
        if not self._fills(group):
            self._full.discard(group)
        if not waiting.rows:
            del self._groups[group]

    def _fills(self, group: Group) -> bool:
        rows = self._groups[group].rows
        return rows >= (1 if group.alone else self._limit)
