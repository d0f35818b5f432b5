"""Pods that join a step warm up anew: only bounds of errors are held against them until then."""

from typing import Any

import pytest
from canaries import ERRORS, analysis, started, steps
from simulation import Behaviour, Simulation, failing

from tidegate_operator.evidence.queries import Answer, NoValue, QueryError, Value

SLOW = {"name": "latency", "latency": {"quantile": 0.95, "rollback": "100ms"}}
RATIO = {"name": "ratio", "errorRate": {"maxRatioToStable": 1.5}}


def replaced_again_and_again(behaviour: Behaviour, *metrics: dict[str, Any]) -> Simulation:
    """No pod lives as long as the warm-up; from the third minute on versions behave like that."""
    analysed = analysis(*metrics, warmup="60s")
    world = started(analysis=analysed, **steps(20, 100, duration="1h"))
    world.run_to("Progressing")
    world.run(120)
    world.behaviour = behaviour
    for round_ in range(8):
        for number in range(2):
            world.remove_pod(min(world.by_name))
            world.add_pod(f"triton-{round_ + 1}{number}")
        world.run(45)
        if world.status()["phase"] == "RolledBack":
            break
    return world


def test_a_canary_whose_pods_come_and_go_is_judged_by_its_errors() -> None:
    world = replaced_again_and_again(failing(2, 0.9), ERRORS)
    assert world.status()["phase"] == "RolledBack"
    assert "canary requests failed" in world.status()["message"]


def test_a_canary_whose_pods_come_and_go_is_judged_by_nothing_else() -> None:
    def slow_and_worse(version: int, _now: float) -> tuple[float, float]:
        return (0.04, 0.9) if version == 2 else (0.0, 0.0)

    world = replaced_again_and_again(slow_and_worse, ERRORS, SLOW, RATIO)
    assert world.status()["phase"] == "Progressing"
    world.run_to("RolledBack", within=60)


def test_the_warm_up_of_the_step_itself_counts_nothing() -> None:
    world = started(analysis=analysis(warmup="60s"), **steps(20, 100, duration="1h"))
    world.behaviour = failing(2, 0.9)
    world.run_to("Progressing")
    world.run(55)
    assert world.status()["phase"] == "Progressing"
    world.run_to("RolledBack", within=20)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Value(0, 0.0), "AnalysisFailed"),
        (NoValue(0, "no series"), "NoData"),
        (QueryError(0, "no answer"), "Error"),
    ],
)
def test_what_a_query_gives_in_the_warm_up_of_a_step_counts_nothing(
    answer: Answer, reason: str
) -> None:
    query = {"query": "revenue", "rollback": {"max": 1}, "failureLimit": 1}
    metric = {"name": "revenue", "prometheus": query}
    policies = {"onNoData": "Rollback", "onError": "Rollback"}
    analysed = analysis(ERRORS, metric, warmup="60s", **policies)
    world = started(analysis=analysed, **steps(20, 60, 100, duration="2m"))
    world.answers["revenue"] = lambda _now: answer
    world.run_to("Progressing")
    world.run(55)
    world.answers["revenue"] = lambda now: Value(now, 5.0)
    world.run(300, lambda w: w.weight == 60)
    world.answers["revenue"] = lambda _now: answer
    world.run(55)
    assert world.status()["phase"] == "Progressing"
    world.run(15, lambda w: w.status()["phase"] == "RolledBack")
    assert world.status()["reason"] == reason


def test_what_a_pod_counts_in_its_warm_up_and_after_it_is_counted_once() -> None:
    world = started(analysis=analysis(warmup="30s"), **steps(50, 100, duration="1h"))
    world.run_to("Progressing")
    world.run(60)
    world.add_pod("triton-9")
    joined = world.now
    world.run(130)
    found = world.status()["checkpoint"]
    ((check, (tally,)),) = found["harm"].items()
    expected = 0.0
    for pod in world.by_name:
        begin = joined if pod == "triton-9" else found["liveSince"] + 30
        samples = world._samples[pod, "canary", check, "requests", ""]
        before = [value for at, value in samples if at <= begin] or [samples[0][1]]
        after = [value for at, value in samples if at <= found["cursors"][pod]]
        expected += after[-1] - before[-1]
    assert tally["requests"] == expected
