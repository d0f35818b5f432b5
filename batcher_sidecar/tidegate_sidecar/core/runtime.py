"""One model in one pod: the table that it follows, the versions it has, its requests.

Every request goes the same way: decode, route, admit, wait, batch, answer; and counts once.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import accumulate
from typing import Any

import msgspec

from tidegate_contract import names
from tidegate_contract.table import RoutingTable
from tidegate_sidecar.core.admission import Quotas, quotas
from tidegate_sidecar.core.batcher import Batch, Batcher, Served
from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.counters import (
    BUCKET_STRATA,
    LEVEL_STRATA,
    LEVELS,
    Counters,
    Outcome,
)
from tidegate_sidecar.core.exchange import (
    Answer,
    BadReplyError,
    Part,
    Splitter,
    read_reply,
    request_json,
)
from tidegate_sidecar.core.feedback import Feedback, covariate
from tidegate_sidecar.core.mirror import Found, Mirror
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, Unserved, lost, malformed, unavailable
from tidegate_sidecar.core.request import Buffer, Decoder, Plan, priority_from_header
from tidegate_sidecar.core.routing import Router, default_arm
from tidegate_sidecar.core.shadows import Shadow
from tidegate_sidecar.core.tokens import ARMS, Subject
from tidegate_sidecar.core.users import Users
from tidegate_sidecar.core.version import VersionInfo

Result = Answer | Refusal
Pair = tuple[Shadow, Tensors | Refusal]
"""A copy, with stable's answer, and what was answered to it."""


