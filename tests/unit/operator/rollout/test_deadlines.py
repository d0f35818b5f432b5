"""``progressDeadline``: what it counts, and what is done about it."""

import pytest
from canaries import ERRORS, analysis, started, stepping, steps, weights, where
from simulation import Simulation, failing, two_versions

from tidegate_operator.rollout.observation import Before

HOLDS = ("Holding", "DeadlineExceeded")


def stuck(**spec: object) -> Simulation:
    """Above success and below rollback: it never passes."""
    world = started(**{"progressDeadline": "3m", **spec})
    world.behaviour = failing(2, 0.03)
    return world


def test_a_rollout_that_takes_too_long_holds_and_says_what_can_be_done() -> None:
    world = stuck()
    world.run(400)
    assert where(world) == HOLDS
    assert world.status()["message"] == (
        "Holding at 20% (step 1/3): not finished within progressDeadline (3m); promote, abort or "
        "set a longer one"
    )
    assert world.reasons().count("RolloutHeld") == 2, "once as it is inconclusive, once for this"


def test_or_goes_back() -> None:
    world = stuck(onDeadline="Rollback")
    status = world.run_to("RolledBack", within=300)
    assert status["reason"] == "DeadlineExceeded"
    assert "from 20%: not finished within progressDeadline (3m);" in status["message"]
    assert weights(world) == [20, 0]


def test_a_longer_one_lets_it_go_on_however_late_it_is_set() -> None:
    world = started(progressDeadline="3m")
    world.run_to("Progressing")
    world.prometheus_up = False
    world.run(900)
    assert where(world) == HOLDS
    world.prometheus_up = True
    world.edit(progressDeadline="10m")
    world.run(10)
    assert where(world) != HOLDS
    world.run_to("Succeeded")


@pytest.mark.parametrize("word", ["step@1", "full"])
def test_a_promotion_overrules_it_for_this_step(word: str) -> None:
    world = stuck()
    world.run(400)
    world.say("promote", word)
    world.run(5)
    assert weights(world)[:2] == ([20, 60] if word == "step@1" else [20, 0])
    if word == "step@1":
        world.run(60)
        assert where(world) == HOLDS
        world.say("promote", "step")
    world.run_to("Succeeded", within=30)


def test_it_can_be_aborted() -> None:
    world = stuck()
    world.run(400)
    world.say("abort", "had enough")
    assert world.run_to("RolledBack", within=10)["reason"] == "Aborted"


def test_harm_comes_before_the_deadline() -> None:
    world = stuck()
    world.run(400)
    world.behaviour = failing(2, 1.0)
    assert world.run_to("RolledBack", within=60)["reason"] == "AnalysisFailed"


def test_the_deadline_comes_before_suspension_and_does_not_flicker() -> None:
    world = stuck()
    world.run(400)
    writes = len(world.writes)
    world.edit(suspend=True)
    for _ in range(30):
        world.store("CanaryRollout", world.objects["CanaryRollout", "rollout"])
        world.run(1)
        assert where(world) == HOLDS
    assert len(world.writes) - writes <= 3


def test_the_deadline_comes_before_missing_evidence() -> None:
    world = stuck(analysis=analysis(ERRORS, onError="Rollback"))
    world.run(400)
    world.prometheus_up = False
    world.run(60)
    assert where(world) == HOLDS


def test_holds_for_evidence_count() -> None:
    world = stepping(progressDeadline="2m")
    world.prometheus_up = False
    world.run(200)
    assert where(world) == HOLDS


def test_waiting_for_a_gate_does_not() -> None:
    world = started(progressDeadline="2m", **steps(20, 60, 100, gates=(60, 100)))
    world.run_to("WaitingPromotion")
    world.run(900)
    world.say("promote", "step")
    world.run(10)
    world.run_to("WaitingPromotion")
    world.run(900)
    world.say("promote", "step")
    world.run_to("Succeeded")


@pytest.mark.parametrize("policy", ["Hold", "Rollback"])
def test_pods_that_never_apply_the_weight_count(policy: str) -> None:
    world = started(progressDeadline="3m", onDeadline=policy)
    world.run_to("Gating")
    world.run(1)
    for pod in world.by_name.values():
        pod.silent = True
    world.run_to("Holding", within=80)
    assert world.status()["reason"] == "NotAcknowledged"
    world.run(200)
    if policy == "Hold":
        assert where(world) == HOLDS
    else:
        assert where(world) == ("RollingBack", "DeadlineExceeded")
        assert world.weight == 0


