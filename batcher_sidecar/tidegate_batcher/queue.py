"""The items that wait in one lane: highest level first, oldest group first within it.

Items of one group and level stand in a line. The lines of a level lie in a heap by the arrival of
their heads, so a batch costs its items and one step in the heap, whatever the number of groups.
Who leaves otherwise than by being sent, or rises to another level, is left in the line as a ghost
and stepped over, and a line of mostly ghosts is swept.

Deadlines mostly rise along a line, as most are a default added to the arrival; then heads alone
tell who is too late. Those out of order lie in a heap besides.
"""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from math import inf
from typing import Final

from tidegate_batcher.arrivals import Arrivals
from tidegate_batcher.item import Item
from tidegate_batcher.latency import Latency

MOST_GROUPS: Final = 256
"""Whose costs are kept for one lane, unless more wait at a time."""
MOST_GHOSTS: Final = 64
"""Swept only above this, so that a sweep is rare."""


class Room:
    """The bytes that are left in a batch. ``row_bytes``: of a row's outputs."""

    __slots__ = ("left", "row_bytes")

    def __init__(self, left: float, row_bytes: float) -> None:
        self.left = left
        self.row_bytes = row_bytes

    def rows(self, item: Item) -> int:
        """How many rows like an item's fit; at least 1."""
        each = item.size / item.rows + self.row_bytes
        return max(1, int(self.left / each)) if each else 2**31

    def fits(self, item: Item) -> bool:
        """Make room for an item, if there is any."""
        self.left -= item.size + item.rows * self.row_bytes
        return self.left >= 0


class Line:
    """The items of one group and level, in the order in which they came.

    ``rows``: not sent yet. ``ghosts``: of ``items``, those that wait here no more. ``alone``:
    how many of the others share a batch with nobody, as they must not or are sent in slices.
    ``until``: no item in order has an earlier deadline than the one before it, and this is the last
    one's. ``listed``: in its level's heap.
    """

    __slots__ = ("alone", "ghosts", "group", "items", "level", "listed", "rows", "until")

    def __init__(self, group: "Group", level: int) -> None:
        self.group = group
        self.level = level
        self.items: deque[Item] = deque()
        self.rows = 0
        self.ghosts = 0
        self.alone = 0
        self.until = -inf
        self.listed = False

    def head(self) -> Item | None:
        """The oldest item that still waits here."""
        items = self.items
        while items:
            item = items[0]
            if item.waits and item.level == self.level:
                return item
            items.popleft()
            self.ghosts -= 1
        return None

    def living(self) -> Iterator[Item]:
        """Those that wait here."""
        level = self.level
        for one in self.items:
            if one.waits and one.level == level:
                yield one

    def left(self, item: Item) -> None:
        """Count an item that leaves, and stays in the line as a ghost."""
        self.rows -= item.rows - item.sent
        if item.alone or item.sent:
            self.alone -= 1
        self.ghosts += 1
        if self.ghosts > MOST_GHOSTS and 2 * self.ghosts > len(self.items):
            self.items = deque(self.living())
            self.ghosts = 0


class Group:
    """The lines of one group, and what is known of it.

    ``cost``: of its batches; ``solo``: of those that had the device to themselves, learned only
    where there are other lanes. ``reasons``: how often which reason was given for a decision;
    ``reason``: the last. ``used``: since last looked for one to forget.
    """

    __slots__ = (
        "arrivals",
        "cost",
        "key",
        "lines",
        "ordered",
        "reason",
        "reasons",
        "solo",
        "used",
    )

    def __init__(self, key: Hashable, now: float) -> None:
        self.key = key
        self.lines: dict[int, Line] = {}
        self.ordered: tuple[Line, ...] = ()
        self.cost = Latency()
        self.solo = Latency()
        self.arrivals = Arrivals(now)
        self.reason = ""
        self.reasons: dict[str, int] = {}
        self.used = True

    @property
    def rows(self) -> int:
        """That wait."""
        return sum([line.rows for line in self.ordered])

    @property
    def items(self) -> int:
        """That wait."""
        return sum([len(line.items) - line.ghosts for line in self.ordered])

    @property
    def alone(self) -> bool:
        """Whether its next goes by itself."""
        return any(line.alone and line.items[0].alone for line in self.ordered if line.head())

    @property
    def oldest(self) -> float:
        """When the oldest of its heads arrived."""
        return min([head.arrived for line in self.ordered if (head := line.head())])

    def line(self, level: int) -> Line:
        """Add the line of a level."""
        line = self.lines[level] = Line(self, level)
        self.ordered = tuple(sorted(self.lines.values(), key=lambda one: one.level))
        return line


