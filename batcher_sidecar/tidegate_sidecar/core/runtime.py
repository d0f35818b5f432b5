"""One model in one pod: the table that it follows, the versions it has, its requests.

Every request goes the same way: decode, route, admit, wait, batch, answer; and counts once.
"""

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from math import inf
from typing import Any, Protocol

from tidegate_batcher.adaptive import LEARNT
from tidegate_batcher.device import Device
from tidegate_batcher.scheduler import LONGEST_RETRY, Explanation, Full, Late
from tidegate_contract import names
from tidegate_contract.acknowledgement import BatchLive
from tidegate_contract.table import BatchSettings, RoutingTable
from tidegate_sidecar.core.admission import Quotas, quotas
from tidegate_sidecar.core.batcher import Batch, Batcher, Served
from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.counters import (
    BUCKET_STRATA,
    Counters,
    Outcome,
    level_stratum,
)
from tidegate_sidecar.core.dedup import Carrier, Deduplicator, Key, key, late_ones
from tidegate_sidecar.core.delivery import Delivery, Result, error, part
from tidegate_sidecar.core.exchange import Answer, Rows
from tidegate_sidecar.core.feedback import Feedback, covariate
from tidegate_sidecar.core.mirror import Found, Mirror
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.profile import Profile
from tidegate_sidecar.core.refusal import Refusal, Unserved, late, unavailable
from tidegate_sidecar.core.request import (
    Buffer,
    Call,
    Decoded,
    Decoder,
    Plan,
    unsigned_header,
)
from tidegate_sidecar.core.retry import Retries
from tidegate_sidecar.core.routing import Router, default_arm
from tidegate_sidecar.core.sequences import Pin, Sequences, Step, step_of
from tidegate_sidecar.core.shadows import Shadow
from tidegate_sidecar.core.strategies import BUILT_IN, Chosen, Strategies
from tidegate_sidecar.core.tokens import ARMS, Subject
from tidegate_sidecar.core.users import Users
from tidegate_sidecar.core.version import VersionInfo

Pair = tuple[Shadow, Tensors | Refusal]
"""A copy, with stable's answer, and what was answered to it."""