def test_the_time_until_a_weight_is_live_counts() -> None:
    world = started(progressDeadline="30m", analysis=analysis(ackTimeout="10m"))
    world.run_to("Gating")
    world.run(1)
    world.by_name["triton-0"].silent = True
    world.run(300)
    world.by_name["triton-0"].silent = False
    world.run(10)
    assert 295 <= world.status()["checkpoint"]["progressed"] <= 315


def ungated(**spec: object) -> Simulation:
    """The canary is ready and gets nothing: stable itself breaks the bound."""
    world = two_versions(before=Before(errors={1: 0.5}))
    world.rollout(
        **{"progressDeadline": "3m", "analysis": analysis(), **steps(20, 60, 100), **spec}
    )
    return world


def test_before_it_has_weight_it_gets_none_any_more() -> None:
    world = ungated()
    world.run(170)
    assert where(world) == ("Gating", "StableUnhealthy")
    world.run(60)
    assert where(world) == HOLDS
    assert world.status()["message"] == (
        "Holding before any traffic: not begun within progressDeadline (3m); promote, abort or "
        "set a longer one"
    )
    assert world.condition("CanaryRollout", "rollout", "Paused")["status"] == "True"
    writes = len(world.writes)
    world.before = Before()
    world.run(900)
    assert where(world) == HOLDS
    assert weights(world) == []
    assert len(world.writes) == writes
    assert world.reasons() == ["RolloutHeld"]


def test_or_has_failed() -> None:
    world = ungated(onDeadline="Rollback")
    status = world.run_to("Failed", within=250)
    assert status["reason"] == "DeadlineExceeded"
    assert status["message"] == (
        "Not begun within progressDeadline (3m), no traffic was moved: Ready, but stable itself "
        "fails 50.00% of its requests, beyond rollback of errors; retry this rollout or apply "
        "another"
    )
    assert world.reasons() == ["RolledBack"]


def test_loading_counts_too() -> None:
    world = two_versions(load_time=120.0)
    world.version(3)
    world.rollout(canary=3, progressDeadline="1m", onDeadline="Rollback", analysis=analysis())
    assert world.run_to("Failed", within=70)["reason"] == "DeadlineExceeded"


def test_a_longer_one_lets_a_gate_open_however_late_it_is_set() -> None:
    world = ungated()
    world.run(900)
    world.before = Before()
    world.edit(progressDeadline="10m")
    world.run_to("Succeeded", within=300)
    assert weights(world) == [20, 60, 0]


@pytest.mark.parametrize("word", ["step", "step@0", "full"])
def test_a_promotion_overrules_it_at_a_gate_as_soon_as_it_can(word: str) -> None:
    world = ungated()
    world.run(300)
    world.kill()
    world.prometheus_up = False
    world.say("promote", word)
    world.run(30)
    if word != "full":
        assert where(world) == HOLDS
        assert world.said() != {}, "the word is kept"
    world.before, world.prometheus_up = Before(), True
    world.run(100)
    assert weights(world) == ([20] if word != "full" else [])
    assert "VerbIgnored" not in world.reasons()
    assert where(world) == (HOLDS if word != "full" else ("Succeeded", "Promoted"))


def test_what_held_at_a_gate_is_aborted() -> None:
    world = ungated()
    world.run(300)
    world.say("abort", "had enough")
    world.run(5)
    assert where(world) == ("Failed", "Aborted")


def test_a_shadow_that_takes_too_long_has_failed() -> None:
    disagreement = {"name": "agreement", "disagreement": {"max": 0.02}}
    plan = {"maxPercent": 0, "mirrorPercent": 50, "stepDuration": "30s"}
    world = two_versions(rate=100.0)
    world.disagreeing = (0.03, 0.0)
    common = analysis(disagreement, significanceLevel=0.000001)
    world.rollout(progressDeadline="3m", onDeadline="Rollback", analysis=common, **plan)
    status = world.run_to("Failed", within=300)
    assert status["reason"] == "DeadlineExceeded"
    assert status["message"] == (
        "Given up without any traffic moved: not finished within progressDeadline (3m); retry this "
        "rollout or apply another"
    )
    assert world.table.mirror is None


def test_an_operator_that_is_away_does_not_use_it_up() -> None:
    world = stepping(progressDeadline="3m", onDeadline="Rollback")
    world.down_for = 3600
    world.kill()
    world.run_to("Succeeded")
