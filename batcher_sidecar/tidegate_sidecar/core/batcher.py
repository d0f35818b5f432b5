"""When which requests go to Triton together.

Each version has as many slots as Triton has instances of it: one batch in flight for each. A free
slot takes a batch at once, unless the batch is not full and its policy lets it wait for company.
While all slots are taken the queue gathers, so batches grow with the load by themselves.

A version other than the one that has the traffic shares its device: while others wait, it sends
only as long as its part of the device's time, over a window of finished batches, is within bounds.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.queue import Queue
from tidegate_sidecar.core.request import Interface
from tidegate_sidecar.core.version import VersionInfo

WINDOW: Final = 10.0
"""Seconds over which a version's part of the device's time is taken."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Requests of one group that go to Triton as one. ``sent_at``: seconds, as all times here."""

    version: int
    members: list[Pending]
    rows: int
    sent_at: float


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


class DeviceTime:
    """Seconds that each version's batches took within the window."""

    def __init__(self) -> None:
        self._finished: deque[tuple[float, int, float]] = deque()
        self._seconds: dict[int, float] = {}

    def add(self, version: int, seconds: float, now: float) -> None:
        """Count a finished batch."""
        self._forget(now)
        self._finished.append((now, version, seconds))
        self._seconds[version] = self._seconds.get(version, 0.0) + seconds

    def share(self, version: int, now: float) -> float:
        """A version's part, 0 to 1."""
        self._forget(now)
        return self._seconds.get(version, 0.0) / (sum(self._seconds.values()) or 1.0)

    @property
    def next_change(self) -> float:
        """When the oldest batch leaves the window."""
        return self._finished[0][0] + WINDOW

    def _forget(self, now: float) -> None:
        while self._finished and self.next_change <= now:
            _, version, seconds = self._finished.popleft()
            self._seconds[version] -= seconds
            if not any(one[1] == version for one in self._finished):
                del self._seconds[version]  # and with it what rounding left


class Batcher:
    """The queues and slots of one model."""

    def __init__(self) -> None:
        self.served: dict[int, Served] = {}
        self._leaving: list[Served] = []
        self._device = DeviceTime()
        self._settings = BatchSettings()
        self._device_shares: Mapping[int, float] = {}
        self._wake: float | None = None
        self.waiting = 0

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

    def poll(self, now: float) -> list[Batch]:
        """Take out the batches that are to be sent now."""
        batches = []
        self._wake = None
        for served in self.served.values():
            while served.queue and served.free:
                not_before = self._not_before(served, now)
                if not_before > now:
                    self._wake = min(self._wake or not_before, not_before)
                    break
                batches.append(self._take(served, now))
        return batches

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        return self._wake

    def finished(self, batch: Batch, now: float) -> None:
        """Free the slot of a batch that was answered, or lost."""
        self._device.add(batch.version, now - batch.sent_at, now)
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
        return batch

    def _left(self, members: Sequence[Pending]) -> None:
        self.waiting -= len(members)
        for pending in members:
            pending.tally.waiting -= 1

    def _limit(self, served: Served) -> None:
        rows = served.interface.max_rows
        served.queue.limit(min(rows, self._settings.max_batch_size or rows))

    def _not_before(self, served: Served, now: float) -> float:
        """When a version that waits, with a slot free, may send."""
        version = served.info.version
        share = self._device_shares.get(version)
        if (
            share is not None
            and self._others_wait(served)
            and self._device.share(version, now) > share
        ):
            return self._device.next_change
        if not self._settings.max_wait or served.queue.full:
            return now
        return served.queue.oldest + self._settings.max_wait

    def _others_wait(self, served: Served) -> bool:
        return any(one.queue for one in self.served.values() if one is not served)
