"""Equal requests are sent once, and answers are kept for later equal ones, for a while.

Two requests are equal when they go to the same version, may share a batch (types, shapes of a row
and custom parameters are equal, `request.Group`) and have the same rows and bytes in every input,
whether those came as JSON or as binary data. What the group leaves out (id, priority, deadlines,
outputs asked for and their form) is each caller's own: the outputs that any of them asks for are
asked of Triton, and each is answered by itself.

Requests that wait for one answer are an entry. A carrier stands for them in the queue: it has the
highest priority and the earliest deadlines of those who wait, and leaves with the last of them.
What is sent can take in new ones, as long as it asks for all the outputs that they want.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import inf
from typing import Final, NamedTuple

from tidegate_contract.table import Deduplication
from tidegate_sidecar.core.exchange import Cut, Rows
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Buffer, Group

ENTRY_BYTES: Final = 1024
"""What an answer that is kept takes beside its tensors, about."""
_DIGEST_BYTES: Final = 16


class Key(NamedTuple):
    """Equal for equal requests, and for no others: the digest is one that nobody can forge."""

    version: int
    group: Group
    rows: int
    lengths: tuple[int, ...]
    digest: bytes


def key(version: int, group: Group, rows: int, buffers: Sequence[Buffer]) -> Key:
    """What tells a request from others. ``buffers``: its inputs, in the order of its group.

    The lengths say which byte belongs to which input.
    """
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for one in buffers:
        digest.update(one)
    return Key(version, group, rows, tuple(map(len, buffers)), digest.digest())


class Carrier(Pending):
    """Stands in the queue for equal requests; nobody waits for it, and it counts nowhere.

    ``outputs``: asked for by any of them. ``flying``: Triton was asked, for no more than that.
    ``answered``: what it said to all of them.
    """

    __slots__ = ("answered", "flying", "key", "outputs", "waiters")

    def __init__(self, first: Pending, its_key: Key) -> None:
        super().__init__(None, first.decoded, first.body, first.start, first.level, first.arrived)
        self.cancelled = self.counted = True
        self.arm = first.arm
        self.version = first.version
        self.tally = first.tally
        self.checks = ()
        self.plan = first.plan
        self.buffers = first.buffers
        self.rows = first.rows
        self.group = first.group
        self.alone = first.alone
        self.size = first.size
        self.send_by = first.send_by
        self.answer_by = first.answer_by
        self.key = its_key
        self.outputs = outputs(first)
        self.flying = False
        self.answered: Rows | None = None
        self.waiters: dict[Pending, None] = {first: None}

    @property
    def deserted(self) -> bool:
        """Whether nobody waits any longer."""
        return all(one.cancelled for one in self.waiters)


def outputs(pending: Pending) -> set[str]:
    """The outputs that a request asks for."""
    return {one.name for one in pending.plan.call.outputs}


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer that is kept. ``asked``: the outputs that it was asked for; some may not be there.

    ``until``: seconds.
    """

    rows: Rows
    asked: frozenset[str]
    until: float
    size: int


class Cache:
    """Answers, the longest unused given up first. Bounds are those of the settings, exactly."""

    def __init__(self) -> None:
        self._settings = Deduplication(ttl=0.0)
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self.size = 0
        """Bytes."""

    def __len__(self) -> int:
        return len(self._kept)

    def configure(self, settings: Deduplication) -> None:
        """Keep answers by other bounds from now on; a shorter life holds for later ones."""
        self._settings = settings
        self._make_room(0)

    def find(self, wanted: Key, outputs: Iterable[str], now: float) -> Rows | None:
        """The answer to an equal request, where it has all the outputs."""
        kept = self._kept.get(wanted)
        if kept is None:
            return None
        if kept.until <= now:
            self._drop(wanted)
            return None
        if not kept.asked.issuperset(outputs):
            return None
        self._kept.move_to_end(wanted)
        return kept.rows

    def keep(self, answered: Key, asked: Iterable[str], rows: Rows, now: float) -> None:
        """Keep a copy of an answer, where there is room for it at all."""
        size = ENTRY_BYTES + len(answered.group.parameters)
        size += sum(len(piece) for cut in rows.outputs.values() for piece in cut.pieces)
        settings = self._settings
        if settings.ttl <= 0 or settings.max_entries < 1 or size > settings.max_bytes:
            return
        if answered in self._kept:
            self._drop(answered)
        self._make_room(size)
        self._kept[answered] = _Kept(_copied(rows), frozenset(asked), now + settings.ttl, size)
        self.size += size

    def forget(self, version: int) -> None:
        """Give up a version's answers."""
        for one in [one for one in self._kept if one.version == version]:
            self._drop(one)

    def clear(self) -> None:
        """Give up everything."""
        self._kept.clear()
        self.size = 0

    def _make_room(self, size: int) -> None:
        """Hold the bounds, with one more entry of a size above 0."""
        settings = self._settings
        entries = settings.max_entries - (size > 0)
        while self._kept and (len(self._kept) > entries or self.size + size > settings.max_bytes):
            self._drop(next(iter(self._kept)))

    def _drop(self, one: Key) -> None:
        self.size -= self._kept.pop(one).size


