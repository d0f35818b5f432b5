"""One model's versions, what waits for them and what of it Triton has.

When which requests go together is the scheduler's business. Here stands what the sidecar adds: the
versions' interfaces, counts of what waits and flies, deadlines of what is in flight, and shadows.

Shadows go only while no real request waits: mostly when the device has room (fewer batches are in
flight, of all versions together, than the shadow's version has slots), rarely beside a real batch.
The slot that they take is taken for real requests too, as Triton cannot be asked to break off;
nothing else of a shadow touches them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, prod
from typing import cast

from tidegate_batcher import scheduler
from tidegate_batcher.device import Device
from tidegate_batcher.item import Item
from tidegate_batcher.scheduler import Scheduler
from tidegate_batcher.strategy import Strategy
from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.exchange import Place
from tidegate_sidecar.core.hardware import capacity
from tidegate_sidecar.core.memory import Largest
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Interface
from tidegate_sidecar.core.shadows import ShadowQueue
from tidegate_sidecar.core.slices import Slices
from tidegate_sidecar.core.version import VersionInfo


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A version that takes requests.

    ``row_bytes``: what a row of answers took lately; None where the metadata tell. ``told``: by
    output, bytes of a row, as far as the metadata tell.
    """

    info: VersionInfo
    interface: Interface
    row_bytes: Largest | None = None
    told: dict[str, int] = field(default_factory=dict)

    def distrust(self) -> None:
        """The metadata told less than there is."""
        self.told.clear()


@dataclass(slots=True, eq=False)
class Batch:
    """Requests of one group that go to Triton as one. ``sent_at``: seconds, as all times here.

    ``planned``: as the scheduler knows it; None: its members are copies, whose answers nobody
    waits for. ``answer_by``: the earliest deadline of a member that still waits. ``sliced``: it
    holds the rows from ``begin`` on of its only member, whose others go in other batches;
    ``slices``: those that they are put together in. ``written_at``, ``answered_at``: when Triton
    had all of it, and when its answer was here; the shell's to set. Once freed: ``ok``, whether
    anybody was answered well; ``flies_on``: other batches of the same members may be in flight.
    ``place``: of its tensors, as far as they lie in shared memory.
    """

    served: Served
    members: Sequence[Pending]
    rows: int
    sent_at: float
    planned: scheduler.Batch | None
    answer_by: float = inf
    sliced: bool = False
    begin: int = 0
    slices: Slices | None = None
    written_at: float = 0.0
    answered_at: float = 0.0
    ok: bool = False
    flies_on: bool = False
    place: Place | None = None

    @property
    def version(self) -> int:
        """The version that it goes to."""
        return self.served.info.version

    @property
    def shadow(self) -> bool:
        """Whether its members are copies."""
        return self.planned is None


