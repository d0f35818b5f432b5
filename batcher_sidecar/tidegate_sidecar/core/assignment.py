"""Which arm and version each request of one model goes to, and what it is evidence for.

In this order: the version that its path names (arm ``direct``, no evidence); that of its sequence,
with the arm that the sequence began with; that of its arm by the split; the default one where the
arm's is not ready here (no evidence).
"""

from collections.abc import Mapping
from http import HTTPStatus

from tidegate_contract import names
from tidegate_contract.table import RoutingTable
from tidegate_sidecar.core.batcher import Served
from tidegate_sidecar.core.counters import BUCKET_STRATA, Counters, level_stratum
from tidegate_sidecar.core.feedback import Feedback, covariate
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, unavailable
from tidegate_sidecar.core.request import Call, Plan
from tidegate_sidecar.core.routing import Router, default_arm
from tidegate_sidecar.core.sequences import Pin, Sequences, Step, step_of
from tidegate_sidecar.core.tokens import ARMS, Subject
from tidegate_sidecar.core.users import Users


class Assignment:
    """Assigns one model's requests in one pod.

    ``router``: of this model and pod. ``served``: the versions that are ready, as they come and
    go. ``direct_at``: by version, when a request last named it itself, in seconds.
    """

    def __init__(
        self,
        model: str,
        router: Router,
        served: Mapping[int, Served],
        sequences: Sequences,
        counters: Counters,
        feedback: Feedback,
    ) -> None:
        self.direct_at: dict[int, float] = {}
        self.users = Users()
        self._model = model
        self._table: RoutingTable | None = None
        self._router = router
        self._served = served
        self._sequences = sequences
        self._counters = counters
        self._feedback = feedback

    def follow(self, table: RoutingTable) -> None:
        """Take a table over; the spread stays where it is."""
        self._table = table
        self._router.change(table)
        self.users.follow(table.assignment)

    @property
    def table(self) -> RoutingTable:
        """The table.

        Raises:
            Refusal: there is none yet.
        """
        if self._table is None:
            raise unavailable(f"model {self._model} has no routing table yet")
        return self._table

    def choose(
        self, call: Call, version: int | None, headers: Mapping[str, str], now: float
    ) -> int:
        """The version for a call that passes by the queue; see ``ModelRuntime.choose``.

        Raises:
            Refusal: nothing ready can serve it, or the version does not take what it sends.
        """
        step = step_of(call) if call.alone else None
        pin = self._sequences.find(step, now) if step else None
        if version is None:
            version = pin.version if pin else self._chosen(step, headers)
        served = self._named(version)
        Plan.of(call, served.interface)  # it goes as it came, but not if that could not be right
        if step and (step.starts or pin):
            pin = pin or Pin(version, names.ARM_DIRECT, served.info.sequence_idle)
            self._sequences.pin(step, pin, now)
        self.direct_at[version] = now
        return version

    def _chosen(self, step: Step | None, headers: Mapping[str, str]) -> int:
        default = default_arm(self.table).version
        if step and not step.starts:
            return default
        header = self._router.header
        arm, _, _ = self._router.route(headers.get(header) if header else None)
        return arm.version if arm.version in self._served else default

    def assign(self, pending: Pending, version: int | None, headers: Mapping[str, str]) -> None:
        """Give a request to its arm, or to the default one where that is not ready here.

        ``version``: the one that its path names. ``headers``: by lower-case name. Part of a
        sequence lines up behind the other requests of that.

        Raises:
            Refusal: nothing ready can serve it, or no version takes what it sends.
        """
        if self._table is None:
            raise unavailable(f"model {self._model} has no routing table yet")
        if pending.decoded.call.alone:
            self._step(pending, version, headers)
        elif version is not None:
            self._direct(pending, version)
        else:
            self._split(pending, headers)

    def assign_again(self, pending: Pending) -> None:
        """Give a request to its version again, where that is back, else to the default arm.

        Raises:
            Refusal: as in ``assign``.
        """
        if pending.sent or pending.decoded.call.alone:  # its other rows, or its sequence, are lost
            raise unavailable(f"version {pending.version} of model {self._model} has gone")
        if served := self._served.get(pending.version):
            plan = Plan.of(pending.decoded.call, served.interface)
            pending.move(plan)
        elif pending.arm == names.ARM_DIRECT:
            raise unavailable(f"version {pending.version} of model {self._model} has gone")
        else:
            self._fall_back(pending)

    def _step(self, pending: Pending, version: int | None, headers: Mapping[str, str]) -> None:
        """Give part of a sequence to the version that the sequence is with, and let it line up."""
        now = pending.arrived
        step = step_of(pending.decoded.call)
        pin = self._sequences.find(step, now)
        user: tuple[int | None, int] = None, 0
        if version is not None:
            self._direct(pending, version)
        elif pin:
            self._continue(pending, pin, headers)
        elif step.starts:
            user = self._split(pending, headers)
        else:
            default = default_arm(self.table)
            self._give(pending, default.name, self._named(default.version))
        if step.starts:
            idle = self._served[pending.version].info.sequence_idle
            pin = Pin(pending.version, pending.arm, idle, pending.evidence, *user)
        if pin:
            self._sequences.pin(step, pin, now)
        self._sequences.enter(step, pending, now)

    def _continue(self, pending: Pending, pin: Pin, headers: Mapping[str, str]) -> None:
        """Give a request to the arm of its sequence's start, as evidence while that is an arm."""
        self._give(pending, pin.arm, self._named(pin.version))
        if pin.evidence and any(
            (arm.name, arm.version) == (pin.arm, pin.version) for arm in self.table.split
        ):
            self._credit(pending, pin.bucket, pin.mark, headers)

    def _direct(self, pending: Pending, version: int) -> None:
        self._give(pending, names.ARM_DIRECT, self._named(version))
        self.direct_at[version] = pending.arrived

    def _split(self, pending: Pending, headers: Mapping[str, str]) -> tuple[int | None, int]:
        """Give a request to its arm by the split; returns the bucket and the mark of its user."""
        header = self._router.header
        arm, bucket, mark = self._router.route(headers.get(header) if header else None)
        served = self._served.get(arm.version)
        if not served:
            pending.arm = arm.name
            self._fall_back(pending)
            return bucket, mark
        self._give(pending, arm.name, served)
        if arm.name != names.ARM_UNASSIGNED:
            self._credit(pending, bucket, mark, headers)
        return bucket, mark

    def _fall_back(self, pending: Pending) -> None:
        """Give a request that its arm cannot serve to the default arm, as no evidence."""
        default = default_arm(self.table)
        served = self._served.get(default.version)
        if not served:
            raise unavailable(f"version {default.version} of model {self._model} is not ready")
        self._counters.fell_back(pending.arm)
        self._give(pending, default.name, served)

    def _give(self, pending: Pending, arm: str, served: Served) -> None:
        plan = Plan.of(pending.decoded.call, served.interface)
        tally = self._counters.tally(arm, served.info.version, pending.level)
        pending.assign(arm, served.info.version, plan, tally)

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
            checks = self._counters.concerning(
                pending.arm, pending.version, pending.level, pending.stratum
            )
        pending.checks = checks
        experiment = self._feedback.experiment
        if experiment and pending.arm in ARMS:
            header = experiment.covariate
            known = covariate(headers.get(header.lower())) if header else None
            pending.subject = Subject(pending.arm, pending.version, bucket, known)

    def _named(self, version: int) -> Served:
        if served := self._served.get(version):
            return served
        if self._table and version in {row.version for row in self._table.versions}:
            raise unavailable(f"version {version} of model {self._model} is not ready")
        raise Refusal(HTTPStatus.NOT_FOUND, f"model {self._model} has no version {version} here")
