"""When which requests go to Triton together.

Each version has as many slots as Triton has instances of it: one batch in flight for each. A free
slot takes a batch at once, unless the batch is not full and its policy lets it wait for company.
While all slots are taken the queue gathers, so batches grow with the load by themselves.

A version beside the main ones shares their device, in two ways that hold while they wait:

* Order. It sends in its turn: not before a main version whose requests have waited longer. By its
  own slot alone it would always be the next on a device that works off one batch after the other,
  and look faster than an equal version that has most of the traffic (by a third at 5%).
* Bounds. If its batches take longer than theirs, it pauses after each until that was within its
  bound of the device's time. Small batches cost more for each request, so a bound whatever they
  take would make an equal version slower (by 1.7 times at 20% of the traffic).

Shadows go only while no real request waits: mostly when the device has room (fewer batches are in
flight, of all versions together, than the shadow's version has slots), rarely beside a real batch.
The slot that they take is taken for real requests too, as Triton cannot be asked to break off;
nothing else of a shadow touches them.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.queue import Queue
from tidegate_sidecar.core.request import Interface
from tidegate_sidecar.core.shadows import ShadowQueue
from tidegate_sidecar.core.version import VersionInfo

WINDOW: Final = 10.0
"""Seconds over which versions' batches are compared."""
PATIENCE: Final = 1.0
"""Seconds that a version waits for its turn: a main version that hangs must not stop the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one group that go to Triton as one. ``sent_at``: seconds, as all times here.

    ``shadow``: its members are copies, whose answers nobody waits for.
    """

    version: int
    members: Sequence[Pending]
    rows: int
    sent_at: float
    shadow: bool = False


@dataclass(slots=True, eq=False)
class Served:
    """A version that takes requests: its queue and what of it is in flight."""

    info: VersionInfo
    interface: Interface
    queue: Queue = field(default_factory=Queue)
    in_flight: set[Batch] = field(default_factory=set)

    @property
    def free(self) -> bool:
        """Whether a slot is free."""
        return len(self.in_flight) < self.info.instances


class _Took(NamedTuple):
    """How long a batch took, in seconds, by three accounts, each of which is wrong somewhere.

    ``in_flight``: from sent to finished, with what it waited for. ``in_turn``: since another
    batch finished, if that was later; right on a device that works off one after the other.
    ``in_part``: time divided among all that are in flight; right on one that works on all at once.
    """

    in_flight: float
    in_turn: float
    in_part: float


@dataclass(slots=True)
class _Sum:
    """Batches of one version within the window, by the same accounts."""

    batches: int = 0
    in_flight: float = 0.0
    in_turn: float = 0.0
    in_part: float = 0.0

    def add(self, took: _Took, times: int) -> None:
        """Count a batch, or with -1 forget it."""
        self.batches += times
        self.in_flight += times * took.in_flight
        self.in_turn += times * took.in_turn
        self.in_part += times * took.in_part


class DeviceTime:
    """What each version's batches took, the last one and those within the window."""

    def __init__(self) -> None:
        self._started: dict[Batch, float] = {}
        self._parts = 0.0
        self._parts_at = 0.0
        self._last_end = float("-inf")
        self._finished: deque[tuple[float, int, _Took]] = deque()
        self._sums: dict[int, _Sum] = {}
        self._newest: dict[int, tuple[float, float]] = {}

    def sent(self, batch: Batch) -> None:
        """A batch is in flight from now on."""
        self._divide(batch.sent_at)
        self._started[batch] = self._parts

    def finished(self, batch: Batch, now: float) -> None:
        """A batch is in flight no more."""
        self._divide(now)
        took = _Took(
            in_flight=now - batch.sent_at,
            in_turn=now - max(batch.sent_at, self._last_end),
            in_part=self._parts - self._started.pop(batch),
        )
        self._last_end = now
        self._newest[batch.version] = now, took.in_flight
        self._finished.append((now, batch.version, took))
        self._sums.setdefault(batch.version, _Sum()).add(took, 1)
        self._forget(now)

    def pause(self, version: int, share: float) -> float:
        """Until when a version pauses, for its last batch to have been a share of the time."""
        ended, seconds = self._newest.get(version, (float("-inf"), 0.0))
        return ended + seconds * (1 / share - 1)

    def slower(self, version: int, than: int, now: float) -> bool:
        """Whether a version's batches take longer than another's, whatever the device is like.

        By both accounts of which one is right; or more than twice as long in flight: no more than
        that is explained by waiting for a batch of the other, or by sharing with one.
        """
        self._forget(now)
        mine, other = self._sums.get(version), self._sums.get(than)
        if not mine or not other:
            return False
        mean = 1 / mine.batches, 1 / other.batches
        longer = (
            mine.in_turn * mean[0] > other.in_turn * mean[1]
            and mine.in_part * mean[0] > other.in_part * mean[1]
        )
        return longer or mine.in_flight * mean[0] > 2 * other.in_flight * mean[1]

    def _forget(self, now: float) -> None:
        while self._finished and self._finished[0][0] + WINDOW <= now:
            _, version, took = self._finished.popleft()
            self._sums[version].add(took, -1)
            if not self._sums[version].batches:
                del self._sums[version]  # and with it what rounding left

    def _divide(self, now: float) -> None:
        """Divide the time since the last change among the batches in flight."""
        if self._started:
            self._parts += (now - self._parts_at) / len(self._started)
        self._parts_at = now


