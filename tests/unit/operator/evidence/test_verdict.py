"""What the counts say of a metric."""

from typing import Any

import pytest

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_operator.api.canaryrollout import Checkpoint, ErrorRate, Latency, Metric, Tally
from tidegate_operator.evidence.checks import CompiledMetric, compile_metric
from tidegate_operator.evidence.eprocess import over_steps
from tidegate_operator.evidence.verdict import Judgement, Verdict, judge, step_requests

ERRORS = Metric(name="errors", error_rate=ErrorRate(success=0.01, rollback=0.05))


def judged(metric: Metric, canary: Tally, harm: list[Tally] | None = None, **how: Any) -> Judgement:
    compiled = compile_metric(metric, "u")
    evidence = Checkpoint(
        gating_since=0,
        step=0,
        harm={bound.id: harm or [canary] for bound in compiled.bounds},
        watched={bound.id: {ARM_CANARY: canary} for bound in compiled.bounds},
    )
    settings = {"total_steps": 8, "threshold": 200.0, "step_over": False, **how}
    return judge(compiled, evidence, **settings)


def test_worst_wins() -> None:
    order = [Verdict.Pass, Verdict.Inconclusive, Verdict.NoData, Verdict.Error, Verdict.Fail]
    assert sorted(Verdict) == order


def test_it_gathers_until_the_step_is_over() -> None:
    found = judged(ERRORS, Tally(requests=500, bad=0))
    assert (found.verdict, found.status.reason) == (Verdict.Inconclusive, "gathering")


def test_within_the_bound_it_passes() -> None:
    found = judged(ERRORS, Tally(requests=500, bad=5), step_over=True)
    assert (found.verdict, found.status.canary) == (Verdict.Pass, 0.01)


def test_above_the_bound_it_is_not_conclusive() -> None:
    found = judged(ERRORS, Tally(requests=500, bad=10), step_over=True)
    assert (found.verdict, found.status.reason) == (
        Verdict.Inconclusive,
        "2% is above success 1%",
    )


def test_without_a_success_bound_it_passes_by_not_failing() -> None:
    metric = Metric(name="errors", error_rate=ErrorRate(rollback=0.05))
    assert judged(metric, Tally(requests=500, bad=30), step_over=True).verdict is Verdict.Pass


def test_without_a_rollback_bound_it_never_fails() -> None:
    metric = Metric(name="errors", error_rate=ErrorRate(success=0.05))
    found = judged(metric, Tally(requests=500, bad=500), step_over=True)
    assert found.verdict is Verdict.Inconclusive


def test_nothing_that_it_concerns_is_not_within_bounds() -> None:
    found = judged(ERRORS, Tally(), step_over=True)
    assert (found.verdict, found.status.reason) == (
        Verdict.Inconclusive,
        "no request that it concerns reached the canary",
    )


@pytest.mark.parametrize("step_over", [False, True])
def test_a_broken_bound_fails_at_any_time(step_over: bool) -> None:
    found = judged(ERRORS, Tally(requests=100, bad=40), step_over=step_over)
    assert found.verdict is Verdict.Fail
    assert found.status.reason == "40 of 100 canary requests failed (40%), 5% allowed"
    assert found.status.threshold == 200
    assert (found.status.evidence or 0.0) >= 200


def test_it_fails_at_the_threshold_and_not_before() -> None:
    tally = Tally(requests=30, bad=6)
    e_value = over_steps([tally], 0.05, 8)
    assert judged(ERRORS, tally, threshold=e_value).verdict is Verdict.Fail
    assert judged(ERRORS, tally, threshold=e_value * 1.001).verdict is Verdict.Inconclusive


def test_requests_that_nobody_watched_count_for_harm() -> None:
    harm = [Tally(requests=100, bad=60)]
    assert judged(ERRORS, Tally(), harm=harm).verdict is Verdict.Fail


def test_a_slow_canary_says_how_slow() -> None:
    metric = Metric(name="slow", latency=Latency(quantile=0.95, rollback="500ms"))
    found = judged(metric, Tally(requests=100, bad=60))
    assert found.status.reason == (
        "60 of 100 canary requests took longer than 500ms (60%), 5% allowed"
    )


def test_requests_of_a_step_are_those_of_the_widest_check() -> None:
    metrics: list[CompiledMetric] = [
        compile_metric(ERRORS, "u"),
        compile_metric(
            Metric(name="slow", latency=Latency(quantile=0.9, success="1s", priorities=[1])),
            "u",
        ),
    ]
    wide, narrow = metrics[0].bounds[0].id, metrics[1].bounds[0].id
    watched = {
        wide: {ARM_STABLE: Tally(requests=90), ARM_CANARY: Tally(requests=10)},
        narrow: {ARM_STABLE: Tally(requests=9), ARM_CANARY: Tally(requests=1)},
        "errors/success@old": {ARM_CANARY: Tally(requests=1000)},
    }
    assert step_requests(metrics, watched) == {ARM_STABLE: 90, ARM_CANARY: 10}
    assert step_requests(metrics, {}) == {ARM_STABLE: 0, ARM_CANARY: 0}
