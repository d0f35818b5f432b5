"""How requests of one model come to wait, and how they leave without having been sent.

A request that was assigned to a version waits for one of three things: for its turn in its
sequence; for the answer to an equal request, in whose place a carrier is in the queue; or, itself
in the queue, for a batch. An answer that was kept is its own at once. Who is too late, or made room
for others, is given up.

One bound holds for those in the queue and those who wait for their turn together. Who waits for the
answer to an equal request takes up no room: it leaves with that one, and costs the device nothing.
"""

from collections.abc import Iterable, Mapping
from http import HTTPStatus

from tidegate_batcher.scheduler import LONGEST_RETRY, Full, Late
from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.batcher import Batcher
from tidegate_sidecar.core.counters import Counters
from tidegate_sidecar.core.dedup import Carrier, Deduplicator, Key, key, late_ones
from tidegate_sidecar.core.delivery import Result, part
from tidegate_sidecar.core.ending import end
from tidegate_sidecar.core.exchange import Rows
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, late
from tidegate_sidecar.core.sequences import Sequences


class OfTheQueue(Refusal):
    """A refusal that the queue answers for, and that is counted already."""


class Entry:
    """The way into one model's queue. Times are seconds of any one steady clock.

    ``thrown_out``: those who made room and were not told yet. ``again``: somebody entered anew,
    or may have its turn, since it was last reset, so a ``poll`` is due.
    """

    def __init__(
        self,
        batcher: Batcher,
        deduplicator: Deduplicator,
        sequences: Sequences,
        counters: Counters,
    ) -> None:
        self.thrown_out: list[Pending] = []
        self.again = False
        self._batcher = batcher
        self._deduplicator = deduplicator
        self._sequences = sequences
        self._counters = counters
        self._quotas: Mapping[int, float] = {}
        self._out_of_turn: list[tuple[Pending, Refusal]] = []
        batcher.scheduler.beside = sequences.held
        self._due: list[tuple[Pending, Result]] = []

    def configure(self, settings: BatchSettings, quotas: Mapping[int, float]) -> None:
        """Take over a policy. ``quotas``: by version, requests that may wait, where bounded."""
        self._quotas = quotas
        self._deduplicator.configure(settings.deduplication)

    @property
    def waiting(self) -> int:
        """Requests that wait, without shadows."""
        return self._batcher.scheduler.waiting + len(self._sequences.held)

    def enter(self, pending: Pending, now: float, *, admitted: bool = False) -> None:
        """Let a request wait, or have the answer to an equal one.

        ``admitted``: it was let in before, so the bounds for new requests do not hold for it.

        Raises:
            Refusal: 429 over its arm's quota, for which the arm answers.
            OfTheQueue: 429 where the queue is full, 504 where it takes too long; counted.
        """
        its_key = self._key(pending, now) if self._deduplicator.on else None
        if its_key is None:
            self._wait(pending, pending, now, admitted)
        elif rows := self._deduplicator.find(its_key, pending, now):
            self._answer(pending, rows, now)
        elif carrier := self._deduplicator.join(its_key, pending):
            self._batcher.urge(carrier, pending, now)
        else:
            carrier = self._deduplicator.carry(its_key, pending)
            try:
                self._wait(pending, carrier, now, admitted)
            except Refusal:
                self._deduplicator.part(carrier)
                raise

    def line_up(self, pending: Pending, now: float) -> None:
        """Let part of a sequence wait, for its turn first.

        Raises:
            Refusal: as ``enter``.
        """
        if pending in self._sequences.held:
            self._hold(pending, now)
            return
        try:
            self._wait(pending, pending, now, admitted=False)
        except Refusal:
            self._sequences.over(pending, now)
            raise

    def take_turns(self, now: float) -> None:
        """Let those wait with all others whose predecessor in their sequence is answered."""
        for pending in self._sequences.turns():
            try:
                self._wait(pending, pending, now, admitted=True, has_room=True)
            except OfTheQueue as refusal:
                self._pass_on(pending, now)
                self._out_of_turn.append((pending, refusal))

    def leave(self, pending: Pending, now: float) -> bool:
        """Take out a request whose caller has gone; False where it waits nowhere here."""
        if carrier := self._deduplicator.leave(pending):
            self._batcher.cancel(carrier)
            carrier.slices = None
            return True
        if self._batcher.cancel(pending):
            self._sequences.over(pending, now)
            return True
        return self._sequences.leave(pending)

    def given_up(self, now: float) -> list[tuple[Pending, Refusal]]:
        """Give up what is too late, and what was thrown out, with the answers that they get."""
        given_up, self._out_of_turn = self._out_of_turn, []
        expired = self._batcher.expired(now)
        if self._sequences.held:
            expired += self._sequences.late(now)
        for pending in expired:
            if isinstance(pending, Carrier):
                given_up += self._release(pending, now)
                continue
            given_up.append((pending, self._expire(pending, now)))
            self._pass_on(pending, now)
        overdue = self._batcher.overdue(now)
        if self._deduplicator.due <= now:
            overdue += self._deduplicator.overdue(now)
        for pending in overdue:
            if pending.cancelled:  # it has two slices in flight
                continue
            self._batcher.cancel(pending)
            given_up.append((pending, self._expire(pending, now, sent=True)))
        if self.thrown_out:
            refusal = Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Exceeds maximum queue size: thrown out for a request of a higher priority",
                self._retry_after(now),
            )
            given_up += ((one, refusal) for one in self.thrown_out if not one.cancelled)
            self.thrown_out = []
        return given_up

    def hand_out(self, carrier: Carrier, result: Result, now: float) -> None:
        """Answer all those for whom a carrier stood."""
        rows = carrier.answered
        waiters = (
            self._deduplicator.answered(carrier, rows, now)
            if rows
            else self._deduplicator.part(carrier)
        )
        for pending in waiters:
            own = rows.answer(part(pending)) if rows else result
            end(pending, own, now)
            if not pending.cancelled:
                self._due.append((pending, own))
                pending.counted = True

    def handed_out(self) -> list[tuple[Pending, Result]]:
        """Who is answered without having been in a batch, and is counted; since last asked."""
        due, self._due = self._due, []
        return [(pending, result) for pending, result in due if not pending.cancelled]

    def callers(self, items: Iterable[Pending]) -> list[Pending]:
        """The requests, and in the place of a carrier those for whom it stood and who are there."""
        callers: list[Pending] = []
        for one in items:
            if isinstance(one, Carrier):
                one.slices = None
                waiters = self._deduplicator.part(one)
                callers += (caller for caller in waiters if not caller.cancelled)
            else:
                callers.append(one)
        return callers

    def _key(self, pending: Pending, now: float) -> Key | None:
        """What a request shares with equal ones; None: it goes by itself."""
        if pending.decoded.call.unique or pending.answer_by <= now:
            return None
        if not self._batcher.served[pending.version].interface.repeatable:
            return None
        return key(pending.version, pending.plan.group, pending.rows, pending.buffers)

    def _answer(self, pending: Pending, rows: Rows, now: float) -> None:
        """Answer a request by what was answered before: that says nothing of its version now."""
        pending.evidence = False
        pending.checks = ()
        result = rows.answer(part(pending))
        end(pending, result, now)
        pending.counted = True
        self._due.append((pending, result))

    def _wait(
        self,
        pending: Pending,
        item: Pending,
        now: float,
        admitted: bool,
        has_room: bool = False,
    ) -> None:
        """Put a request, or the carrier in its place, into the queue. Raises as ``enter``."""
        if self._quotas and not admitted:
            self._keep_to_quota(pending, now)
        try:
            thrown_out = self._batcher.offer(item, now, has_room=has_room)
        except Full as full:
            raise _no_room(pending, full, now) from full
        except Late as too_late:
            pending.drop("expired", now)
            over = min(pending.send_by, pending.answer_by) <= now
            refusal = late("it was over on arrival" if over else too_late.message)
            raise OfTheQueue(refusal.status, refusal.message) from too_late
        if thrown_out:
            self._throw_out(thrown_out, now)

    def _hold(self, pending: Pending, now: float) -> None:
        """Let a request wait for its turn. Raises as ``enter``."""
        try:
            self._keep_to_quota(pending, now)
            thrown_out = self._batcher.make_room(pending, now)
        except Full as full:
            self._sequences.leave(pending)
            raise _no_room(pending, full, now) from full
        except Refusal:
            self._sequences.leave(pending)
            raise
        self._throw_out(thrown_out, now)

    def _keep_to_quota(self, pending: Pending, now: float) -> None:
        """Refuse a request that is one too many of its arm. Raises as ``enter``."""
        quota = self._quotas.get(pending.version)
        if quota is None:
            return
        waiting = self._counters.waiting(pending.arm, pending.version)
        if waiting - (pending in self._sequences.held) >= quota:
            pending.end("rejected", now)
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"arm {pending.arm} has {quota:g} requests waiting",
                self._retry_after(now),
            )

    def _throw_out(self, thrown_out: Iterable[Pending], now: float) -> None:
        """Count those who made room; they are told with those who are given up."""
        callers = self.callers(thrown_out)
        for one in callers:
            if not self._sequences.leave(one):
                self._sequences.over(one, now)
            one.drop("rejected", now)
        self.thrown_out += callers

    def _pass_on(self, pending: Pending, now: float) -> None:
        """Let those behind a request have their turn, for which no batch's end will call."""
        self._sequences.over(pending, now)
        if self._sequences.held:
            self.again = True

    def _release(self, carrier: Carrier, now: float) -> list[tuple[Pending, Refusal]]:
        """Give up those of a carrier's callers who are too late; the others wait on."""
        waiters = self.callers([carrier])
        too_late = late_ones(waiters, carrier, now)
        given_up: list[tuple[Pending, Refusal]] = []
        for pending in waiters:
            if pending in too_late:
                given_up.append((pending, self._expire(pending, now, sent=carrier.flying)))
                continue
            try:
                self.enter(pending, now, admitted=True)
                self.again = True
            except OfTheQueue as refusal:
                given_up.append((pending, refusal))
        return given_up

    def _expire(self, pending: Pending, now: float, *, sent: bool = False) -> Refusal:
        """Count a request whose time is over; ``sent``: Triton has it, or some rows of it."""
        if sent or pending.sent:
            pending.slices = None
            pending.expire(now)
            return late("the model has not answered in time")
        pending.drop("expired", now)
        pending.cancelled = True
        return late("not sent to the model in time")

    def _retry_after(self, now: float) -> float:
        """Seconds in which what waits now will have gone, as fast as it goes."""
        rate = self._batcher.scheduler.drain_rate(now)
        return min(self.waiting / rate, LONGEST_RETRY) if rate else 1.0


def _no_room(pending: Pending, full: Full, now: float) -> OfTheQueue:
    """Count a request that found the queue full; returns its answer."""
    pending.drop("rejected", now)
    return OfTheQueue(HTTPStatus.TOO_MANY_REQUESTS, full.message, full.retry_after)
