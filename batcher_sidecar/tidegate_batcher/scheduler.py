"""When which items go together: the batcher of one model.

Each lane, which is a version of the model, has as many slots as its server has instances: one batch
in flight for each. A free slot takes the batch whose turn it is, as large and as late as the
strategy says. While all slots are taken the queue gathers, so batches grow with the load by
themselves.

On a device that does no more with two batches than with one, lanes take turns (see ``turns``): one
sends while no other has a batch in flight, the one first whose items have waited longest. Nobody
waits so for a lane whose batches take far longer than his.

A lane beside the main ones shares their device, in two ways that hold while they wait:

* Order. It sends in its turn: not before a main lane whose items have waited longer. By its own
  slot alone it would always be the next on a device that works off one batch after the other, and
  look faster than an equal lane that has most of the traffic (by a third at 5%).
* Bounds. If its batches take longer than theirs, it pauses after each until that was within its
  bound of the device's time. Small batches cost more for each item, so a bound whatever they take
  would make an equal lane slower (by 1.7 times at 20% of the traffic).

Deadlines: who is too late is taken out. Who would be late whatever is done is refused on arrival or
given up in the queue, before it costs the device anything. Who would be late in a large batch gets
a smaller one, unless smaller ones cannot keep up with what comes: then keeping the one deadline
would break all those behind it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final, NamedTuple

from tidegate_batcher.adaptive import LEARNT, NO_TIME, Adaptive
from tidegate_batcher.aging import Reserve
from tidegate_batcher.device import Device
from tidegate_batcher.drain import Drain
from tidegate_batcher.item import Item
from tidegate_batcher.lane import Explanation, Lane
from tidegate_batcher.latency import Latency
from tidegate_batcher.queue import Group, Line, Room
from tidegate_batcher.shares import DeviceTime
from tidegate_batcher.strategy import Decision, Strategy, View
from tidegate_batcher.turns import Turns
from tidegate_contract.table import BatchSettings

PATIENCE: Final = 1.0
"""Seconds that a lane waits for its turn: a main lane that hangs must not stop the others."""
FAR_LONGER: Final = 2.0
LATE: Final = 2.0
"""Times the longest that a batch should take after which nobody waits for its end any more."""
LONGEST_RETRY: Final = 60.0
"""Seconds: nobody is told to stay away for longer, as nothing learned looks farther ahead."""

SLICED: Final = "sliced"
MAKES_WAY: Final = "makes way for a higher level, or another slice"
OTHERS_FULL: Final = "another group is full"
NOT_ITS_TURN: Final = "another lane's turn"


@dataclass(slots=True, eq=False)
class Batch:
    """Items of one group that go as one. ``sent_at``: seconds, as all times here.

    ``sliced``: it is rows ``begin`` to ``begin + rows`` of its only member, whose other rows go in
    other batches.
    """

    lane: int
    members: Sequence[Item]
    rows: int
    sent_at: float
    begin: int = 0
    sliced: bool = False


class Full(Exception):  # noqa: N818 - it says what is the case
    """The queue, or the item's level in it, is full. ``retry_after``: seconds."""

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class Late(Exception):  # noqa: N818 - it says what is the case
    """The item would not be answered in time."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class _Owed(NamedTuple):
    """What a batch takes part in. ``slice``: one at a time in the pod; ``aged``: the part of it
    that the reserve pays.
    """

    slice: bool
    aged: float


class _Flight(NamedTuple):
    """What is known of a batch in flight. ``begun``: see ``DeviceTime``."""

    lane: Lane
    group: Group
    level: int
    begun: float
    owed: _Owed


class Scheduler:
    """The lanes of one model.

    An item that was withdrawn, thrown out or expired is not to be offered again; one that was sent,
    or whose lane was closed, may be.
    """

    def __init__(self, device: Device | None = None) -> None:
        self.lanes: dict[int, Lane] = {}
        self.waiting = 0
        """Items."""
        self.beside: Collection[Item] = ()
        """Items that wait elsewhere to be offered later, and take up room here already."""
        self.counts: list[int] = []
        """Items that wait, by level; 0 is none."""
        self.flying: list[int] = []
        """Batches in flight, by the level whose turn it was."""
        self.came: list[float] = []
        """When the last item came, by level."""
        self._device = device or Device()
        self._device.join(self)
        self._time = DeviceTime()
        self._turns = Turns()
        self._flights: dict[Batch, _Flight] = {}
        self._guests: dict[object, Lane] = {}
        self._expired: list[Item] = []
        self._wake = inf
        self._pressure = 1.0
        self._drain = Drain()
        self.configure(BatchSettings(), Adaptive(), {})

    def configure(
        self, settings: BatchSettings, strategy: Strategy, shares: Mapping[int, float]
    ) -> None:
        """Take over a policy. ``shares``: by lane, of the device's time, for those bounded."""
        self._settings = settings
        self._strategy = strategy
        self._shares = shares
        self._levels = {one.level: one for one in settings.levels}
        size = max(len(self.counts), len(settings.levels) + 1)
        missing = size - len(self.counts)
        self.counts += [0] * missing
        self.flying += [0] * missing
        self.came += [-inf] * missing
        lowest = settings.levels[-1]
        self._rules = [self._levels.get(level, lowest) for level in range(size)]
        self._most_of = [inf if one.max_queue is None else one.max_queue for one in self._rules]
        self._sliced = [one.level for one in settings.levels if one.max_slice is not None]
        for lane in self.lanes.values():
            lane.reserve.share, lane.reserve.after = settings.aging_reserve, settings.aging_after
            lane.bound(self._settings.max_batch_size, self._pressure)

    def open(
        self, key: int, *, slots: int, most: int, usual: int | None = None, row_bytes: float = 0.0
    ) -> None:
        """Take items for a lane. ``most``, ``usual``, ``row_bytes``: see ``Lane``."""
        reserve = Reserve(self._settings.aging_reserve, self._settings.aging_after)
        lane = self.lanes[key] = Lane(key, slots, most, usual or most, row_bytes, reserve)
        lane.bound(self._settings.max_batch_size, self._pressure)

    def close(self, key: int) -> list[Item]:
        """Take no more items for a lane; returns what waited there, by group and level."""
        left = list(self.lanes.pop(key).queue)
        for item in left:
            item.waits = False
            self._left(item)
        return left

    def press(self, share: float) -> None:
        """Memory is short: use only such a share of the usual batch size, above 0 up to 1."""
        if share != self._pressure:
            self._pressure = share
            for lane in self.lanes.values():
                lane.bound(self._settings.max_batch_size, self._pressure)

    @property
    def busy(self) -> int:
        """Batches in flight, over all lanes, guests included."""
        return len(self._flights) + len(self._guests)

    def in_use(self, key: int) -> bool:
        """Whether items of a lane wait or are in flight, also of one that is closed."""
        lane = self.lanes.get(key)
        if lane and (lane.queue.rows or lane.in_flight):
            return True
        flying = (*(one.lane for one in self._flights.values()), *self._guests.values())
        return any(one.key == key for one in flying)

    def queued(self) -> Iterator[Item]:
        """Every item that waits."""
        for lane in self.lanes.values():
            yield from lane.queue

    def sent(self) -> Iterator[Batch]:
        """Every batch in flight."""
        return iter(self._flights)

    def offer(self, item: Item, lane: int, now: float, *, has_room: bool = False) -> list[Item]:
        """Let an item wait in a lane. Returns those who were thrown out to make room.

        ``has_room``: it waited ``beside`` until now.

        Raises:
            Late: it would not be answered in time.
            Full: there is no room for it.
        """
        place = self.lanes[lane]
        level = item.level
        counts = self.counts
        thrown: list[Item] = []
        if (
            item.answer_by <= now + place.base + place.queue.rows * place.pace
            or item.send_by <= now
        ):
            self._foresee(item, place, now)
        if not has_room and (
            self.beside
            or self.waiting >= self._settings.queue_max_size
            or counts[level] >= self._most_of[level]
        ):
            thrown = self.make_room(item, now)
        item.lane = lane
        item.sent = 0
        place.queue.push(item, now)
        counts[level] += 1
        self.waiting += 1
        self.came[level] = now
        if (
            level < place.hold_level
            or item.alone
            or item.answer_by < place.hold_by
            or item.send_by < place.hold_until
        ):
            place.hold_until = -inf
        return thrown

    def make_room(self, item: Item, now: float) -> list[Item]:
        """Find room for an item that is to wait here, or ``beside``.

        Returns who was thrown out for it, if need be: the newest of the lowest level below its own.
        Who waited ``beside`` is for the caller to take out there.

        Raises:
            Full: there is no room for it.
        """
        level = item.level
        beside = [one for one in self.beside if one is not item]
        alike = self.counts[level] + sum([one.level == level for one in beside])
        if alike >= self._most_of[level]:
            raise Full(f"Exceeds maximum queue size of level {level}", self._retry_after(now))
        if self.waiting + len(beside) < self._settings.queue_max_size:
            return []
        if self._settings.on_full == "DropLowest":
            for lower in range(len(self.counts) - 1, level, -1):
                lanes = self.lanes.values() if self.counts[lower] else ()
                newest = [one for lane in lanes if (one := lane.queue.newest(lower))]
                newest += [one for one in reversed(beside) if one.level == lower]
                if newest:
                    thrown = max(newest, key=_arrived)
                    if thrown.waits:
                        self._drop(thrown)
                    return [thrown]
        raise Full("Exceeds maximum queue size", self._retry_after(now))

    def withdraw(self, item: Item) -> bool:
        """Take out an item whose caller has gone; False where it waits no more.

        Of one that is sent in slices, those in flight stay there and no more are sent.
        """
        if not item.waits:
            return False
        self._drop(item)
        return True

    def urge(self, item: Item, now: float, *, level: int, send_by: float, answer_by: float) -> None:
        """Raise the level of an item that waits, and tighten its deadlines, as far as they do.

        For who came with that level, and needs nothing else.
        """
        if not item.waits:
            return
        lane = self.lanes[item.lane]
        item.send_by = min(item.send_by, send_by)
        item.answer_by = min(item.answer_by, answer_by)
        if level <= item.level:
            self.came[level] = now
            self.counts[item.level] -= 1
            self.counts[level] += 1
        lane.queue.tighten(item, level)
        lane.hold_until = -inf

    def poll(self, now: float) -> list[Batch]:
        """Take out the batches that are to be sent now."""
        self._wake = inf
        batches: list[Batch] = []
        if not self.waiting:
            return batches
        waiting = [lane for lane in self.lanes.values() if lane.queue.rows]
        for lane in waiting:
            self._look(lane, now)
        if len(waiting) > 1:
            waiting = [lane for lane in waiting if lane.queue.rows]
            waiting.sort(key=Lane.turn)
        turns = len(self.lanes) > 1 and self._turns.kept(now)
        for lane in waiting:
            queue = lane.queue
            if now < lane.hold_until and queue.rows < lane.hold_rows:
                self._wake = min(self._wake, lane.hold_until)
                continue
            if turns and queue.rows and self._others_turn(lane, now):
                break
            while lane.in_flight < lane.slots and queue.rows:
                batch = self._next(lane, now)
                if batch is None:
                    break
                batches.append(batch)
        return batches

    def stirs(self, key: int, now: float) -> bool:
        """Whether what came for a lane may be sent by a ``poll`` now.

        If not, the next one is due when a batch finishes, or by ``next_wake`` as it was before; or
        by the deadline of what came.
        """
        lane = self.lanes[key]
        return lane.in_flight < lane.slots and (
            now >= lane.hold_until or lane.queue.rows >= lane.hold_rows
        )

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        wake = self._wake
        if self.waiting:
            for lane in self.lanes.values():
                if lane.queue.rows:
                    wake = min(wake, lane.queue.late_at())
        return None if wake == inf else wake

    def expired(self, now: float) -> list[Item]:
        """Hand over those who are too late, or were given up, since last asked."""
        for lane in self.lanes.values():
            self._look(lane, now)
        expired, self._expired = self._expired, []
        return expired

    def finished(self, batch: Batch, now: float, *, ok: bool = True) -> None:
        """Free the slot of a batch that was answered, or lost. ``ok``: its time is worth learning.

        Other models of the pod are to be polled as well: they may have made way for it.
        """
        lane, group, level, begun, owed = self._flights.pop(batch)
        if not lane.free:
            lane.free_since = now
        lane.in_flight -= 1
        lane.hold_until = -inf
        self.flying[level] -= 1
        self._device.slices -= owed.slice
        took = self._time.finished(lane.key, batch.sent_at, begun, now)
        if owed.aged:
            lane.reserve.unpaid -= 1
            lane.reserve.pay(took * owed.aged)
        cost = group.cost
        if ok:
            cost.learn(batch.rows, now - batch.sent_at)
            if len(self.lanes) > 1:
                self._turns.learn(group.solo, batch.rows, now - batch.sent_at, took, now)
            if cost.batches >= LEARNT:
                lane.base = 2.0 * cost.at_most(lane.limit)
                lane.pace = max(0.99 * lane.pace, cost.at_most(lane.limit) / lane.limit)
        group.used = True
        group.arrivals.ended(batch.rows, now, min(self._settings.max_wait, cost.fixed))
        self._drain.left(batch.rows, now, waiting=self.waiting > 0)

    def occupy(self, key: int, guest: object) -> None:
        """Take a slot of a lane for something that is none of the scheduler's batches."""
        lane = self._guests[guest] = self.lanes[key]
        lane.in_flight += 1

    def vacate(self, guest: object) -> None:
        """Free the slot of a guest."""
        self._guests.pop(guest).in_flight -= 1

    def drain_rate(self, now: float) -> float:
        """Rows a second that leave while others wait; by the learned cost if that never was."""
        rate = self._drain.rate(now)
        if rate is not None:
            return rate
        return max(
            (
                lane.slots * lane.limit / seconds
                for lane in self.lanes.values()
                for group in lane.queue.groups.values()
                if (seconds := group.cost.seconds(lane.limit))
            ),
            default=0.0,
        )

    def explain(self, now: float) -> list[Explanation]:
        """Say for every group of every lane what was learned and decided."""
        return [one for lane in self.lanes.values() for one in lane.explain(now)]

    def _look(self, lane: Lane, now: float) -> None:
        """Take out those who are too late."""
        for item in lane.queue.late(now):
            self._expire(item)

    def _next(self, lane: Lane, now: float) -> Batch | None:
        """Take the next batch of a lane with a slot free, if it may go."""
        queue = lane.queue
        while queue.rows:
            line = queue.turn()
            assert line
            share = self._shares.get(lane.key)
            if share is not None and (until := self._yields_until(lane, line, share, now)) > now:
                _note(line.group, NOT_ITS_TURN)
                self._wake = min(self._wake, until)
                return None
            lead = self._aged(lane, line.level, now)
            first = lead or line
            head, group = first.items[0], first.group
            slice_rows = self._slice_rows(first, now, aged=lead is not None)
            if slice_rows == 0:
                _note(group, MAKES_WAY)
                self._wake = min(self._wake, now + PATIENCE)  # the other may leave without a word
                return None
            cap = lane.cap if slice_rows is None else min(lane.cap, slice_rows)
            room = None
            if self._settings.memory_limit is not None:
                room = Room(self._settings.memory_limit, lane.row_bytes)
                cap = min(cap, room.rows(head))
            most = head.rows if head.alone else min(lane.limit, cap)
            owed = _Owed(slice_rows is not None, 1.0 if lead else 0.0)
            if head.sent or (head.rows > cap and not head.alone):
                return self._slice(lane, first, most, owed, now)
            answer_by = self._tightest(lane, group, most, now)
            if answer_by is None:
                continue
            decision = self._decide(lane, group, first, most, answer_by, now)
            if not decision.rows:
                self._hold(lane, group, first.level, most, decision)
                return None
            return self._fill(lane, line, lead, min(decision.rows, most), room, owed, now)
        return None

    def _fill(
        self,
        lane: Lane,
        line: Line,
        lead: Line | None,
        rows: int,
        room: Room | None,
        owed: "_Owed",
        now: float,
    ) -> Batch:
        """Take a batch of at most so many rows out of the queue."""
        group, level = (lead or line).group, (lead or line).level
        shared = lead is not None and group is line.group
        seats = rows
        if shared:  # with those whose turn it is: only as many aged as the reserve pays for
            price = group.cost.seconds(rows) / rows
            seats = int(lane.reserve.saved / price) if price else 1
        members = lane.queue.take(
            group,
            rows,
            room=room,
            lead=lead,
            lead_rows=max(1, min(seats, rows)),
            ceilings=self._ceilings(line.level if shared else level, group.cost),
        )
        self.waiting -= len(members)
        counts = self.counts
        rows = 0
        for item in members:
            counts[item.level] -= 1
            rows += item.rows
        if shared:
            owed = owed._replace(aged=sum(m.rows for m in members if m.level == level) / rows)
            level = line.level
        batch = Batch(lane.key, members, rows, now)
        self._send(batch, lane, group, level, owed)
        return batch

    def _slice(self, lane: Lane, line: Line, most: int, owed: "_Owed", now: float) -> Batch:
        """Take a part of a line's head that is too large to go whole."""
        head = line.items[0]
        rows = min(most, head.rows - head.sent)
        item, begin = lane.queue.cut(line, rows)
        if not item.waits:
            self._left(item)
        _note(line.group, SLICED)
        batch = Batch(lane.key, (item,), rows, now, begin, sliced=True)
        self._send(batch, lane, line.group, line.level, owed)
        return batch

    def _send(self, batch: Batch, lane: Lane, group: Group, level: int, owed: "_Owed") -> None:
        begun = self._time.sent(batch.sent_at)
        self._flights[batch] = _Flight(lane, group, level, begun, owed)
        lane.in_flight += 1
        lane.hold_until = -inf
        self.flying[level] += 1
        self._device.slices += owed.slice
        lane.reserve.unpaid += owed.aged > 0.0

    def _decide(
        self, lane: Lane, group: Group, line: Line, most: int, answer_by: float, now: float
    ) -> Decision:
        """Ask the strategy about the group whose turn it is."""
        settings = self._settings
        arrivals, coming_until = group.arrivals.expected(now)
        view = View(
            now,
            group.rows,
            group.items,
            group.oldest,
            line.level,
            answer_by,
            min(settings.min_batch_size, most),
            most,
            settings.max_wait * self._rules[line.level].wait_multiplier,
            settings.target_latency,
            settings.optimize,
            arrivals,
            coming_until,
            group.cost,
            lane.slots,
            lane.in_flight,
            lane.free_since,
        )
        decision = self._strategy.decide(view)
        if decision.rows < 0 or (decision.rows == 0 and decision.until <= now):
            decision = Decision(most, decision.reason)  # a wait that is over is none
        elif not decision.rows and any(
            one.rows >= lane.limit or one.alone for one in lane.queue.others(group)
        ):
            decision = Decision(most, OTHERS_FULL)
        elif not decision.rows and (latest := _latest(lane, view, group)) < decision.until:
            decision = Decision(most, NO_TIME) if latest <= now else decision._replace(until=latest)
        _note(group, decision.reason)
        return decision

    def _hold(self, lane: Lane, group: Group, level: int, most: int, decision: Decision) -> None:
        """Ask no more until something changes that the decision to wait rests on."""
        self._wake = min(self._wake, decision.until)
        lane.hold_until = decision.until
        others = max([one.rows for one in lane.queue.others(group)], default=0)
        missing = min(decision.at_rows - group.rows, lane.limit - others)
        lane.hold_rows = lane.queue.rows + max(1, missing)
        lane.hold_level = level
        lane.hold_by = decision.until + group.cost.at_most(most)

    def _tightest(self, lane: Lane, group: Group, most: int, now: float) -> float | None:
        """The earliest deadline that a batch is to be cut for; None once somebody was given up.

        Given up is who would be late in the smallest batch; or in a full one, if smaller ones do
        not keep up with what comes.
        """
        queue, cost = lane.queue, group.cost
        rows = min(group.rows, most)
        earliest = queue.earliest(group, rows)
        if earliest - now >= cost.at_most(rows) or cost.batches < LEARNT:
            return earliest
        fits = cost.rows_at_most(earliest - now)
        keeps_up = fits > 0 and (lane.slots * fits >= group.arrivals.rate(now) * cost.seconds(fits))
        if not self._settings.early_drop:
            return earliest if keeps_up else inf
        least = now + (cost.seconds(1) if keeps_up or not fits else cost.at_most(rows))
        hopeless = queue.hopeless(group, rows, least)
        for item in hopeless:
            lane.queue.remove(item)
            self._expire(item)
        return None if hopeless else earliest

    def _slice_rows(self, line: Line, now: float, *, aged: bool) -> int | None:
        """Rows that a line may send while a higher level is alive, 0: none now; None: any.

        None while one of a higher level waits or is in flight, except by age: the next one that
        comes would have to wait for that one, and for a whole slice behind it.
        """
        longest, device = self._rules[line.level].max_slice, self._device
        if longest is None or not device.alive_above(line.level, now):
            return None
        if device.slices or (not aged and device.present_above(line.level)):
            return 0
        cost = line.group.cost
        return cost.rows_within(longest) if cost.batches else 1

    def _ceilings(self, level: int, cost: Latency) -> dict[int, int] | None:
        """By level below one, what a batch led by that may have at most with items of theirs."""
        if not self._sliced or level >= self._sliced[-1]:
            return None
        return {
            lower: cost.rows_within(longest) if cost.batches else 1
            for lower in self._sliced
            if lower > level and (longest := self._rules[lower].max_slice) is not None
        }

    def _aged(self, lane: Lane, turn: int, now: float) -> Line | None:
        """The line that goes by age, before the one of the level whose turn it is."""
        reserve = lane.reserve
        if self._rules[turn].max_slice is not None:
            turn -= 1  # it may have to make way too
        if not any(self.counts[turn + 1 :]):
            return None
        aged = lane.queue.aged(turn, now - reserve.after)
        if not aged:
            return None
        reserve.save(now, aged.items[0].arrived + reserve.after)
        return aged if reserve.may_go() else None

    def _yields_until(self, lane: Lane, line: Line, share: float, now: float) -> float:
        """How long a lane leaves the device to the main ones."""
        mains = [
            one for one in self.lanes.values() if one.queue.rows and one.key not in self._shares
        ]
        pause = self._time.pause(lane.key, share)
        if pause > now and any(self._time.slower(lane.key, one.key, now) for one in mains):
            return pause
        arrived = line.items[0].arrived
        for one in mains:
            if not one.free:
                level, came = one.turn()
                if level <= line.level and came < arrived:
                    return arrived + PATIENCE
        return now

    def _others_turn(self, lane: Lane, now: float) -> bool:
        """Whether a lane waits until another's batch has ended."""
        line = lane.queue.turn()
        assert line
        own = line.group.solo
        for batch, flight in self._flights.items():
            theirs, rows = flight.group.solo, batch.rows
            if flight.lane is lane or (
                own.batches and theirs.seconds(rows) > FAR_LONGER * own.seconds(rows)
            ):
                continue
            longest = LATE * theirs.at_most(batch.rows) if theirs.batches else PATIENCE
            if now < batch.sent_at + longest:
                _note(line.group, NOT_ITS_TURN)
                self._wake = min(self._wake, batch.sent_at + longest)
                return True
        return False

    def _foresee(self, item: Item, lane: Lane, now: float) -> None:
        """Refuse an item that would be late, by the queue ahead of it and the learned cost.

        Raises:
            Late: it would be.
        """
        if item.answer_by <= now or item.send_by <= now:
            raise Late("Request timeout expired")
        own = lane.queue.groups.get(item.group)
        if not self._settings.early_drop or own is None or own.cost.batches < LEARNT:
            return
        ahead, rows = lane.ahead(item, own)
        if not lane.free:
            ends = (
                batch.sent_at + flight.group.cost.seconds(batch.rows)
                for batch, flight in self._flights.items()
                if flight.lane is lane
            )
            ahead += max(0.0, min(ends, default=now) - now)
        if now + ahead / lane.slots + own.cost.at_most(rows) > item.answer_by:
            raise Late("the deadline would pass before the answer, by what waits and what it takes")

    def _retry_after(self, now: float) -> int:
        """Seconds after which what waits now will have gone, at least 1."""
        rows = sum(lane.queue.rows for lane in self.lanes.values())
        rows += sum(one.rows for one in self.beside)
        rate = self.drain_rate(now)
        return ceil(min(max(rows / rate, 1.0), LONGEST_RETRY)) if rate else 1

    def _expire(self, item: Item) -> None:
        """Take note of one who was taken out of the queue because too late."""
        item.withdrawn = True
        self._left(item)
        self._expired.append(item)

    def _drop(self, item: Item) -> None:
        lane = self.lanes[item.lane]
        lane.queue.remove(item)
        lane.hold_until = -inf
        item.withdrawn = True
        self._left(item)

    def _left(self, item: Item) -> None:
        self.counts[item.level] -= 1
        self.waiting -= 1


def _note(group: Group, reason: str) -> None:
    group.reason = reason
    group.reasons[reason] = group.reasons.get(reason, 0) + 1


def _latest(lane: Lane, view: View, group: Group) -> float:
    """Until when a batch may wait, whatever a strategy says, to be sent and answered in time.

    Half of the time at most where it is not known what that takes.
    """
    if view.cost.batches < LEARNT:
        answered = (view.oldest + view.answer_by) / 2
    else:
        answered = view.answer_by - view.cost.at_most(min(view.rows + 1, view.most))
    return min(answered, lane.queue.half_time(group, view.most))


def _arrived(item: Item) -> float:
    return item.arrived