class ModelRuntime:
    """Decides for every request of one model. Times are seconds of any one steady clock.

    ``issuer``: see ``Feedback``. ``device``: what the models of the pod share; None: this one is
    alone. ``cores``: see ``capacity``. ``shared_memory``: see ``Decoder``.
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
    ) -> None:
        self.model = model
        self.table: RoutingTable | None = None
        self.counters = Counters()
        self.users = Users()
        self.feedback = Feedback(issuer)
        self.direct_at: dict[int, float] = {}
        self._router = Router(model, pod_uid)
        self._settings = BatchSettings()
        self._installed = strategies
        self._strategy = Chosen(self._settings.strategy, strategies)
        self._batcher = Batcher(device, cores=cores)
        self._pressed: str | None = None
        self.profile = Profile(self.counters)
        self.mirror = Mirror(f"{model}/{pod_uid}", self._batcher, self.counters)
        self._decoder = Decoder(shared_memory=shared_memory)
        self._quotas = Quotas({}, {})
        self.deduplicator = Deduplicator()
        self.sequences = Sequences()
        self._out_of_turn: list[tuple[Pending, Refusal]] = []
        self._delivery = Delivery(model, self.deduplicator)
        self._retries = Retries()
        self._due: list[tuple[Pending, Result]] = []
        self._entered_again = False
        self._displaced: list[Pending] = []
        self._thrown_out: list[Pending] = []

    def apply(self, table: RoutingTable) -> None:
        """Follow a table from the next request on; the spread stays where it is."""
        self.table = table
        self._quotas = quotas(table)
        self._router.change(table)
        self.counters.follow(table)
        self.users.follow(table.assignment)
        self.feedback.follow(table)
        self._configure(table.batch)
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
            displaced = self._callers(self._batcher.stop(version))
            for pending in displaced:
                pending.slices = None
            self._displaced += displaced + self.sequences.forget(version)
            self.deduplicator.forget(version)
            self.mirror.version_gone(version)

    @property
    def ready(self) -> Mapping[int, VersionInfo]:
        """The versions that requests are sent to."""
        return {version: served.info for version, served in self._batcher.served.items()}

    def in_use(self, version: int, now: float) -> bool:
        """Whether requests of a version wait or are in flight, or more of a sequence may come."""
        return self._batcher.in_use(version) or self.sequences.holds(version, now)

    @property
    def default_version(self) -> int:
        """The version that a path without one means.

        Raises:
            Refusal: there is no table yet.
        """
        if self.table is None:
            raise unavailable(f"model {self.model} has no routing table yet")
        return default_arm(self.table).version

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
        step = step_of(call) if call.alone else None
        pin = self.sequences.find(step, now) if step else None
        if version is None:
            version = pin.version if pin else self._chosen(step, headers)
        served = self._named(version)
        if step and (step.starts or pin):
            pin = pin or Pin(version, names.ARM_DIRECT, served.info.sequence_idle)
            self.sequences.pin(step, pin, now)
        self.direct_at[version] = now
        return version

    def _chosen(self, step: Step | None, headers: Mapping[str, str]) -> int:
        default = self.default_version
        if step and not step.starts:
            return default
        header = self._router.header
        arm, _, _ = self._router.route(headers.get(header) if header else None)
        return arm.version if arm.version in self._batcher.served else default

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
            level = self._level(decoded, headers)
            pending = Pending(caller, decoded, body, start, level, now)
            if decoded.timeout:
                pending.send_by = now + decoded.timeout / 1e6
            pending.answer_by = now + self._answer_within(headers)
            self._route(pending, version, headers)
        except Refusal as refusal:
            outcome: Outcome = "client_error" if refusal.retry_after is None else "rejected"
            self.counters.tally(names.ARM_NONE, 0, level).count(outcome)
            raise
        if decoded.call.alone:
            self._line_up(pending, now)
        else:
            self._enter(pending, now, self._admit)
        return pending

    def stirs(self, pending: Pending, now: float) -> bool:
        """Whether a ``poll`` is due for a request that was let in; besides for its deadlines."""
        return (
            not pending.waits
            or bool(self._thrown_out)
            or self._batcher.scheduler.stirs(pending.version, now)
        )

    def cancel(self, pending: Pending, now: float) -> None:
        """Forget the caller of a request; where it still waits, the request too."""
        if pending.counted:
            pending.cancelled = True
            return
        pending.cancel(now)
        if carrier := self.deduplicator.leave(pending):
            self._batcher.cancel(carrier)
            carrier.slices = None
        elif (
            not self._batcher.cancel(pending)
            and not self.sequences.leave(pending)
            and pending in self._displaced
        ):
            self._displaced.remove(pending)
            self.sequences.over(pending, now)

    def given_up(self, now: float) -> list[tuple[Pending, Refusal]]:
        """Give up what is too late, and what was thrown out for others; to ask after each poll.

        Returns them with the answers that they get; they are counted.
        """
        given_up, self._out_of_turn = self._out_of_turn, []
        for pending in (*self._batcher.expired(now), *self.sequences.late(now)):
            if isinstance(pending, Carrier):
                given_up += self._release(pending, now)
                continue
            given_up.append((pending, self._expire(pending, now)))
        for pending in (*self._batcher.overdue(now), *self.deduplicator.overdue(now)):
            if pending.cancelled:  # it has two slices in flight
                continue
            self._batcher.cancel(pending)
            given_up.append((pending, self._expire(pending, now, sent=True)))
        if self._thrown_out:
            refusal = Refusal(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "Exceeds maximum queue size: thrown out for a request of a higher priority",
                self._retry_after(now),
            )
            given_up += ((one, refusal) for one in self._thrown_out if not one.cancelled)
            self._thrown_out = []
        return given_up

    def handed_out(self) -> list[tuple[Pending, Result]]:
        """Who is answered without having been in a batch, and is counted; to ask after ``poll``
        and ``finish``.
        """
        due, self._due = self._due, []
        return [(pending, result) for pending, result in due if not pending.cancelled]

    def replan(self, now: float) -> list[tuple[Pending, Refusal]]:
        """Find a version for what waited for one that has gone, or was loaded anew.

        Returns those for which there is none, counted, with the answer that they get.
        """
        displaced, self._displaced = self._displaced, []
        refused: list[tuple[Pending, Refusal]] = []
        for pending in displaced:
            try:
                self._reassign(pending)
                self._enter(pending, now, self._offer)
            except Refusal as refusal:
                if isinstance(refusal, Unserved):
                    pending.end_unserved()
                elif not isinstance(refusal, _OfTheQueue):
                    pending.end(_outcome(refusal), now)
                pending.cancelled = pending.counted = True  # a slice of it may be in flight
                self.sequences.over(pending, now)
                refused.append((pending, refusal))
        return refused

    @property
    def waiting(self) -> int:
        """Requests that wait, without shadows."""
        return self._batcher.waiting + len(self.sequences.held)

    def live(self, now: float) -> BatchLive | None:
        """How it batches just now, for people; None before the first table."""
        if self.table is None:
            return None
        outcomes = [tally.outcomes for tally in self.counters.tallies.values()]
        explained = self._batcher.scheduler.explain(now)
        learned = max(explained, key=lambda one: one.batches, default=None)
        return BatchLive(
            strategy=self._strategy.name,
            batch_size=self.profile.batch_size(),
            fixed_seconds=learned.fixed if learned and learned.batches else None,
            seconds_per_row=learned.per_row if learned and learned.batches else None,
            queue_length=self.waiting,
            dropped=sum(one.get("rejected", 0) + one.get("expired", 0) for one in outcomes),
            p99=self.profile.p99(),
            notes=[
                note for note in (self._strategy.note, self._missed(learned), self._pressed) if note
            ],
        )

    def _missed(self, learned: Explanation | None) -> str | None:
        """What of the policy cannot be met by what was learned."""
        target = self._settings.target_latency
        if target is None or learned is None or learned.batches < LEARNT:
            return None
        least = learned.fixed + learned.per_row
        if least <= target:
            return None
        return (
            f"targetLatency {1e3 * target:g} ms cannot be met: "
            f"a batch of one row takes {1e3 * least:.3g} ms"
        )

    def describe(self, now: float) -> dict[str, Any]:
        """Where the requests' time goes, and why batches are as they are: for ``/profile``."""
        return {
            "strategy": self._strategy.name,
            "waiting": self.waiting,
            "memory": self._pressed,
            "requests": self.profile.describe(),
            "batches": [
                one._asdict() | {"group": str(one.group)}
                for one in self._batcher.scheduler.explain(now)
            ],
        }

    def press(self, share: float, note: str | None) -> None:
        """Send batches of such a share of the usual size; ``note``: why they are smaller."""
        self._pressed = note
        self._batcher.scheduler.press(share)

    def poll(self, now: float, *, quiet: bool = True) -> list[Batch]:
        """Take out the batches that are to be sent now.

        ``quiet``: no request of another model waits for this device.
        """
        self._entered_again = False
        if self.sequences.held:
            self._take_turns(now)
        batches = self._batcher.poll(now, quiet=quiet)
        for batch in batches:
            self.counters.batch(batch.version, batch.rows)
        return batches

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        if self._entered_again:
            return 0.0
        wake = self._batcher.next_wake()
        due = self.deduplicator.due
        if self.sequences.held:
            due = min(due, self.sequences.due)
        return due if due < (inf if wake is None else wake) else wake

    def encode(self, batch: Batch) -> tuple[bytes, list[Buffer]]:
        """Write a batch for Triton: JSON, and the tensors that follow it."""
        return self._delivery.encode(batch)

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
                self._hand_out(pending, result, now)
            else:
                self._end(pending, result, now)
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

    def _end(self, pending: Pending, result: Result, now: float) -> None:
        """Count a request that was sent, by what was answered."""
        if isinstance(result, Answer) and not pending.cancelled:  # almost all
            pending.end("ok", now)
            return
        outcome = _outcome(result)
        if isinstance(result, Unserved):
            if not pending.cancelled:
                pending.end_unserved()
        elif pending.cancelled:
            pending.end_cancelled(failed=outcome == "server_error")
        else:
            pending.end(outcome, now)

    def _hand_out(self, carrier: Carrier, result: Result, now: float) -> None:
        """Answer all those for whom a carrier stood."""
        rows = carrier.answered
        waiters = (
            self.deduplicator.answered(carrier, rows, now)
            if rows
            else self.deduplicator.part(carrier)
        )
        for pending in waiters:
            own = rows.answer(part(pending)) if rows else result
            self._end(pending, own, now)
            if not pending.cancelled:
                self._due.append((pending, own))
                pending.counted = True

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
        self.mirror.judge(shadow, result, _outcome(result), found, now)

    def look(self, now: float) -> None:
        """Count what is overdue though unanswered: before every scrape."""
        for pending in (*self._batcher.unanswered(), *self.sequences.held):
            pending.look(now)
        for pending in self.deduplicator.waiting:
            if not pending.cancelled:
                pending.look(now)
        self.mirror.look(now)

    def _configure(self, settings: BatchSettings) -> None:
        """Take over a policy, from the next batch on."""
        if settings.strategy != self._settings.strategy:
            self._strategy = Chosen(settings.strategy, self._installed)
        self._settings = settings
        self._batcher.configure(settings, self._strategy, self._quotas.device)
        self.deduplicator.configure(settings.deduplication)

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

    def _route(self, pending: Pending, version: int | None, headers: Mapping[str, str]) -> None:
        """Give a request to its arm, or to the default one where that is not ready here.

        Raises:
            Refusal: nothing ready can serve it, or no version takes what it sends.
        """
        if self.table is None:
            raise unavailable(f"model {self.model} has no routing table yet")
        if pending.decoded.call.alone:
            self._route_step(pending, version, headers)
        elif version is not None:
            self._direct(pending, version)
        else:
            self._split(pending, headers)

    def _route_step(
        self, pending: Pending, version: int | None, headers: Mapping[str, str]
    ) -> None:
        """Give part of a sequence to the version that the sequence is with, and let it line up."""
        assert self.table
        now = pending.arrived
        step = step_of(pending.decoded.call)
        pin = self.sequences.find(step, now)
        user: tuple[int | None, int] = None, 0
        if version is not None:
            self._direct(pending, version)
        elif pin:
            self._follow(pending, pin, headers)
        elif step.starts:
            user = self._split(pending, headers)
        else:
            default = default_arm(self.table)
            self._assign(pending, default.name, self._named(default.version))
        if step.starts:
            idle = self._batcher.served[pending.version].info.sequence_idle
            pin = Pin(pending.version, pending.arm, idle, pending.evidence, *user)
        if pin:
            self.sequences.pin(step, pin, now)
        self.sequences.enter(step, pending, now)

    def _follow(self, pending: Pending, pin: Pin, headers: Mapping[str, str]) -> None:
        """Give a request to the arm of its sequence's start, as evidence while that is an arm."""
        assert self.table
        self._assign(pending, pin.arm, self._named(pin.version))
        if pin.evidence and any(
            (arm.name, arm.version) == (pin.arm, pin.version) for arm in self.table.split
        ):
            self._credit(pending, pin.bucket, pin.mark, headers)

    def _direct(self, pending: Pending, version: int) -> None:
        self._assign(pending, names.ARM_DIRECT, self._named(version))
        self.direct_at[version] = pending.arrived

    def _split(self, pending: Pending, headers: Mapping[str, str]) -> tuple[int | None, int]:
        """Give a request to its arm by the split; returns the bucket and the mark of its user."""
        header = self._router.header
        arm, bucket, mark = self._router.route(headers.get(header) if header else None)
        served = self._batcher.served.get(arm.version)
        if not served:
            pending.arm = arm.name
            self._fall_back(pending)
            return bucket, mark
        self._assign(pending, arm.name, served)
        if arm.name != names.ARM_UNASSIGNED:
            self._credit(pending, bucket, mark, headers)
        return bucket, mark

    def _credit(
        self, pending: Pending, bucket: int | None, mark: int, headers: Mapping[str, str]
    ) -> None:
        """Make a request evidence for or against its arm."""
        pending.evidence = True
        if bucket is not None:
            pending.stratum = BUCKET_STRATA[bucket]
            self.users.see(pending.arm, mark)
        elif not self._router.header:
            pending.stratum = level_stratum(pending.level)
        checks = pending.tally.checks.get(pending.stratum)
        if checks is None:
            checks = self.counters.concerning(
                pending.arm, pending.version, pending.level, pending.stratum
            )
        pending.checks = checks
        experiment = self.feedback.experiment
        if experiment and pending.arm in ARMS:
            header = experiment.covariate
            known = covariate(headers.get(header.lower())) if header else None
            pending.subject = Subject(pending.arm, pending.version, bucket, known)

    def _named(self, version: int) -> Served:
        if served := self._batcher.served.get(version):
            return served
        if self.table and version in {row.version for row in self.table.versions}:
            raise unavailable(f"version {version} of model {self.model} is not ready")
        raise Refusal(HTTPStatus.NOT_FOUND, f"model {self.model} has no version {version} here")

    def _fall_back(self, pending: Pending) -> None:
        """Give a request that its arm cannot serve to the default arm, as no evidence."""
        assert self.table
        default = default_arm(self.table)
        served = self._batcher.served.get(default.version)
        if not served:
            raise unavailable(f"version {default.version} of model {self.model} is not ready")
        self.counters.fell_back(pending.arm)
        self._assign(pending, default.name, served)

    def _reassign(self, pending: Pending) -> None:
        """Give a request to its version again, where that is back, else to the default arm.

        Raises:
            Refusal: as in ``_route``.
        """
        if pending.sent or pending.decoded.call.alone:  # its other rows, or its sequence, are lost
            raise unavailable(f"version {pending.version} of model {self.model} has gone")
        if served := self._batcher.served.get(pending.version):
            plan = Plan.of(pending.decoded.call, served.interface)
            pending.move(plan)
        elif pending.arm == names.ARM_DIRECT:
            raise unavailable(f"version {pending.version} of model {self.model} has gone")
        else:
            self._fall_back(pending)

    def _assign(self, pending: Pending, arm: str, served: Served) -> None:
        plan = Plan.of(pending.decoded.call, served.interface)
        tally = self.counters.tally(arm, served.info.version, pending.level)
        pending.assign(arm, served.info.version, plan, tally)

    def _line_up(self, pending: Pending, now: float) -> None:
        """Let part of a sequence wait, for its turn first.

        Raises:
            Refusal: as ``_admit``.
        """
        if pending not in self.sequences.held:
            try:
                self._admit(pending, now)
            except Refusal:
                self.sequences.over(pending, now)
                raise
        elif self.waiting > self._settings.queue_max_size:
            self.sequences.leave(pending)
            pending.drop("rejected", now)
            status, retry_after = HTTPStatus.TOO_MANY_REQUESTS, self._retry_after(now)
            raise _OfTheQueue(status, "Exceeds maximum queue size", retry_after)

    def _take_turns(self, now: float) -> None:
        """Let those wait with all others whose predecessor in their sequence is answered."""
        for pending in self.sequences.turns():
            try:
                self._offer(pending, now)
            except _OfTheQueue as refusal:
                self.sequences.over(pending, now)
                self._out_of_turn.append((pending, refusal))

    def _enter(self, pending: Pending, now: float, admit: "_Admit") -> None:
        """Let a request wait, where it need not be sent without being admitted.

        Raises:
            Refusal: as ``admit``, which is ``_admit`` or ``_offer``.
        """
        its_key = self._key(pending, now) if self.deduplicator.on else None
        if its_key is None:
            admit(pending, now)
        elif rows := self.deduplicator.find(its_key, pending, now):
            self._answer_again(pending, rows, now)
        elif carrier := self.deduplicator.join(its_key, pending):
            self._batcher.urge(carrier, pending)
        else:
            carrier = self.deduplicator.carry(its_key, pending)
            try:
                admit(pending, now, carrier)
            except Refusal:
                self.deduplicator.part(carrier)
                raise

    def _key(self, pending: Pending, now: float) -> Key | None:
        """What a request shares with equal ones; None: it goes by itself."""
        if pending.decoded.call.unique or pending.answer_by <= now:
            return None
        if not self._batcher.served[pending.version].interface.repeatable:
            return None
        return key(pending.version, pending.plan.group, pending.rows, pending.buffers)

    def _answer_again(self, pending: Pending, rows: Rows, now: float) -> None:
        """Answer a request by what was answered before: that says nothing of its version now."""
        pending.evidence = False
        pending.checks = ()
        result = rows.answer(part(pending))
        self._end(pending, result, now)
        pending.counted = True
        self._due.append((pending, result))

    def _expire(self, pending: Pending, now: float, *, sent: bool = False) -> Refusal:
        """Count a request whose time is over; ``sent``: Triton has it, or some rows of it."""
        if sent or pending.sent:
            pending.slices = None
            pending.expire(now)
            return late("the model has not answered in time")
        pending.drop("expired", now)
        pending.cancelled = True
        return late("not sent to the model in time")

    def _release(self, carrier: Carrier, now: float) -> list[tuple[Pending, Refusal]]:
        """Give up those of a carrier's callers who are too late; the others wait on."""
        waiters = self._callers([carrier])
        too_late = late_ones(waiters, carrier, now)
        given_up: list[tuple[Pending, Refusal]] = []
        for pending in waiters:
            if pending in too_late:
                given_up.append((pending, self._expire(pending, now, sent=carrier.flying)))
                continue
            try:
                self._enter(pending, now, self._offer)
                self._entered_again = True
            except _OfTheQueue as refusal:
                given_up.append((pending, refusal))
        return given_up

    def _callers(self, items: Iterable[Pending]) -> list[Pending]:
        """The requests, and in the place of a carrier those for whom it stood and who are there."""
        callers: list[Pending] = []
        for one in items:
            if isinstance(one, Carrier):
                one.slices = None
                waiters = self.deduplicator.part(one)
                callers += (caller for caller in waiters if not caller.cancelled)
            else:
                callers.append(one)
        return callers

    def _admit(self, pending: Pending, now: float, item: Pending | None = None) -> None:
        """Let a request wait, within its arm's part of the queue. ``item``: see ``_offer``.

        Raises:
            Refusal: 429 over its own quota: its arm answers for it; else as in ``_offer``.
        """
        quota = self._quotas.queue.get(pending.version)
        if quota is not None and self.counters.waiting(pending.arm, pending.version) >= quota:
            pending.end("rejected", now)
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"arm {pending.arm} has {quota:g} requests waiting",
                self._retry_after(now),
            )
        self._offer(pending, now, item)

    def _offer(self, pending: Pending, now: float, item: Pending | None = None) -> None:
        """Let a request wait. ``item``: what waits in its place.

        Raises:
            _OfTheQueue: 429 where it is full, 504 where it takes too long; counted.
        """
        try:
            thrown_out = self._batcher.offer(item or pending, now)
        except Full as full:
            pending.drop("rejected", now)
            status = HTTPStatus.TOO_MANY_REQUESTS
            raise _OfTheQueue(status, full.message, full.retry_after) from full
        except Late as too_late:
            pending.drop("expired", now)
            over = min(pending.send_by, pending.answer_by) <= now
            refusal = late("it was over on arrival" if over else too_late.message)
            raise _OfTheQueue(refusal.status, refusal.message) from too_late
        if thrown_out:
            callers = self._callers(thrown_out)
            for one in callers:
                one.drop("rejected", now)
            self._thrown_out += callers

    def _retry_after(self, now: float) -> float:
        """Seconds in which what waits now will have gone, as fast as it goes."""
        rate = self._batcher.scheduler.drain_rate(now)
        return min(self.waiting / rate, LONGEST_RETRY) if rate else 1.0


class _Admit(Protocol):
    def __call__(self, pending: Pending, now: float, item: Pending | None = None) -> None: ...


class _OfTheQueue(Refusal):
    """A refusal that the queue answers for, and that is counted already."""


def _outcome(result: Result | Tensors) -> Outcome:
    if not isinstance(result, Refusal):
        return "ok"
    server = result.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return "server_error" if server else "client_error"
