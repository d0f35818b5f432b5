"""A person's word: steps that wait for it, and rollouts that do so at their end."""

import pytest
from canaries import ERRORS, analysis, started, stepping, steps, weights, where
from simulation import Simulation, failing, two_versions

from tidegate_operator.rollout.observation import Before

LONG = 1200.0
WAITS = ("WaitingPromotion", "AwaitingPromotion")


def at_first_gate(**spec: object) -> Simulation:
    world = started(**{**steps(20, 60, 100, gates=(20,)), **spec})
    world.run_to("WaitingPromotion")
    return world


def test_explicit_steps_are_taken_one_by_one() -> None:
    world = started()
    status = world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]
    assert status["plan"] == [
        {"percent": 20, "duration": "20s"},
        {"percent": 60, "duration": "20s"},
        {"percent": 100},
    ]


def test_a_gate_is_asked_before_its_steps_weight() -> None:
    world = started(**steps(20, 60, 100, gates=(60,)))
    status = world.run_to("WaitingPromotion")
    assert world.weight == status["weight"] == 20
    assert status["message"] == "At 20% (step 1/3): passed; waits for a promotion to 60%"
    conditions = {one["type"]: one["status"] for one in status["conditions"]}
    assert (conditions["Paused"], conditions["Progressing"]) == ("True", "False")
    assert (conditions["Reconciling"], conditions["Promoted"]) == ("True", "Unknown")
    world.run(LONG)
    assert weights(world) == [20]
    world.say("promote", "step")
    world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]
    assert world.reasons().count("RolloutPaused") == 1


def test_the_first_step_may_have_a_gate() -> None:
    world = at_first_gate()
    status = world.status()
    assert where(world) == WAITS
    assert (status["message"], status["currentStep"]) == ("Ready; waits for a promotion to 20%", 0)
    assert world.reasons() == ["RolloutPaused"]
    world.say("promote", "step@0")
    world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]


def test_a_bare_word_at_the_first_gate_is_heard_by_an_operator_that_knows_nothing_yet() -> None:
    """It has to ask anew how stable does: until it knows, it still waits for that word."""
    world = at_first_gate()
    world.kill()
    world.prometheus_up = False
    world.say("promote", "step")
    world.run(30)
    assert where(world) == WAITS
    world.prometheus_up = True
    world.run_to("Succeeded")
    assert "VerbIgnored" not in world.reasons()
    assert [to for _, to, _ in world.history()].count("WaitingPromotion") == 1


def test_the_last_step_may_have_a_gate() -> None:
    world = started(**steps(20, 60, 100, gates=(100,)))
    status = world.run_to("WaitingPromotion")
    assert status["message"] == "At 60% (step 2/3): passed; waits for a promotion to 100%"
    world.say("promote", "step")
    world.run_to("Succeeded")


def test_without_auto_promote_all_of_it_is_watched_and_then_waited_for() -> None:
    """At 100% there is no stable any more: the canary's own bounds and requests count."""
    ratio = {"name": "errors", "errorRate": {"success": 0.01, "maxRatioToStable": 1.2}}
    world = two_versions()
    world.rollout(
        autoPromote=False,
        **steps(50, 100),
        analysis=analysis(ratio, minRequests=500),
    )
    status = world.run_to("WaitingPromotion")
    assert [step["percent"] for step in status["plan"]] == [50, 100, 100]
    assert (world.weight, status["currentStep"]) == (100, 2)
    assert status["message"] == "At 100% (step 2/3): passed; waits for a promotion to be stable"
    assert status["stepRequests"]["stable"] < 500
    assert [one.reason for one in world.events].count("Promoted") == 0
    assert [(one.version, one.weight) for one in world.table.baseline] == [(1, 10_000)]
    world.say("promote", "step@2")
    world.run_to("Succeeded")
    assert [(one.version, one.weight) for one in world.table.baseline] == [(2, 10_000)]


def test_at_all_of_it_proof_against_stable_is_not_asked() -> None:
    ratio = {"name": "errors", "errorRate": {"maxRatioToStable": 100.0}}
    world = two_versions(behaviour=lambda _v, _now: (0.01, 0.0), rate=400)
    world.rollout(autoPromote=False, **steps(50, 100), analysis=analysis(ratio, passOn="Proven"))
    status = world.run_to("WaitingPromotion")
    assert (world.weight, status["currentStep"]) == (100, 2)


def test_a_bad_version_at_all_of_the_traffic_still_goes_back() -> None:
    world = two_versions()
    world.rollout(autoPromote=False, **steps(50, 100), analysis=analysis())
    world.run_to("WaitingPromotion")
    world.behaviour = failing(2, 0.5)
    world.run_to("RolledBack", within=15)
    assert [arm.version for arm in world.table.split] == [1]


