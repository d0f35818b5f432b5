"""One model in one pod: the table that it follows, the versions it has, its requests.

Every request goes the same way, and counts once:

=============  =====================================================================================
``submit``     decoded (`core.request`), given to an arm and version (`core.assignment`), let wait
               (`core.entry`)
``poll``       taken into a batch (`core.batcher`, by `tidegate_batcher.scheduler`)
``encode``     written for Triton with the batch's other members (`core.delivery`)
``complete``   cut from Triton's answer (`core.delivery`), or sent again (`core.retry`)
``free``       its batch's slot is free for the next
``count``      its end is counted (`core.ending`), and its equals get the same answer (`core.entry`)
=============  =====================================================================================

Who leaves in between: ``cancel``, ``given_up``. When its version goes: ``replan``. What is copied
of it to another version afterwards: ``reflect`` and what follows that.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import inf
from typing import Any

from tidegate_batcher.device import Device
from tidegate_contract import names
from tidegate_contract.acknowledgement import BatchLive
from tidegate_contract.table import BatchSettings, RoutingTable
from tidegate_sidecar.core.admission import Quotas, quotas
from tidegate_sidecar.core.assignment import Assignment
from tidegate_sidecar.core.batcher import Batch, Batcher
from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.counters import Counters, Outcome
from tidegate_sidecar.core.dedup import Carrier, Deduplicator
from tidegate_sidecar.core.delivery import Delivery, Result, error, part
from tidegate_sidecar.core.ending import end, outcome_of
from tidegate_sidecar.core.entry import Entry, OfTheQueue
from tidegate_sidecar.core.exchange import Answer, Place
from tidegate_sidecar.core.feedback import Feedback
from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.live import Live
from tidegate_sidecar.core.mirror import Found, Mirror
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.profile import Profile
from tidegate_sidecar.core.refusal import Refusal, Unserved
from tidegate_sidecar.core.request import Buffer, Call, Decoded, Decoder, unsigned_header
from tidegate_sidecar.core.retry import Retries
from tidegate_sidecar.core.routing import Router, default_arm
from tidegate_sidecar.core.sequences import Sequences
from tidegate_sidecar.core.shadows import Shadow
from tidegate_sidecar.core.strategies import BUILT_IN, Chosen, Strategies
from tidegate_sidecar.core.version import VersionInfo

Pair = tuple[Shadow, Tensors | Refusal]
"""A copy, with stable's answer, and what was answered to it."""