class ModelRuntime:
    """Decides for every request of one model. Times are seconds of any one steady clock.

    ``issuer``: see ``Feedback``. ``direct_at``: by version, when a request last named it itself.
    """

    def __init__(self, model: str, pod_uid: str, issuer: int = 0) -> None:
        self.model = model
        self.table: RoutingTable | None = None
        self.counters = Counters()
        self.users = Users()
        self.feedback = Feedback(issuer)
        self.direct_at: dict[int, float] = {}
        self._router = Router(model, pod_uid)
        self._batcher = Batcher()
        self.mirror = Mirror(f"{model}/{pod_uid}", self._batcher, self.counters)
        self._decoder = Decoder()
        self._quotas = Quotas({}, {})
        self._displaced: list[Pending] = []

    def apply(self, table: RoutingTable) -> None:
        """Follow a table from the next request on; the spread stays where it is."""
        self.table = table
        self._quotas = quotas(table)
        self._router.change(table)
        self.counters.follow(table)
        self.users.follow(table.assignment)
        self.feedback.follow(table)
        self._batcher.configure(table.batch, self._quotas.device)
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
            self._displaced += self._batcher.stop(version)
            self.mirror.version_gone(version)

    @property
    def ready(self) -> Mapping[int, VersionInfo]:
        """The versions that requests are sent to."""
        return {version: served.info for version, served in self._batcher.served.items()}

    def in_use(self, version: int) -> bool:
        """Whether requests of a version wait or are in flight."""
        return self._batcher.in_use(version)

    @property
    def default_version(self) -> int:
        """The version that a path without one means.

        Raises:
            Refusal: there is no table yet.
        """
        if self.table is None:
            raise unavailable(f"model {self.model} has no routing table yet")
        return default_arm(self.table).version

    def submit(
        self,
        caller: Any,
        body: bytes,
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
        pending: Pending | None = None
        try:
            decoded, start = self._decoder.decode(body, json_length)
            priority = decoded.priority or priority_from_header(headers)
            pending = Pending(caller, decoded, body, start, priority, now)
            self._route(pending, version, headers)
        except Refusal as refusal:
            priority = pending.priority if pending else names.DEFAULT_PRIORITY
            outcome: Outcome = "rejected" if refusal.retry_after else "client_error"
            self.counters.tally(names.ARM_NONE, 0, priority).count(outcome)
            raise
        self._admit(pending, now)
        self._batcher.offer(pending)
        return pending

    def cancel(self, pending: Pending, now: float) -> None:
        """Forget the caller of a request; where it still waits, the request too."""
        pending.cancel(now)
        if not self._batcher.cancel(pending) and pending in self._displaced:
            self._displaced.remove(pending)

    def replan(self, now: float) -> list[tuple[Pending, Refusal]]:
        """Find a version for what waited for one that has gone, or was loaded anew.

        Returns those for which there is none, counted, with the answer that they get.
        """
        displaced, self._displaced = self._displaced, []
        refused: list[tuple[Pending, Refusal]] = []
        for pending in displaced:
            try:
                self._reassign(pending)
                self._batcher.offer(pending)
            except Unserved as refusal:
                pending.end_unserved()
                refused.append((pending, refusal))
            except Refusal as refusal:
                pending.end(_outcome(refusal), now)
                refused.append((pending, refusal))
        return refused

    @property
    def waiting(self) -> int:
        """Requests that wait, without shadows."""
        return self._batcher.waiting

    def poll(self, now: float, *, quiet: bool = True) -> list[Batch]:
        """Take out the batches that are to be sent now.

        ``quiet``: no request of another model waits for this device.
        """
        batches = self._batcher.poll(now, quiet=quiet)
        for batch in batches:
            self.counters.batch(batch.version, batch.rows)
        return batches

    def next_wake(self) -> float | None:
        """When the next ``poll`` is due though nothing happens until then."""
        return self._batcher.next_wake()

    def encode(self, batch: Batch) -> tuple[bytes, list[Buffer]]:
        """Write a batch for Triton: JSON, and the tensors that follow it."""
        members = batch.members
        group = members[0].plan.group
        inputs = range(len(group.inputs))
        buffers = [pending.buffers[i] for i in inputs for pending in members]
        sizes = tuple(sum(len(one.buffers[i]) for one in members) for i in inputs)
        wanted = {pending.plan.call.outputs for pending in members}
        outputs = sorted({one.name for many in wanted for one in many})
        return request_json(group, batch.rows, tuple(outputs), sizes), buffers

    def complete(
        self, batch: Batch, status: int, json_length: int | None, body: bytes
    ) -> list[Result]:
        """Read Triton's answer to a batch: one result for each member, in their order."""
        if status != HTTPStatus.OK:
            return [_error(status, body)] * len(batch.members)
        try:
            splitter = self._splitter(batch, json_length, body)
            return splitter.split([_part(one) for one in batch.members])
        except BadReplyError as error:
            refusal = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return [refusal] * len(batch.members)

    def finish(self, batch: Batch, results: Sequence[Result], now: float) -> None:
        """Count a batch whose members have been answered, and free its slot."""
        for pending, result in zip(batch.members, results, strict=True):
            outcome = _outcome(result)
            if isinstance(result, Unserved):
                if not pending.cancelled:
                    pending.end_unserved()
            elif pending.cancelled:
                pending.end_cancelled(failed=outcome == "server_error")
            else:
                pending.end(outcome, now)
        self._batcher.finished(batch, now)

    def reflect(
        self,
        batch: Batch,
        json_length: int | None,
        body: bytes,
        results: Sequence[Result],
        now: float,
    ) -> None:
        """Copy what was answered well to another version, as far as the table asks for that.

        After the answers are out: nobody waits for it. The arguments are those of ``complete`` and
        what that returned.
        """
        row = 0
        for pending, result in zip(batch.members, results, strict=True):
            if isinstance(result, Answer) and self.mirror.chooses(pending):
                splitter = self._splitter(batch, json_length, body)
                answered = splitter.tensors(_part(pending), row)
                self.mirror.copy(pending, answered, batch, now)
            row += pending.plan.rows

    def complete_shadows(
        self, batch: Batch, status: int, json_length: int | None, body: bytes
    ) -> list[Tensors | Refusal]:
        """Read Triton's answer to a batch of copies: one result for each, in their order."""
        if status != HTTPStatus.OK:
            return [_error(status, body)] * len(batch.members)
        rows = (one.plan.rows for one in batch.members)
        try:
            splitter = self._splitter(batch, json_length, body)
            return [
                splitter.tensors(_part(one), row)
                for one, row in zip(batch.members, accumulate(rows, initial=0), strict=False)
            ]
        except BadReplyError as error:
            refusal = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return [refusal] * len(batch.members)

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
        for pending in self._batcher.unanswered():
            pending.look(now)
        self.mirror.look(now)

    def _splitter(self, batch: Batch, json_length: int | None, body: bytes) -> Splitter:
        """Read the JSON of an answer.

        Raises:
            BadReplyError: it is not understood.
        """
        cut = len(body) if json_length is None else json_length
        label = b'"model_name":"%b","model_version":"%d"' % (self.model.encode(), batch.version)
        return Splitter(label, read_reply(body[:cut]), memoryview(body)[cut:], batch.rows)

    def _route(self, pending: Pending, version: int | None, headers: Mapping[str, str]) -> None:
        """Give a request to its arm, or to the default one where that is not ready here.

        Raises:
            Refusal: nothing ready can serve it, or no version takes what it sends.
        """
        if self.table is None:
            raise unavailable(f"model {self.model} has no routing table yet")
        if version is not None:
            self._assign(pending, names.ARM_DIRECT, self._named(version))
            self.direct_at[version] = pending.arrived
            return
        if pending.decoded.call.alone:
            raise malformed("parameters.sequence_id: a sequence must name its version in the path")
        header = self._router.header
        arm, bucket, mark = self._router.route(headers.get(header) if header else None)
        served = self._batcher.served.get(arm.version)
        if not served:
            pending.arm = arm.name
            self._fall_back(pending)
            return
        self._assign(pending, arm.name, served)
        if arm.name != names.ARM_UNASSIGNED:
            if bucket is not None:
                pending.stratum = BUCKET_STRATA[bucket]
                self.users.see(arm.name, mark)
            elif not header:
                pending.stratum = LEVEL_STRATA[pending.priority]
            self._concern(pending, bucket, headers)

    def _concern(self, pending: Pending, bucket: int | None, headers: Mapping[str, str]) -> None:
        """Make a request evidence for or against its arm."""
        pending.evidence = True
        checks = pending.tally.checks.get(pending.stratum)
        if checks is None:
            checks = self.counters.concerning(
                pending.arm, pending.version, pending.priority, pending.stratum
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
        if served := self._batcher.served.get(pending.version):
            plan = Plan.of(pending.decoded.call, served.interface)
            pending.move(plan)
        elif pending.arm == names.ARM_DIRECT:
            raise unavailable(f"version {pending.version} of model {self.model} has gone")
        else:
            self._fall_back(pending)

    def _assign(self, pending: Pending, arm: str, served: Served) -> None:
        plan = Plan.of(pending.decoded.call, served.interface)
        tally = self.counters.tally(arm, served.info.version, pending.priority)
        pending.assign(arm, served.info.version, plan, tally)

    def _admit(self, pending: Pending, now: float) -> None:
        """Hold a request to the bounds of the queue.

        Raises:
            Refusal: 429. Over its own quota an arm answers for it, else the queue's bound does.
        """
        assert self.table
        quota = self._quotas.queue.get(pending.version)
        if quota is not None and self._waiting(pending.arm, pending.version) >= quota:
            pending.end("rejected", now)
            raise Refusal(
                HTTPStatus.TOO_MANY_REQUESTS, f"arm {pending.arm} has {quota:g} requests waiting"
            )
        if self._batcher.waiting >= self.table.batch.queue_max_size:
            pending.tally.count("rejected")
            raise Refusal(HTTPStatus.TOO_MANY_REQUESTS, "Exceeds maximum queue size")

    def _waiting(self, arm: str, version: int) -> int:
        return sum(self.counters.tally(arm, version, level).waiting for level in LEVELS)


def _error(status: int, body: bytes) -> Refusal:
    """Triton's error as its callers get it."""
    try:
        message = msgspec.json.decode(body, type=dict[str, str])["error"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
        message = f"the model server answered {status}"
    if status == HTTPStatus.NOT_FOUND:
        # It was ready when it was asked, so this is not the caller's mistake.
        return lost(message)
    return Refusal(status, message)


def _part(pending: Pending) -> Part:
    return Part(pending.plan.rows, pending.plan.call.outputs, pending.decoded.id)


def _outcome(result: Result | Tensors) -> Outcome:
    if not isinstance(result, Refusal):
        return "ok"
    server = result.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return "server_error" if server else "client_error"