class Queue:
    """What waits in one lane. ``rows``: in all."""

    __slots__ = ("_heads_at", "_heaps", "_odd", "_serial", "groups", "rows")

    def __init__(self) -> None:
        self.groups: dict[Hashable, Group] = {}
        self.rows = 0
        self._heads_at = inf
        self._heaps: list[list[tuple[float, int, Line]]] = []
        self._odd: list[tuple[float, int, Item]] = []
        self._serial = 0

    def __iter__(self) -> Iterator[Item]:
        for group in self.groups.values():
            for line in group.ordered:
                yield from line.living()

    def push(self, item: Item, now: float) -> None:
        """Put an item behind all others of its group and level."""
        group = self.groups.get(item.group)
        if group is None:
            group = self._found(item.group, now)
        level = item.level
        line = group.lines.get(level)
        if line is None:
            line = group.line(level)
        items = line.items
        left = item.rows - item.sent
        item.waits = True
        if not line.listed:
            self._list(line, item)
        answer_by = item.answer_by
        if not items:
            line.until = answer_by
            if answer_by < self._heads_at:  # noqa: PLR1730 - on every request's way
                self._heads_at = answer_by
        elif answer_by >= line.until:
            line.until = answer_by
        else:
            self._watch(item, answer_by)
        if item.send_by < answer_by:
            self._watch(item, item.send_by)
        items.append(item)
        line.rows += left
        if item.alone or item.sent:
            line.alone += 1
        arrivals = group.arrivals
        arrivals.came += left
        if now < arrivals.window_until:
            arrivals.gathered += left
            arrivals.gathered_at = now
        self.rows += left

    def remove(self, item: Item) -> None:
        """Take out an item that waits here."""
        line = self.groups[item.group].lines[item.level]
        item.waits = False
        line.left(item)
        self.rows -= item.rows - item.sent

    def tighten(self, item: Item, level: int) -> None:
        """Raise an item's level, where it goes behind those who wait, and mind its deadlines."""
        if level < item.level:
            group = self.groups[item.group]
            group.lines[item.level].left(item)
            self.rows -= item.rows - item.sent
            group.arrivals.came -= item.rows - item.sent
            item.level = level
            self.push(item, inf)
        self._watch(item, min(item.send_by, item.answer_by))

    def turn(self) -> Line | None:
        """The line whose turn it is: of the highest level, the one with the oldest head."""
        for heap in self._heaps:
            if heap and (line := self._top(heap)):
                return line
        return None

    def aged(self, below: int, before: float) -> Line | None:
        """Of the levels below one, the line whose head is the oldest, if it came before a time."""
        oldest: Line | None = None
        for heap in self._heaps[below:]:
            if heap and heap[0][0] <= before and (line := self._top(heap)):
                arrived = heap[0][0]
                if arrived <= before:
                    oldest, before = line, arrived
        return oldest

    def others(self, group: Group) -> Iterator[Group]:
        """The other groups that wait."""
        for one in self.groups.values():
            if one is not group and one.rows:
                yield one

    def newest(self, level: int) -> Item | None:
        """The last that came of those of a level of whom nothing is sent."""
        found: Item | None = None
        for group in self.groups.values():
            line = group.lines.get(level)
            if not line:
                continue
            items = line.items
            while items and not (items[-1].waits and items[-1].level == level):
                items.pop()
                line.ghosts -= 1
            if items and not items[-1].sent and (not found or items[-1].arrived > found.arrived):
                found = items[-1]
        return found

    def late(self, now: float) -> list[Item]:
        """Take out those that are too late to be sent, or answered."""
        late: list[Item] = []
        odd = self._odd
        while odd and (odd[0][0] <= now or not odd[0][2].waits):
            item = heappop(odd)[2]
            if item.waits and min(item.send_by, item.answer_by) <= now:
                self.remove(item)
                late.append(item)
        if now < self._heads_at:
            return late
        self._heads_at = inf
        for group in self.groups.values():
            for line in group.ordered:
                while (head := line.head()) and head.answer_by <= now:
                    self.remove(head)
                    late.append(head)
                if head:
                    self._heads_at = min(self._heads_at, head.answer_by)
        return late

    def late_at(self) -> float:
        """When the next is too late, or somewhat before."""
        while self._odd and not self._odd[0][2].waits:
            heappop(self._odd)
        return min(self._heads_at, self._odd[0][0]) if self._odd else self._heads_at

    def take(
        self,
        group: Group,
        most: int,
        *,
        room: Room | None = None,
        lead: Line | None = None,
        lead_rows: int = 0,
        ceilings: Mapping[int, int] | None = None,
    ) -> list[Item]:
        """Take out the items of a batch of at most so many rows: by level, then by arrival.

        Nobody overtakes: the first that does not fit ends the batch; but one always goes. The rows
        of ``lead`` go before the others, up to ``lead_rows``. ``ceilings``: by level, what the
        batch may have at most with items of that level.
        """
        taken: list[Item] = []
        left = most
        if lead:
            self._draw(lead, taken, min(lead_rows, most), room)
            left -= sum(one.rows for one in taken)
            if taken[0].alone:
                left = 0
        for line in group.ordered:
            if left <= 0:
                break
            if not line.rows:
                continue
            above = max(0, most - ceilings.get(line.level, most)) if ceilings else 0
            if left > above:
                left = self._draw(line, taken, left - above, room)
            if above:
                break
        for item in taken:
            item.waits = False
        return taken

    def cut(self, line: Line, rows: int) -> tuple[Item, int]:
        """Take a slice off a line's head: returns the item and the first row of the slice."""
        item = line.items[0]
        begin = item.sent
        if not begin:
            line.alone += 1
        item.sent += rows
        line.rows -= rows
        self.rows -= rows
        if item.sent == item.rows:
            line.items.popleft()
            line.alone -= 1
            item.waits = False
        return item, begin

    def _draw(self, line: Line, taken: list[Item], left: int, room: Room | None) -> int:
        """Move items from a line's front into a batch; returns how many rows may follow them."""
        items = line.items
        if line.rows == len(items) and not line.ghosts and not line.alone and room is None:
            count = min(left, len(items))  # each has one row
            pop = items.popleft
            taken.extend([pop() for _ in range(count)])
            line.rows -= count
            self.rows -= count
            return left - count
        while item := line.head():
            if taken and (item.rows > left or item.alone or item.sent):
                return 0
            if room and not room.fits(item) and taken:
                return 0
            items = line.items
            items.popleft()
            taken.append(item)
            line.rows -= item.rows
            self.rows -= item.rows
            left -= item.rows
            if item.alone:
                line.alone -= 1
                return 0
        return left

    def earliest(self, group: Group, rows: int) -> float:
        """The earliest deadline among the first so many rows of a group."""
        earliest = inf
        for line in group.ordered:
            if rows <= 0:
                break
            if not self._odd:
                if head := line.head():
                    earliest = min(earliest, head.answer_by)
                rows -= line.rows
                continue
            for item in line.living():
                earliest = min(earliest, item.answer_by)
                rows -= item.rows - item.sent
                if rows <= 0:
                    break
        return earliest

    def half_time(self, group: Group, rows: int) -> float:
        """When half of the time is over that the first so many rows of a group may wait unsent."""
        earliest = inf
        for line in group.ordered if self._odd else ():
            for item in line.living():
                if rows <= 0:
                    return earliest
                earliest = min(earliest, (item.arrived + item.send_by) / 2)
                rows -= item.rows - item.sent
        return earliest

    def hopeless(self, group: Group, rows: int, before: float) -> list[Item]:
        """Those of the first so many rows of a group whose deadline is before a time."""
        found: list[Item] = []
        for line in group.ordered:
            for item in line.living():
                if rows <= 0:
                    return found
                rows -= item.rows - item.sent
                if item.answer_by < before and not item.sent:
                    found.append(item)
        return found

    def _top(self, heap: list[tuple[float, int, Line]]) -> Line | None:
        """Put a level's heap in order from its top: heads may have left since they were listed."""
        while heap:
            arrived, _, line = heap[0]
            head = line.head()
            if head is None:
                line.listed = False
                heappop(heap)
            elif head.arrived != arrived:
                self._serial += 1
                heapreplace(heap, (head.arrived, self._serial, line))
            else:
                return line
        return None

    def _list(self, line: Line, item: Item) -> None:
        while len(self._heaps) < line.level:
            self._heaps.append([])
        self._serial += 1
        heappush(self._heaps[line.level - 1], (item.arrived, self._serial, line))
        line.listed = True

    def _watch(self, item: Item, until: float) -> None:
        """Mind a deadline that the heads do not tell of."""
        odd = self._odd
        self._serial += 1
        heappush(odd, (until, self._serial, item))
        if len(odd) > MOST_GHOSTS and len(odd) > 4 * self.rows:
            odd[:] = [entry for entry in odd if entry[2].waits]
            heapify(odd)

    def _found(self, key: Hashable, now: float) -> Group:
        """Begin a group; forget one that waits for nothing and was not used for the longest."""
        groups = self.groups
        for _ in range(len(groups) if len(groups) >= MOST_GROUPS else 0):
            old_key, old = next(iter(groups.items()))
            del groups[old_key]
            if not old.used and not old.rows:
                for line in old.ordered:
                    line.items.clear()
                break
            old.used = False
            groups[old_key] = old
        group = groups[key] = Group(key, now)
        return group