def test_without_auto_promote_below_all_of_it_the_end_is_waited_for() -> None:
    world = two_versions()
    plan = {"initialPercent": 30, "stepPercent": 30, "maxPercent": 60, "stepDuration": "20s"}
    world.rollout(autoPromote=False, **plan, analysis=analysis())
    status = world.run_to("WaitingPromotion")
    assert status["message"] == "At 60% (step 2/3): passed; waits for a promotion to 100%"
    world.say("promote", "step")
    world.run_to("Succeeded")
    assert weights(world) == [30, 60, 0]


def test_judging_goes_on_while_a_person_is_waited_for() -> None:
    world = started(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")
    world.behaviour = failing(2, 0.5)
    world.run_to("RolledBack", within=15)


def test_missing_evidence_comes_before_a_gate_and_the_gate_stays() -> None:
    world = started(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")
    world.prometheus_up = False
    world.run_to("Holding", within=10)
    world.prometheus_up = True
    world.run_to("WaitingPromotion", within=10)
    assert weights(world) == [20]


def test_waiting_for_a_person_counts_towards_no_deadline() -> None:
    world = at_first_gate(progressDeadline="2m", gatingDeadline="1m", onDeadline="Rollback")
    world.run(LONG)
    assert where(world) == WAITS
    world.say("promote", "step")
    world.run_to("Succeeded")


def test_a_pod_that_loads_while_a_person_is_waited_for_has_the_whole_gating_deadline() -> None:
    world = at_first_gate(gatingDeadline="1m")
    world.run(LONG)
    world.load_time = 30
    world.add_pod("triton-9")
    world.run(10)
    assert where(world) == ("Gating", "Loading")
    world.run_to("WaitingPromotion", within=40)
    world.load_error[2] = "no such file"
    world.add_pod("triton-10")
    world.run_to("Failed", within=70)
    assert world.status()["reason"] == "GatingDeadlineExceeded"


def test_time_in_the_gate_counts_towards_the_progress_deadline_once() -> None:
    world = two_versions()
    world.load_time = 30
    world.version(3)
    world.rollout(canary=3, **steps(20, 100, gates=(20,)), analysis=analysis())
    world.run_to("WaitingPromotion")
    world.run(LONG)
    world.say("promote", "step")
    world.run_to("Progressing")
    assert 30 <= world.status()["checkpoint"]["progressed"] <= 70


def test_a_person_waited_for_costs_no_writes() -> None:
    world = at_first_gate()
    world.run(60)
    writes = len(world.writes)
    world.run(LONG)
    assert len(world.writes) == writes


def test_without_prometheus_a_gate_opens_once_it_tells_how_stable_does() -> None:
    world = at_first_gate()
    world.run(60)
    world.prometheus_up = False
    world.run(200)
    world.say("promote", "step")
    world.run(60)
    assert where(world) == WAITS
    assert world.said() != {}, "the word is kept"
    assert world.status()["message"] == "Ready; promoted once Prometheus tells how stable does"
    world.prometheus_up = True
    world.run_to("Succeeded")


def test_a_pod_that_loads_after_others_were_waited_for_has_the_whole_gating_deadline() -> None:
    world = two_versions(before=Before(errors={1: 0.5}))
    world.rollout(gatingDeadline="1m", analysis=analysis(), **steps(20, 100))
    world.run(200)
    assert where(world) == ("Gating", "StableUnhealthy")
    world.before, world.load_time = Before(), 30
    world.add_pod("triton-9")
    world.run(10)
    assert where(world) == ("Gating", "Loading")
    world.run_to("Progressing", within=60)
    assert 200 <= world.status()["checkpoint"]["progressed"] <= 270, "all of it, and once"


@pytest.mark.parametrize("gated", [20, 60])
def test_a_gate_that_is_edited_away_is_asked_no_more(gated: int) -> None:
    world = started(**steps(20, 60, 100, gates=(gated,)))
    world.run_to("WaitingPromotion")
    world.edit(**steps(20, 60, 100))
    world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]


def test_a_gate_that_is_edited_in_is_asked() -> None:
    world = stepping()
    world.edit(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")
    assert weights(world) == [20]


def test_a_weight_edited_at_the_first_gate_is_the_one_that_is_waited_for() -> None:
    world = at_first_gate()
    world.edit(**steps(30, 100, gates=(30,)))
    world.run(40)
    assert world.status()["message"] == "Ready; waits for a promotion to 30%"
    world.say("promote", "step")
    world.run_to("Succeeded")
    assert weights(world) == [30, 0]


def test_dry_runs_alone_leave_it_to_time_and_requests() -> None:
    dry = {**ERRORS, "dryRun": True}
    world = two_versions(behaviour=failing(2, 0.9))
    world.rollout(**steps(20, 100), analysis=analysis(dry))
    status = world.run_to("Succeeded")
    assert (status["metrics"][0]["verdict"], status["metrics"][0]["dryRun"]) == ("Fail", True)


def test_a_stable_that_breaks_its_bound_while_a_person_is_waited_for_is_told() -> None:
    world = at_first_gate()
    world.run(60)
    world.before = Before(errors={1: 0.5})
    world.run(200)
    assert where(world) == ("Gating", "StableUnhealthy")
    world.before = Before()
    world.run_to("WaitingPromotion", within=200)
