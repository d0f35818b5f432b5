"""From a rollout's metrics to the checks that sidecars count, and the bounds that they are held to.

Every check is a share of bad requests, whatever the metric. An error rate bounds the share of
errors; a latency quantile q bounds the share slower than the given time by 1 - q. A ratio of
latencies is no ratio of such shares (1.5 times the share of slow requests is 1.05 to 1.18 times the
latency): so stable is counted slower than b, its own quantile before the rollout, and the canary
slower than R b. A canary at most R times as slow exceeds R b no more often than stable exceeds b.

What counts the same requests by the same bound is one check: all parts of an error rate are.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import msgspec

from tidegate_contract.names import ARM_CANARY, ARM_SHADOW, ARM_STABLE
from tidegate_contract.table import Check, DisagreementCheck, ErrorCheck, SlowCheck
from tidegate_operator.api.canaryrollout import Disagreement, ErrorRate, Latency, Metric, Query
from tidegate_operator.api.quantity import seconds

ARMS = [ARM_STABLE, ARM_CANARY]


@dataclass(frozen=True, slots=True)
class Bound:
    """A check and the share of bad requests that it allows ``arm``."""

    check: Check
    allowed: float
    arm: str = ARM_CANARY

    @property
    def id(self) -> str:
        """The check's id: the label's value at the sidecars."""
        return self.check.id


@dataclass(frozen=True, slots=True)
class RatioBound:
    """A check of both arms: bad requests of the canary may be ``allowed`` times as frequent as
    stable's.
    """

    check: Check
    allowed: float

    @property
    def id(self) -> str:
        """The check's id."""
        return self.check.id


@dataclass(frozen=True, slots=True)
class Neighbour:
    """What the canary may do to stable, which shares its device.

    ``slowed``: beyond this the rollout holds; ``broken``: beyond this it goes back.
    """

    slowed: Bound
    broken: Bound | None


@dataclass(frozen=True, slots=True)
class Counted:
    """A metric that sidecars count; None where the user gave no such bound. ``arm``: whose
    requests are judged. ``unpinned``: a ratio is asked for, and cannot be counted, as nobody knows
    how fast stable was.
    """

    name: str
    dry_run: bool
    arm: str = ARM_CANARY
    unpinned: bool = False
    success: Bound | None = None
    rollback: Bound | None = None
    ratio: RatioBound | None = None
    neighbour: Neighbour | None = None
    tests: int = 0
    """How many tests can roll back: they share the level."""

    @property
    def shown(self) -> Check | None:
        """The check whose rates stand for the metric; None where its only bound is unpinned."""
        part = self.success or self.rollback or self.ratio
        return part.check if part else None

    @property
    def checks(self) -> list[Check]:
        """What sidecars are to count, each once."""
        found: dict[str, Check] = {}
        for part in (self.success, self.rollback, self.ratio):
            if part is not None:
                found[part.id] = part.check
        if self.neighbour is not None:
            found[self.neighbour.slowed.id] = self.neighbour.slowed.check
        return list(found.values())


@dataclass(frozen=True, slots=True)
class Agreement:
    """Answers of mirrored requests against stable's; ``baseline``: only the share beyond that at
    which stable disagrees with itself counts.
    """

    name: str
    dry_run: bool
    bound: Bound
    baseline: bool
    tests: int = 1

    @property
    def checks(self) -> list[Check]:
        """What sidecars are to count."""
        return [self.bound.check]


@dataclass(frozen=True, slots=True)
class Queried:
    """A user's own PromQL: sidecars count nothing for it. ``id``: its definition's."""

    name: str
    dry_run: bool
    id: str
    query: Query
    checks: list[Check] = field(default_factory=list)
    tests: int = 0


Compiled = Counted | Agreement | Queried


@dataclass(frozen=True, slots=True)
class Definition:
    """What a metric's evidence belongs to: another one starts from fresh counters.

    ``attempt``: a retry is a new one. ``arm``: the canary, or its shadow where it has no traffic
    of its own. ``slowdown``: how many times stable's own latency may grow. ``pinned``: quantile of
    stable's latency before the rollout in seconds, None where nobody knows it.
    """

    uid: str
    attempt: int
    arm: str
    slowdown: float
    pinned: float | None = None


def compile_metrics(
    metrics: list[Metric],
    *,
    uid: str,
    attempt: int,
    shadow_only: bool,
    slowdown: float,
    pinned: Mapping[str, float],
) -> list[Compiled]:
    """The metrics of one attempt of a rollout."""
    arm = ARM_SHADOW if shadow_only else ARM_CANARY
    return [
        compile_metric(one, Definition(uid, attempt, arm, slowdown, pinned.get(one.name)))
        for one in metrics
    ]


