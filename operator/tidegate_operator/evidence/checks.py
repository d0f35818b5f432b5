"""From a rollout's metrics to the checks that sidecars count.

A metric gives up to two checks: ``NAME/success`` and ``NAME/rollback``. Every check is a share of
bad requests with a bound on that share, whatever the metric: an error rate bounds the share of
errors, a latency quantile q bounds the share slower than the given time by 1 - q.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import msgspec

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_contract.table import Check, ErrorCheck, SlowCheck
from tidegate_operator.api.canaryrollout import Metric
from tidegate_operator.api.quantity import seconds

ARMS = [ARM_STABLE, ARM_CANARY]


@dataclass(frozen=True, slots=True)
class Bound:
    """A check and the share of bad requests that it allows."""

    part: Literal["success", "rollback"]
    check: Check
    allowed: float

    @property
    def id(self) -> str:
        """The check's id: the label's value at the sidecars."""
        return self.check.id


@dataclass(frozen=True, slots=True)
class CompiledMetric:
    """A metric as bounds on shares; None where the user gave no such bound."""

    name: str
    success: Bound | None
    rollback: Bound | None

    @property
    def bounds(self) -> list[Bound]:
        """Those that were given."""
        return [bound for bound in (self.success, self.rollback) if bound is not None]


def compile_metric(metric: Metric, rollout_uid: str) -> CompiledMetric:
    """The metric's checks. Their ids carry a hash of their definition and of the rollout, so that
    an edited metric, or another rollout of the same version, starts from fresh counters.
    """
    if metric.error_rate is not None:
        rate = metric.error_rate
        return CompiledMetric(
            metric.name,
            _error_bound(metric, "success", rate.success, rollout_uid),
            _error_bound(metric, "rollback", rate.rollback, rollout_uid),
        )
    assert metric.latency is not None, "the CRD demands exactly one kind"
    return CompiledMetric(
        metric.name,
        _slow_bound(metric, "success", metric.latency.success, rollout_uid),
        _slow_bound(metric, "rollback", metric.latency.rollback, rollout_uid),
    )


def _error_bound(
    metric: Metric, part: Literal["success", "rollback"], allowed: float | None, uid: str
) -> Bound | None:
    if allowed is None:
        return None
    return Bound(part, ErrorCheck(id=_id(metric, part, uid), arms=ARMS), allowed)


def _slow_bound(
    metric: Metric, part: Literal["success", "rollback"], bound: str | None, uid: str
) -> Bound | None:
    if bound is None:
        return None
    assert metric.latency is not None
    check = SlowCheck(
        id=_id(metric, part, uid),
        bounds=dict.fromkeys(ARMS, seconds(bound)),
        priorities=metric.latency.priorities,
    )
    return Bound(part, check, 1.0 - metric.latency.quantile)


def _id(metric: Metric, part: str, uid: str) -> str:
    definition = msgspec.json.encode((uid, part, metric), order="deterministic")
    return f"{metric.name}/{part}@{hashlib.sha256(definition).hexdigest()[:8]}"