class Batcher:
    """The versions, queues and slots of one model.

    ``device``: see ``Scheduler``. ``cores``: see ``capacity``.
    """

    def __init__(self, device: Device | None = None, *, cores: int | None = None) -> None:
        self.served: dict[int, Served] = {}
        self.shadows = ShadowQueue()
        self.scheduler = Scheduler(device)
        self._cores = cores
        self._hardware = BatchSettings().hardware
        self.row_bytes: float | None = None
        """What a row takes of a policy's memory limit, inputs and outputs, of the largest lately;
        None where there is no limit, or no row was sent under it.
        """
        self._rows: Largest | None = None
        self._flying: set[Batch] = set()
        self._wake: float | None = None

    @property
    def waiting(self) -> int:
        """Real requests."""
        return self.scheduler.waiting

    def configure(
        self, settings: BatchSettings, strategy: Strategy, shares: Mapping[int, float]
    ) -> None:
        """Take over a policy; ``shares``: of the device's time, for versions that are bounded."""
        self._hardware = settings.hardware
        self._rows = None if settings.memory_limit is None else self._rows or Largest()
        self.row_bytes = self.row_bytes if self._rows else None
        for version, served in self.served.items():
            slots = capacity(served.info, self._hardware, self._cores).slots
            self.scheduler.lanes[version].slots = slots
        self.scheduler.configure(settings, strategy, shares)

    def serve(self, info: VersionInfo) -> None:
        """Take requests for a version from now on."""
        sizes = list(map(_row_bytes, info.outputs))
        known = sum(size or 0 for size in sizes)
        told = {one.name: size for one, size in zip(info.outputs, sizes, strict=True) if size}
        lately = Largest(known) if None in sizes else None
        served = Served(info, Interface(info), lately, told)
        slots, usual = capacity(info, self._hardware, self._cores)
        self.scheduler.open(
            info.version,
            slots=slots,
            most=served.interface.max_rows,
            usual=usual,
            row_bytes=known,
        )
        self.served[info.version] = served

    def stop(self, version: int) -> list[Pending]:
        """Take no more requests for a version; returns those that waited for it."""
        displaced = cast("list[Pending]", self.scheduler.close(version))
        _left(displaced)
        del self.served[version]
        return displaced

    def in_use(self, version: int) -> bool:
        """Whether requests of a version wait or are in flight."""
        return self.scheduler.in_use(version)

    def offer(self, pending: Pending, now: float, *, has_room: bool = False) -> list[Pending]:
        """Let a request wait for the version that it was assigned to.

        ``has_room``: see ``Scheduler.offer``. Returns those that had to make room for it.

        Raises:
            Full: there is no room.
            Late: it would not be answered in time.
        """
        thrown = self.scheduler.offer(pending, pending.version, now, has_room=has_room)
        pending.tally.waiting += 1
        return self._thrown_out(thrown) if thrown else []

    def make_room(self, pending: Pending, now: float) -> list[Pending]:
        """Find room for a request that waits for its turn in its sequence.

        Returns those that had to make room for it.

        Raises:
            Full: there is no room.
        """
        return self._thrown_out(self.scheduler.make_room(pending, now))

    def urge(self, carrier: Pending, pending: Pending, now: float) -> None:
        """Let what waits for one request wait no longer than another one would."""
        self.scheduler.urge(
            carrier,
            now,
            level=pending.level,
            send_by=pending.send_by,
            answer_by=pending.answer_by,
        )

    def cancel(self, pending: Pending) -> bool:
        """Take a request out of its queue; False where it waits no more."""
        if not self.scheduler.withdraw(pending):
            return False
        _left([pending])
        return True

    def poll(self, now: float, *, quiet: bool = True) -> list[Batch]:
        """Take out the batches that are to be sent now. ``quiet``: shadows may go."""
        batches = [self._take(planned) for planned in self.scheduler.poll(now)]
        self._wake = self.scheduler.next_wake()
        if quiet and self.shadows and not self.waiting:
            batches += self._poll_shadows(now)
        return batches

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        due = inf
        for batch in self._flying:
            due = min(due, batch.answer_by)
        if self._wake is not None and self._wake < due:
            return self._wake
        return due if due < inf else None

    def expired(self, now: float) -> list[Pending]:
        """Take out what waited for too long, as the last poll found it."""
        found = cast("list[Pending]", self.scheduler.expired(now))
        _left(found)
        return found

    def overdue(self, now: float) -> list[Pending]:
        """What Triton has, somebody still waits for, and nobody would have any more; once."""
        found: list[Pending] = []
        for batch in self._flying:
            if batch.answer_by <= now:
                alive = [one for one in batch.members if not one.cancelled]
                found += (one for one in alive if one.answer_by <= now)
                later = (one.answer_by for one in alive if one.answer_by > now)
                batch.answer_by = min(later, default=inf)
        return found

    def finished(self, batch: Batch, now: float, *, ok: bool = True) -> None:
        """Free the slot of a batch that was answered, or lost."""
        self._flying.discard(batch)
        for pending in batch.members:
            pending.tally.in_flight -= 1
        if batch.planned is None:
            self.scheduler.vacate(batch)
            self.shadows.finished(now)
        else:
            self.scheduler.finished(batch.planned, now, ok=ok)

    def measure(self, batch: Batch, size: int) -> None:
        """Learn what a batch's answer takes, in bytes, where the metadata leave it open."""
        row_bytes = batch.served.row_bytes
        lane = self.scheduler.lanes.get(batch.version)
        if row_bytes and lane and self.served[batch.version] is batch.served:
            lane.row_bytes = row_bytes.add(size / batch.rows)

    def unanswered(self) -> Iterator[Pending]:
        """Every request that waits, or that Triton has and somebody still waits for."""
        yield from cast("Iterator[Pending]", self.scheduler.queued())
        for batch in self._flying:
            yield from (one for one in batch.members if not one.cancelled)

    def _thrown_out(self, thrown: Sequence[Item]) -> list[Pending]:
        """Count those out who waited here."""
        beside = self.scheduler.beside
        found = cast("list[Pending]", thrown)
        _left([one for one in found if one not in beside])
        return found

    def _take(self, planned: scheduler.Batch) -> Batch:
        members = cast("Sequence[Pending]", planned.members)
        served = self.served[planned.lane]
        now = planned.sent_at
        answer_by = inf
        for pending in members:
            tally = pending.tally
            tally.in_flight += 1
            if pending.answer_by < answer_by:  # noqa: PLR1730 - min is slower, and this is often
                answer_by = pending.answer_by
            if not planned.begin:
                tally.waiting -= 1
                tally.queued.observe(now - pending.arrived)
        batch = Batch(
            served,
            members,
            planned.rows,
            now,
            planned,
            answer_by,
            planned.sliced,
            planned.begin,
        )
        if self._rows:
            head, lane = members[0], self.scheduler.lanes[planned.lane]
            self.row_bytes = self._rows.add(head.size / head.rows + lane.row_bytes)
        self._flying.add(batch)
        return batch

    def _poll_shadows(self, now: float) -> list[Batch]:
        """Take out a batch of shadows; no real request waits, so no other wake is set."""
        version = self.shadows.head.version
        served = self.served[version]
        if self.shadows.in_flight or not self.scheduler.lanes[version].free:
            return []
        lane = self.scheduler.lanes[version]
        idle = self.scheduler.busy < lane.slots
        not_before = self.shadows.not_before(idle=idle)
        if not_before > now:
            self._wake = not_before if idle else None  # the batch in flight ends before
            return []
        members = self.shadows.pop_batch(lane.cap, now)
        for shadow in members:
            shadow.arrived = now
            shadow.tally.in_flight += 1
        batch = Batch(served, members, sum(shadow.rows for shadow in members), now, None)
        self._flying.add(batch)
        self.scheduler.occupy(version, batch)
        return [batch]


def _left(members: Sequence[Pending]) -> None:
    """Count those out that wait no more; what is sent in part was counted out before."""
    for pending in members:
        if not pending.sent:
            pending.tally.waiting -= 1


def _row_bytes(output: Tensor) -> int | None:
    """Bytes of an output for each row; None where the metadata leave them open."""
    element = tensors.ELEMENT_BYTES.get(output.datatype)
    return (
        None
        if element is None or min(output.shape, default=0) < 0
        else element * prod(output.shape)
    )
