"""What the evidence says of each metric, and of a step as a whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_contract.table import SlowCheck
from tidegate_operator.api.canaryrollout import Checkpoint, MetricStatus, Tally
from tidegate_operator.api.quantity import duration
from tidegate_operator.evidence.checks import Bound, CompiledMetric
from tidegate_operator.evidence.eprocess import over_steps


class Verdict(IntEnum):
    """Five different things, from best to worst: of several, the worst is what counts."""

    Pass = 0
    Inconclusive = 1
    NoData = 2
    Error = 3
    Fail = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """A metric's verdict with what it rests on."""

    verdict: Verdict
    status: MetricStatus


def judge(
    metric: CompiledMetric,
    evidence: Checkpoint,
    *,
    total_steps: int,
    threshold: float,
    step_over: bool,
) -> Judgement:
    """Judge one metric.

    Fail as soon as the rollback bound is shown to be broken. Pass only where ``step_over`` says
    that it is time to judge the step as a whole, and its rate keeps the success bound; a metric
    without one passes by not failing.
    """
    e_value = 1.0
    if metric.rollback is not None:
        harm = evidence.harm.get(metric.rollback.id, [])
        e_value = over_steps(harm, metric.rollback.allowed, total_steps)
    shown = metric.success or metric.rollback
    assert shown is not None, "the CRD demands a bound"
    canary = _tally(evidence, shown, ARM_CANARY)
    verdict, reason = Verdict.Inconclusive, "gathering"
    if metric.rollback is not None and e_value >= threshold:
        verdict, reason = Verdict.Fail, _broken(metric.rollback, evidence)
    elif step_over and (metric.success is None or _kept(metric.success, canary)):
        verdict, reason = Verdict.Pass, "within bounds"
    elif step_over:
        assert metric.success is not None
        reason = f"{_percent(canary.rate)} is above success {_percent(metric.success.allowed)}"
        if canary.rate is None:
            reason = "no request that it concerns reached the canary"
    return Judgement(
        verdict,
        MetricStatus(
            name=metric.name,
            verdict=verdict.name,
            stable=_tally(evidence, shown, ARM_STABLE).rate,
            canary=canary.rate,
            evidence=_readable(e_value),
            threshold=_readable(threshold),
            reason=reason,
        ),
    )


def step_requests(
    metrics: Sequence[CompiledMetric], watched: Mapping[str, Mapping[str, Tally]]
) -> dict[str, int]:
    """Requests of each arm that count in this step: those of the check that concerns the most."""
    ids = [bound.id for metric in metrics for bound in metric.bounds]
    return {
        arm: max((watched.get(id_, {}).get(arm, Tally()).requests for id_ in ids), default=0)
        for arm in (ARM_STABLE, ARM_CANARY)
    }


def _kept(bound: Bound, tally: Tally) -> bool:
    return tally.rate is not None and tally.rate <= bound.allowed


def _tally(evidence: Checkpoint, bound: Bound, arm: str) -> Tally:
    return evidence.watched.get(bound.id, {}).get(arm, Tally())


def _broken(bound: Bound, evidence: Checkpoint) -> str:
    total = sum(evidence.harm.get(bound.id, []), Tally())
    last = evidence.harm[bound.id][-1]
    worst = last if (last.rate or 0) >= (total.rate or 0) else total
    match bound.check:
        case SlowCheck(bounds=bounds):
            what = f"took longer than {duration(bounds[ARM_CANARY])}"
        case _:
            what = "failed"
    return (
        f"{worst.bad} of {worst.requests} canary requests {what} ({_percent(worst.rate)}), "
        f"{_percent(bound.allowed)} allowed"
    )


def _percent(share: float | None) -> str:
    return "no requests" if share is None else f"{share * 100:.3g}%"


def _readable(value: float) -> float:
    return float(f"{value:.4g}")