def _copied(rows: Rows) -> Rows:
    """The same without the batch's buffer, of which it may be a small part."""
    outputs = {
        name: Cut(cut.datatype, cut.shape, (memoryview(bytes(cut.data)),))
        for name, cut in rows.outputs.items()
    }
    return Rows(rows.label, outputs, rows.parameters)


class Deduplicator:
    """One model's equal requests. Times are seconds of any one steady clock.

    Usage, for a request that is to be sent::

        its_key = key(version, plan.group, plan.rows, buffers)
        if rows := deduplicator.find(its_key, pending, now):
            ...  # it is answered
        elif carrier := deduplicator.join(its_key, pending):
            ...  # urge the carrier on, where it still waits
        else:
            ...  # offer deduplicator.carry(its_key, pending) to the scheduler
    """

    def __init__(self) -> None:
        self.on = False
        self.cache = Cache()
        self._open: dict[Key, Carrier] = {}
        self._carriers: dict[Pending, Carrier] = {}
        self._sent: set[Carrier] = set()
        self.due = inf
        """No caller's deadline for an answer that is on its way is earlier, in seconds."""

    @property
    def waiting(self) -> Collection[Pending]:
        """Those who wait for the answer to a carrier, whether that is sent or not."""
        return self._carriers.keys()

    def configure(self, settings: Deduplication | None) -> None:
        """Follow a policy from the next request on; None: every request goes by itself."""
        self.on = settings is not None
        if settings:
            self.cache.configure(settings)
        else:
            self._open.clear()
            self.cache.clear()

    def find(self, its_key: Key, pending: Pending, now: float) -> Rows | None:
        """What was answered to an equal request before, where it has all that is asked for."""
        return self.cache.find(its_key, outputs(pending), now)

    def join(self, its_key: Key, pending: Pending) -> Carrier | None:
        """Let a request wait for the answer to an equal one; None where there is none to wait for.

        The caller urges a carrier that is not sent: the new request may be in more of a hurry.
        """
        carrier = self._open.get(its_key)
        if carrier is None:
            return None
        wanted = outputs(pending)
        if carrier.flying and not wanted <= carrier.outputs:
            return None
        carrier.outputs |= wanted
        carrier.waiters[pending] = None
        self._carriers[pending] = carrier
        if carrier.flying:
            self.due = min(self.due, pending.answer_by)
        return carrier

    def carry(self, its_key: Key, pending: Pending) -> Carrier:
        """Stand for a request, and for the equal ones that come until it is answered."""
        carrier = Carrier(pending, its_key)
        self._open[its_key] = carrier
        self._carriers[pending] = carrier
        return carrier

    def sent(self, carrier: Carrier) -> None:
        """Take note that Triton is asked now, by who is not parted already."""
        if carrier.waiters and not carrier.flying:
            carrier.flying = True
            self._sent.add(carrier)
            self.due = min([self.due, *(one.answer_by for one in carrier.waiters)])

    def overdue(self, now: float) -> list[Pending]:
        """Who waits for what was sent, and would not have its answer any more; once."""
        if now < self.due:
            return []
        waiters = [one for carrier in self._sent for one in carrier.waiters if not one.cancelled]
        self.due = min((by for one in waiters if (by := one.answer_by) > now), default=inf)
        return [one for one in waiters if one.answer_by <= now]

    def leave(self, pending: Pending) -> Carrier | None:
        """Take note that a caller has gone; returns the carrier if nobody needs that to be sent.

        Who waits for an answer on its way stays, and counts by what becomes of it.
        """
        carrier = self._carriers.get(pending)
        if carrier is None:
            return None
        if carrier.flying:
            if not (carrier.waits and carrier.deserted):
                return None
            self.part(carrier)  # the rest of its rows is not to be sent
            return carrier
        del self._carriers[pending]
        del carrier.waiters[pending]
        if carrier.waiters:
            return None
        self._close(carrier)
        return carrier

    def part(self, carrier: Carrier) -> list[Pending]:
        """Take apart what a carrier stood for: it is not to be answered any more, or is lost."""
        self._close(carrier)
        self._sent.discard(carrier)
        for one in carrier.waiters:
            self._carriers.pop(one, None)
        waiters = list(carrier.waiters)
        carrier.waiters = {}
        return waiters

    def answered(self, carrier: Carrier, rows: Rows, now: float) -> list[Pending]:
        """Keep an answer, and return those who have waited for it."""
        if self._open.get(carrier.key) is carrier:
            self.cache.keep(carrier.key, carrier.outputs, rows, now)
        return self.part(carrier)

    def forget(self, version: int) -> None:
        """Take a version for another from now on: it is unloaded, or loaded anew."""
        self.cache.forget(version)
        for its_key in [one for one in self._open if one.version == version]:
            del self._open[its_key]

    def _close(self, carrier: Carrier) -> None:
        if self._open.get(carrier.key) is carrier:
            del self._open[carrier.key]


def late_ones(waiters: Iterable[Pending], carrier: Carrier, now: float) -> set[Pending]:
    """Whose time is over, of those whose carrier expired; the others may still be answered.

    Where nobody's is over, the carrier was given up because the earliest cannot be met.
    """
    waiters = list(waiters)
    over = {one for one in waiters if min(one.send_by, one.answer_by) <= now}
    return over or {one for one in waiters if one.answer_by <= carrier.answer_by}