class Batcher:
    """The queues and slots of one model."""

    def __init__(self) -> None:
        self.served: dict[int, Served] = {}
        self._leaving: list[Served] = []
        self._device = DeviceTime()
        self._settings = BatchSettings()
        self._device_shares: Mapping[int, float] = {}
        self._wake: float | None = None
        self.shadows = ShadowQueue()
        self.waiting = 0
        """Real requests."""

    def configure(self, settings: BatchSettings, device_shares: Mapping[int, float]) -> None:
        """Take over a policy; ``device_shares`` has the versions that are bounded."""
        self._settings = settings
        self._device_shares = device_shares
        for served in self.served.values():
            self._limit(served)

    def serve(self, info: VersionInfo) -> None:
        """Take requests for a version from now on."""
        served = Served(info, Interface(info))
        self._limit(served)
        self.served[info.version] = served

    def stop(self, version: int) -> list[Pending]:
        """Take no more requests for a version; returns those that waited for it."""
        served = self.served.pop(version)
        if served.in_flight:
            self._leaving.append(served)
        displaced = list(served.queue)
        self._left(displaced)
        return displaced

    def in_use(self, version: int) -> bool:
        """Whether requests of a version wait or are in flight."""
        served = self.served.get(version)
        return bool(served and (served.queue or served.in_flight)) or any(
            one.info.version == version for one in self._leaving
        )

    def offer(self, pending: Pending) -> None:
        """Let a request wait for the version that it was assigned to."""
        self.served[pending.version].queue.push(pending)
        pending.tally.waiting += 1
        self.waiting += 1

    def cancel(self, pending: Pending) -> bool:
        """Take a request out of its queue; False where it waits no more."""
        served = self.served.get(pending.version)
        if not served or not served.queue.remove(pending):
            return False
        self._left([pending])
        return True

    def poll(self, now: float, *, quiet: bool = True) -> list[Batch]:
        """Take out the batches that are to be sent now. ``quiet``: shadows may go."""
        batches = []
        self._wake = None
        waiting = [served for served in self.served.values() if served.queue]
        if len(waiting) > 1:
            waiting.sort(key=_turn)
        for served in waiting:
            while served.queue and served.free:
                not_before = self._not_before(served, now)
                if not_before > now:
                    self._wake = min(self._wake or not_before, not_before)
                    break
                batches.append(self._take(served, now))
        if quiet and self.shadows and not self.waiting:
            batches += self._poll_shadows(now)
        return batches

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        return self._wake

    def finished(self, batch: Batch, now: float) -> None:
        """Free the slot of a batch that was answered, or lost."""
        if batch.shadow:
            self.shadows.finished(now)
        else:
            self._device.finished(batch, now)
        for pending in batch.members:
            pending.tally.in_flight -= 1
        for served in (*self.served.values(), *self._leaving):
            served.in_flight.discard(batch)
        self._leaving = [served for served in self._leaving if served.in_flight]

    def unanswered(self) -> Iterator[Pending]:
        """Every request that waits, or that Triton has and somebody still waits for."""
        for served in self.served.values():
            yield from served.queue
        for served in (*self.served.values(), *self._leaving):
            for batch in served.in_flight:
                yield from (one for one in batch.members if not one.cancelled)

    def _take(self, served: Served, now: float) -> Batch:
        members = served.queue.pop_batch()
        self._left(members)
        rows = 0
        for pending in members:
            rows += pending.plan.rows
            pending.tally.in_flight += 1
            pending.tally.queued.observe(now - pending.arrived)
        batch = Batch(served.info.version, members, rows, now)
        served.in_flight.add(batch)
        self._device.sent(batch)
        return batch

    def _poll_shadows(self, now: float) -> list[Batch]:
        """Take out a batch of shadows; no real request waits, so no other wake is set."""
        served = self.served[self.shadows.head.version]
        busy = sum(len(one.in_flight) for one in (*self.served.values(), *self._leaving))
        if self.shadows.in_flight or not served.free:
            return []
        idle = busy < served.info.instances
        not_before = self.shadows.not_before(idle=idle)
        if not_before > now:
            self._wake = not_before if idle else None  # the batch in flight ends before
            return []
        members = self.shadows.pop_batch(served.interface.max_rows, now)
        for shadow in members:
            shadow.arrived = now
            shadow.tally.in_flight += 1
        rows = sum(shadow.plan.rows for shadow in members)
        batch = Batch(served.info.version, members, rows, now, shadow=True)
        served.in_flight.add(batch)
        return [batch]

    def _left(self, members: Sequence[Pending]) -> None:
        self.waiting -= len(members)
        for pending in members:
            pending.tally.waiting -= 1

    def _limit(self, served: Served) -> None:
        rows = served.interface.max_rows
        served.queue.limit(min(rows, self._settings.max_batch_size or rows))

    def _not_before(self, served: Served, now: float) -> float:
        """When a version that waits, with a slot free, may send."""
        share = self._device_shares.get(served.info.version)
        if share is not None and (until := self._yields_until(served, share, now)) > now:
            return until
        if not self._settings.max_wait or served.queue.full:
            return now
        return served.queue.oldest + self._settings.max_wait

    def _yields_until(self, served: Served, share: float, now: float) -> float:
        """How long a version leaves the device to the main ones."""
        version = served.info.version
        mains = [
            one
            for one in self.served.values()
            if one.queue and one.info.version not in self._device_shares
        ]
        pause = self._device.pause(version, share)
        if pause > now and any(
            self._device.slower(version, one.info.version, now) for one in mains
        ):
            return pause
        head = served.queue.head
        for level, arrived in (one.queue.turn for one in mains if not one.free):
            if level <= head.priority and arrived < head.arrived:
                return head.arrived + PATIENCE
        return now


def _turn(served: Served) -> tuple[int, float]:
    return served.queue.turn