def counted(metrics: Sequence[Compiled]) -> list[Check]:
    """All that sidecars are to count. Where no metric counts every request of both arms, a check
    that nothing is held to does: a step asks for so many requests, whatever it is judged by.
    """
    checks = [check for metric in metrics for check in metric.checks]
    if any(isinstance(one, ErrorCheck) for one in checks):
        return checks
    return [*checks, ErrorCheck(id="requests", arms=ARMS)]


def compile_metric(metric: Metric, to: Definition) -> Compiled:
    """One metric. It is asked for at every look, and the same for as long as nothing is edited."""
    return _compile(msgspec.json.encode(metric), to)


@lru_cache(maxsize=65536)
def _compile(encoded: bytes, to: Definition) -> Compiled:
    metric = msgspec.json.decode(encoded, type=Metric)
    if metric.error_rate is not None:
        return _errors(metric, metric.error_rate, to)
    if metric.latency is not None:
        return _latency(metric, metric.latency, to)
    if metric.disagreement is not None:
        return _agreement(metric, metric.disagreement, to)
    assert metric.prometheus is not None, "the CRD demands exactly one kind"
    return Queried(metric.name, metric.dry_run, _id(metric, "query", to), metric.prometheus)


def _errors(metric: Metric, rate: ErrorRate, to: Definition) -> Counted:
    arms = [to.arm] if to.arm == ARM_SHADOW else ARMS
    check = ErrorCheck(id=_id(metric, "rollback", to), arms=arms)
    ratio = rate.max_ratio_to_stable if to.arm == ARM_CANARY else None
    return Counted(
        metric.name,
        metric.dry_run,
        to.arm,
        success=None if rate.success is None else Bound(check, rate.success, to.arm),
        rollback=None if rate.rollback is None else Bound(check, rate.rollback, to.arm),
        ratio=None if ratio is None else RatioBound(check, ratio),
        tests=(rate.rollback is not None) + (ratio is not None),
    )


def _latency(metric: Metric, latency: Latency, to: Definition) -> Counted:
    share = 1.0 - latency.quantile

    def slow(part: str, bounds: dict[str, float]) -> SlowCheck:
        return SlowCheck(id=_id(metric, part, to), bounds=bounds, priorities=latency.priorities)

    success = rollback = ratio = neighbour = None
    if latency.success is not None:
        bounds = dict.fromkeys(ARMS, seconds(latency.success))
        success = Bound(slow("success", bounds), share)
    if latency.rollback is not None:
        bounds = dict.fromkeys(ARMS, seconds(latency.rollback))
        rollback = Bound(slow("rollback", bounds), share)
    if to.pinned is not None:
        times = latency.max_ratio_to_stable
        if times is not None:
            bounds = {ARM_STABLE: to.pinned, ARM_CANARY: times * to.pinned}
            ratio = RatioBound(slow("ratio", bounds), 1.0)
        bounds = {ARM_STABLE: to.slowdown * to.pinned}
        broken = None
        if rollback is not None and to.pinned <= rollback.check.bounds[ARM_STABLE]:  # type: ignore[union-attr]
            broken = Bound(rollback.check, share, ARM_STABLE)
        neighbour = Neighbour(Bound(slow("slowdown", bounds), share, ARM_STABLE), broken)
    return Counted(
        metric.name,
        metric.dry_run,
        unpinned=to.pinned is None and latency.max_ratio_to_stable is not None,
        success=success,
        rollback=rollback,
        ratio=ratio,
        neighbour=neighbour,
        # Not yet pinned or not, so that the level's parts never change midway.
        tests=2 * (latency.rollback is not None) + (latency.max_ratio_to_stable is not None),
    )


def _agreement(metric: Metric, agreement: Disagreement, to: Definition) -> Agreement:
    check = DisagreementCheck(
        id=_id(metric, "rollback", to),
        tolerance=agreement.tolerance,
        compare=agreement.compare,
        baseline=agreement.baseline,
    )
    bound = Bound(check, agreement.max, ARM_SHADOW)
    return Agreement(metric.name, metric.dry_run, bound, agreement.baseline)


def _id(metric: Metric, part: str, to: Definition) -> str:
    measured = (to.pinned, to.slowdown) if part in {"ratio", "slowdown"} else None
    which = (to.uid, to.attempt, to.arm)
    definition = msgspec.json.encode((part, metric, which, measured), order="deterministic")
    return f"{metric.name}/{part}@{hashlib.sha256(definition).hexdigest()[:8]}"