class ModelRuntime:
    """Decides for every request of one model. Times are seconds of any one steady clock.

    ``issuer``: see ``Feedback``. ``device``: what the models of the pod share; None: this one is
    alone. ``cores``: see ``capacity``. ``shared_memory``: see ``Decoder``. ``forwarding``: of
    headers; None: models are told of none.
    ``direct_at``: by version, when a request last named it itself.
    """

    def __init__(
        self,
        model: str,
        pod_uid: str,
        issuer: int = 0,
        *,
        device: Device | None = None,
        cores: int | None = None,
        strategies: Strategies = BUILT_IN,
        shared_memory: bool = False,
        forwarding: Forwarding | None = None,
    ) -> None:
        self.model = model
        self.table: RoutingTable | None = None
        self.counters = Counters()
        self.feedback = Feedback(issuer)
        self.deduplicator = Deduplicator()
        self.sequences = Sequences()
        self._settings = BatchSettings()
        self._installed = strategies
        self._strategy = Chosen(self._settings.strategy, strategies)
        self._batcher = Batcher(device, cores=cores)
        self._decoder = Decoder(shared_memory=shared_memory)
        self._forwarding = forwarding
        self._assignment = Assignment(
            model,
            Router(model, pod_uid),
            self._batcher.served,
            self.sequences,
            self.counters,
            self.feedback,
        )
        self.users = self._assignment.users
        self.direct_at = self._assignment.direct_at
        self._entry = Entry(self._batcher, self.deduplicator, self.sequences, self.counters)
        self._displaced: list[Pending] = []
        self._delivery = Delivery(model, self.deduplicator)
        self._retries = Retries()
        self.profile = Profile(self.counters)
        self.mirror = Mirror(f"{model}/{pod_uid}", self._batcher, self.counters)
        self._live = Live(self._batcher, self.counters, self.profile, self._strategy)

    def apply(self, table: RoutingTable) -> None:
        """Follow a table from the next request on; the spread stays where it is."""
        self.table = table
        self._assignment.follow(table)
        self.counters.follow(table)
        self.feedback.follow(table)
        self._configure(table.batch, quotas(table))
        self.mirror.follow(table)

    def version_ready(self, info: VersionInfo) -> None:
        """Send requests to a version from now on."""
        if self.ready.get(info.version) == info:
            return
        self.version_gone(info.version)
        self._batcher.serve(info)

    def version_gone(self, version: int) -> None:
        """Send nothing more to a version; what waited for it is for ``replan``."""
        if version in self._batcher.served:
            displaced = self._entry.callers(self._batcher.stop(version))
            for pending in displaced:
                pending.slices = None
            self._displaced += displaced + self.sequences.forget(version)
            self.deduplicator.forget(version)
            self.mirror.version_gone(version)

    @property
    def ready(self) -> Mapping[int, VersionInfo]:
        """The versions that requests are sent to."""
        return {version: served.info for version, served in self._batcher.served.items()}

    @property
    def decoupled(self) -> bool:
        """Whether some version that requests are sent to answers as often as it likes."""
        return any(served.info.decoupled for served in self._batcher.served.values())

    def in_use(self, version: int, now: float) -> bool:
        """Whether requests of a version wait or are in flight, or more of a sequence may come."""
        return self._batcher.in_use(version) or self.sequences.holds(version, now)

    @property
    def default_version(self) -> int:
        """The version that a path without one means.

        Raises:
            Refusal: there is no table yet.
        """
        return default_arm(self._assignment.table).version

    def choose(
        self, call: Call, version: int | None, headers: Mapping[str, str], now: float
    ) -> int:
        """The version for a call that passes by the queue, and is no evidence for anybody.

        Its sequence's, else its arm's, or the default one's where that is not ready here.
        ``version``, ``headers``: as in ``submit``. It counts as ``direct``: for a while the version
        is not unloaded.

        Raises:
            Refusal: nothing ready can serve it.
        """
        return self._assignment.choose(call, version, headers, now)

    def submit(
        self,
        caller: Any,
        body: Buffer,
        *,
        json_length: int | None,
        version: int | None,
        headers: Mapping[str, str],
        now: float,
    ) -> Pending:
        """Let an inference request in. ``version``: the one that its path names.

        ``json_length``: see ``Decoder.decode``. ``headers``: by lower-case name.

        Raises:
            Refusal: it gets no inference, and is counted already.
        """
        level = self._settings.default_level
        try:
            decoded, start = self._decoder.decode(body, json_length)
            if self._forwarding:
                decoded = self._forwarding.add(decoded, headers)
            level = self._level(decoded, headers)
            pending = Pending(caller, decoded, body, start, level, now)
            if decoded.timeout:
                pending.send_by = now + decoded.timeout / 1e6
            pending.answer_by = now + self._answer_within(headers)
            self._assignment.assign(pending, version, headers)
        except Refusal as refusal:
            self._count_refused(refusal, level)
            raise
        if decoded.call.alone:
            self._entry.line_up(pending, now)
        else:
            self._entry.enter(pending, now)
        return pending

    def turn_away(self, refusal: Refusal) -> None:
        """Count a request that is refused before it was read."""
        self._count_refused(refusal, self._settings.default_level)

    def _count_refused(self, refusal: Refusal, level: int) -> None:
        outcome: Outcome = "client_error" if refusal.retry_after is None else "rejected"
        self.counters.tally(names.ARM_NONE, 0, level).count(outcome)

    def stirs(self, pending: Pending, now: float) -> bool:
        """Whether a ``poll`` is due for a request that was let in; besides for its deadlines."""
        return (
            not pending.waits
            or bool(self._entry.thrown_out)
            or self._batcher.scheduler.stirs(pending.version, now)
        )

    def cancel(self, pending: Pending, now: float) -> None:
        """Forget the caller of a request; where it still waits, the request too."""
        if pending.counted:
            pending.cancelled = True
            return
        pending.cancel(now)
        if not self._entry.leave(pending, now) and pending in self._displaced:
            self._displaced.remove(pending)
            self.sequences.over(pending, now)

    def given_up(self, now: float) -> list[tuple[Pending, Refusal]]:
        """Give up what is too late, and what was thrown out for others; to ask after each poll.

        Returns them with the answers that they get; they are counted.
        """
        return self._entry.given_up(now)

    def handed_out(self) -> list[tuple[Pending, Result]]:
        """Who is answered without having been in a batch, and is counted; to ask after ``poll``
        and ``finish``.
        """
        return self._entry.handed_out()

    def replan(self, now: float) -> list[tuple[Pending, Refusal]]:
        """Find a version for what waited for one that has gone, or was loaded anew.

        Returns those for which there is none, counted, with the answer that they get.
        """
        displaced, self._displaced = self._displaced, []
        refused: list[tuple[Pending, Refusal]] = []
        for pending in displaced:
            try:
                self._assignment.assign_again(pending)
                self._entry.enter(pending, now, admitted=True)
            except Refusal as refusal:
                if isinstance(refusal, Unserved):
                    pending.end_unserved()
                elif not isinstance(refusal, OfTheQueue):
                    pending.end(outcome_of(refusal), now)
                pending.cancelled = pending.counted = True  # a slice of it may be in flight
                self.sequences.over(pending, now)
                refused.append((pending, refusal))
        return refused

    @property
    def waiting(self) -> int:
        """Requests that wait, without shadows."""
        return self._entry.waiting

    def live(self, now: float) -> BatchLive | None:
        """How it batches just now, for people; None before the first table."""
        return None if self.table is None else self._live.batches(self.waiting, now)

    def describe(self, now: float) -> dict[str, Any]:
        """Where the requests' time goes, and why batches are as they are: for ``/profile``."""
        return self._live.describe(self.waiting, now)

    def press(self, share: float, note: str | None) -> None:
        """Send batches of such a share of the usual size; ``note``: why they are smaller."""
        self._live.pressed = note
        self._batcher.scheduler.press(share)

    def poll(self, now: float, *, quiet: bool = True) -> list[Batch]:
        """Take out the batches that are to be sent now.

        ``quiet``: no request of another model waits for this device.
        """
        self._entry.again = False
        if self.sequences.held:
            self._entry.take_turns(now)
        batches = self._batcher.poll(now, quiet=quiet)
        for batch in batches:
            self.counters.batch(batch.version, batch.rows)
        return batches

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        if self._entry.again:
            return 0.0
        wake = self._batcher.next_wake()
        due = self.deduplicator.due
        if self.sequences.held:
            due = min(due, self.sequences.due)
        return due if due < (inf if wake is None else wake) else wake

    def sizes(self, batch: Batch) -> tuple[int, dict[str, int]]:
        """What of a batch may lie in shared memory, in bytes: see ``Delivery.sizes``."""
        return self._delivery.sizes(batch)

    def encode(self, batch: Batch, place: Place | None = None) -> tuple[bytes, list[Buffer]]:
        """Write a batch for Triton: JSON, and the tensors, for their place or to follow it."""
        return self._delivery.encode(batch, place)

    def complete(
        self, batch: Batch, status: int, json_length: int | None, body: Buffer
    ) -> list[Result | None]:
        """Read Triton's answer to a batch: one result for each member, in their order.

        None where a member's other slices are still to come, or it is sent again.
        """
        if status == HTTPStatus.OK:
            self._batcher.measure(batch, len(body) - (json_length or len(body)))
        if not self._retries.divisible(batch, status):
            return self._delivery.complete(batch, status, json_length, body)
        halves = self._retries.split(batch, status, batch.answered_at)
        again = {pending for half in halves or () for pending in half.members}
        if not again:
            self.counters.retried(batch.version, "denied")
        refusal = error(status, body)
        return [None if pending in again else refusal for pending in batch.members]

    def fail(self, batch: Batch, refusal: Refusal) -> list[Result | None]:
        """What the members of a batch get that was lost, as by ``complete``."""
        return self._delivery.fail(batch, refusal)

    def finish(self, batch: Batch, results: Sequence[Result | None], now: float) -> Batch | None:
        """Free the slot of a batch whose members have been answered, and count them.

        Returns what is to be sent in that slot before it is free.
        """
        after = self.free(batch, results, batch.answered_at or now)
        self.count(batch, results, now)
        return after

    def free(self, batch: Batch, results: Sequence[Result | None], now: float) -> Batch | None:
        """Free the slot of a batch that was read; once its members are answered, ``count`` them.

        Returns what is to be sent in that slot before it is free.
        """
        batch.ok = any(
            batch.sliced if result is None else not isinstance(result, Refusal)
            for result in results
        )
        again = self._retries.concerns(batch)
        root, after = self._retries.ended(batch, now)
        if again and batch is not root:
            self.counters.retried(batch.version, "answered" if batch.ok else "failed")
        for pending, result in zip(batch.members, results, strict=True) if batch.sliced else ():
            if result is not None and pending.waits:
                self._batcher.cancel(pending)  # without one slice the others are worth nothing
        batch.flies_on = after is not None or batch.sliced
        if self.sequences.going:
            self.sequences.over(batch.members[0], now)
        if after is None:
            self._batcher.finished(root, now, ok=batch.ok and root is batch)
        return after

    def count(self, batch: Batch, results: Sequence[Result | None], now: float) -> None:
        """Count a batch that was freed, and whose members have been answered."""
        answered_at = batch.answered_at or now
        for pending, result in zip(batch.members, results, strict=True):
            if result is None:
                continue
            if isinstance(pending, Carrier):
                self._entry.hand_out(pending, result, now)
            else:
                end(pending, result, now)
                if batch.flies_on:
                    pending.cancelled = pending.counted = True
        if batch.ok and batch.written_at:
            self.profile.answered(
                batch.version,
                batch.members,
                formation=batch.written_at - batch.sent_at,
                processing=answered_at - batch.written_at,
                distribution=now - answered_at,
                now=now,
            )

    def reflect(
        self,
        batch: Batch,
        json_length: int | None,
        body: Buffer,
        results: Sequence[Result | None],
        now: float,
    ) -> None:
        """Copy what was answered well to another version, as far as the table asks for that.

        After the answers are out: nobody waits for it. The arguments are those of ``complete`` and
        what that returned.
        """
        if batch.sliced:
            return
        row = 0
        for pending, result in zip(batch.members, results, strict=True):
            if isinstance(pending, Carrier):
                if rows := pending.answered:
                    for one in filter(self.mirror.chooses, pending.waiters):
                        answered = rows.tensors(one.plan.call.outputs)
                        self.mirror.copy(one, answered, batch, now)
            elif isinstance(result, Answer) and self.mirror.chooses(pending):
                splitter = self._delivery.splitter(batch, json_length, body)
                answered = splitter.tensors(part(pending), row)
                self.mirror.copy(pending, answered, batch, now)
            row += pending.rows

    def complete_shadows(
        self, batch: Batch, status: int, json_length: int | None, body: Buffer
    ) -> list[Tensors | Refusal]:
        """Read Triton's answer to a batch of copies: one result for each, in their order."""
        if status != HTTPStatus.OK:
            return [error(status, body)] * len(batch.members)
        return self._delivery.tensors(batch, json_length, body)

    def finish_shadows(
        self, batch: Batch, results: Sequence[Tensors | Refusal], now: float
    ) -> list[Pair]:
        """Free the slot of a batch of copies; returns the pairs that are to be judged."""
        shadows = self._batcher.shadows.in_flight
        self._batcher.finished(batch, now)
        return list(zip(shadows, results, strict=True))

    def judge(self, pair: Pair, found: Found, now: float) -> None:
        """Count a pair. ``found``: what ``mirror.compare`` said of it."""
        shadow, result = pair
        self.mirror.judge(shadow, result, outcome_of(result), found, now)

    def look(self, now: float) -> None:
        """Count what is overdue though unanswered: before every scrape."""
        for pending in (*self._batcher.unanswered(), *self.sequences.held):
            pending.look(now)
        for pending in self.deduplicator.waiting:
            if not pending.cancelled:
                pending.look(now)
        self.mirror.look(now)

    def _configure(self, settings: BatchSettings, bounds: Quotas) -> None:
        """Take over a policy, from the next batch on."""
        if settings.strategy != self._settings.strategy:
            self._strategy = Chosen(settings.strategy, self._installed)
        self._settings = settings
        self._batcher.configure(settings, self._strategy, bounds.device)
        self._entry.configure(settings, bounds.queue)
        self._live.follow(self._strategy, settings.levels)

    def _level(self, decoded: Decoded, headers: Mapping[str, str]) -> int:
        """The level that a request asks for, the policy's default for 0 and beyond the last.

        Raises:
            Refusal: the header is no unsigned integer.
        """
        level = decoded.priority
        if level is None:
            level = unsigned_header(headers, names.HEADER_PRIORITY)
        if not level or level > len(self._settings.levels):
            return self._settings.default_level
        return level

    def _answer_within(self, headers: Mapping[str, str]) -> float:
        """Seconds until a request is worth nothing unless answered.

        Raises:
            Refusal: the header is no unsigned integer.
        """
        milliseconds = unsigned_header(headers, names.HEADER_DEADLINE)
        if milliseconds is not None:
            return milliseconds / 1e3
        return inf if self._settings.deadline is None else self._settings.deadline
