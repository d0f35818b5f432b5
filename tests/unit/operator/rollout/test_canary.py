"""A rollout with weight: what moves it on, what holds it, what sends it back."""

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from simulation import Behaviour, Simulation, failing, two_versions

from tidegate_operator.adapters.cluster import CONFIG_MAP
from tidegate_operator.api.quantity import epoch

WHOLE_PLAN = [5, 20, 35, 50, 65, 80, 95, 100]


def slow(share: float, since: float = 0.0) -> Behaviour:
    return lambda version, now: (0.0, share if version == 2 and now >= since else 0.0)


def stepping(**settings: Any) -> Simulation:
    """A rollout whose first weight is live and warmed up."""
    world = two_versions(**settings)
    world.rollout(initialPercent=50, stepPercent=25)
    world.run_to("Progressing")
    return world.run(20)


def weights(world: Simulation) -> list[int]:
    """The canary's shares in the tables that were written, repetitions left out."""
    shares = [
        sum(arm.weight for arm in table.split if arm.name == "canary") // 100
        for table in world.tables
    ]
    return [share for before, share in pairwise([0, *shares]) if share != before]


def test_a_good_version_goes_through_the_whole_plan() -> None:
    world = two_versions()
    world.rollout()
    status = world.run_to("Succeeded")
    assert weights(world) == [*WHOLE_PLAN[:-1], 0]
    assert [arm.version for arm in world.table.split] == [2]
    assert [entry["weight"] for entry in status["history"]] == [0, *WHOLE_PLAN, 100]
    assert all(world.attended[percent] >= 60 for percent in WHOLE_PLAN[:-1])
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Progressing": "False",
        "Paused": "False",
        "Promoted": "True",
    }
    assert status["display"]["step"] == "8/8"
    reasons = world.reasons()
    assert reasons.count("StepCompleted") == 7
    assert reasons.count("TrafficWeightUpdated") == 8
    assert reasons[-1] == "Promoted"


def test_a_step_waits_for_enough_requests_of_each_arm() -> None:
    world = two_versions(rate=2)
    world.rollout(initialPercent=10, stepPercent=90)
    world.run(300)
    assert world.status()["currentStep"] == 1
    assert "fewer than 100 requests of canary" in world.status()["message"]
    assert world.status()["verdict"] == "Inconclusive"
    world.run_to("Succeeded")


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (failing(2, 0.5), "canary requests failed"),
        (slow(0.5), "canary requests took longer than 500ms"),
    ],
)
def test_a_bad_version_goes_back_and_says_why(behaviour: Behaviour, words: str) -> None:
    world = two_versions(behaviour=behaviour)
    world.rollout()
    status = world.run_to("RolledBack")
    assert weights(world) == [5, 0]
    assert words in status["message"]
    assert "Rolled back to version 1 from 5%" in status["message"]
    assert status["reason"] == "AnalysisFailed"
    assert status["weight"] == 0
    assert {one["type"]: one["status"] for one in status["conditions"]} == {
        "Ready": "False",
        "Reconciling": "False",
        "Stalled": "True",
        "Progressing": "False",
        "Paused": "False",
        "Promoted": "False",
    }
    assert world.reasons()[-1] == "RolledBack"


def test_a_version_that_fails_everything_is_gone_at_the_first_look() -> None:
    world = two_versions(behaviour=failing(2, 1.0))
    world.rollout(analysis={"interval": "10s", "warmup": "0s"})
    world.run_to("Progressing")
    world.run_to("RolledBack", within=25)


@pytest.mark.parametrize("percent", [20, 95])
def test_a_fault_that_begins_late_is_found(percent: int) -> None:
    world = two_versions()
    world.rollout()
    world.run(600, lambda w: w.weight == percent)
    world.run(30)
    world.behaviour = failing(2, 0.5, since=world.now)
    begun = world.now
    world.run_to("RolledBack", within=40)
    assert world.now > begun


def test_a_version_between_success_and_rollback_is_judged_at_each_doubling() -> None:
    world = two_versions(behaviour=failing(2, 0.03))
    errors = {"name": "errors", "errorRate": {"success": 0.02, "rollback": 0.05}}
    analysis = {"interval": "10s", "warmup": "10s", "metrics": [errors]}
    world.rollout(initialPercent=50, stepPercent=25, analysis=analysis)
    world.run_to("Holding")
    status = world.status()
    assert status["reason"] == "Inconclusive"
    assert "above success 2%" in status["message"]
    judged, at = status["checkpoint"]["judged"], world.now
    world.behaviour = lambda _v, _now: (0.0, 0.0)
    world.run(600, lambda w: w.weight == 75)
    within = judged * (0.03 / 0.02 - 1) / (world.rate * 0.5)
    assert world.now - at >= judged / (world.rate * 0.5) > within, "as many requests again"
    status = world.run_to("Succeeded")
    held = [entry["weight"] for entry in status["history"] if entry["to"] == "Holding"]
    assert held == [50]
    assert "RolloutHeld" in world.reasons()


def test_prometheus_away_holds_and_its_return_goes_on_where_it_was() -> None:
    world = stepping()
    world.run(15)
    world.prometheus_up = False
    world.run_to("Holding", within=11)
    elapsed = world.status()["stepElapsed"]
    assert elapsed > 0
    assert world.status()["reason"] == "Error"
    assert "connection refused" in world.status()["message"]
    assert "clockRunningSince" not in world.status()
    writes = len(world.writes)
    world.run(600)
    assert world.status()["stepElapsed"] == elapsed
    assert world.weight == 50
    told = [one for one in world.events if one.reason == "RolloutHeld"]
    assert len(told) == 1, "a hold is told once"
    assert len(world.writes) - writes <= 11, "and its progress once a minute"
    world.prometheus_up = True
    world.run_to("Progressing", within=21)
    assert world.status()["stepElapsed"] == elapsed
    world.run(21)
    assert elapsed < world.status()["stepElapsed"] <= elapsed + 21
    world.run_to("Succeeded")
    reasons = [r for r in world.reasons() if r in {"RolloutHeld", "RolloutResumed"}]
    assert reasons == ["RolloutHeld", "RolloutResumed"]


def test_requests_that_nobody_could_judge_are_no_evidence_for_anybody() -> None:
    """Prometheus scraped on while the operator could not read it."""
    world = stepping()
    world.prometheus_up = False
    world.run_to("Holding", within=11)
    counted = world.status()["stepRequests"]
    world.run(300)
    world.prometheus_up = True
    status = world.run_to("Progressing", within=21)
    assert status["stepRequests"] == counted
    harm = sum(one["requests"] for one in status["checkpoint"]["harm"].popitem()[1])
    assert harm > 200 * world.rate / 2, "against it they are"


def test_a_pod_that_is_not_scraped_any_more_holds_with_its_name() -> None:
    world = stepping()
    world.by_name["triton-1"].scraped = False
    world.run_to("Holding", within=40)
    assert world.status()["reason"] == "NoData"
    assert "no samples of pod triton-1 since" in world.status()["message"]
    assert world.status()["verdict"] == "NoData"
    writes = len(world.writes)
    world.run(300)
    assert len(world.writes) - writes <= 6, "the message stays the same"
    world.by_name["triton-1"].scraped = True
    world.run_to("Progressing", within=30)
    world.run_to("Succeeded")


def test_since_when_a_pod_is_not_heard_of_is_told_even_when_that_is_long_ago() -> None:
    world = stepping()
    world.by_name["triton-1"].scraped = False
    world.run_to("Holding", within=40)
    told = world.status()["message"]
    world.run(300)
    world.kill()
    world.run(300)
    assert world.status()["message"] == told


def test_looks_that_come_too_late_stop_the_clock_and_say_so() -> None:
    world = stepping()

    def late(looks: int) -> None:
        for _ in range(looks):
            world.up_at = world.now + 21
            world.run(21)

    late(3)
    before = world.status()
    message = (
        "At 50% (step 1/3): gathering evidence; no time counts while looks come more than two "
        "intervals (20s) apart: Prometheus or the operator is slow"
    )
    assert before["message"] == message
    late(10)
    for unmoved in ("message", "stepElapsed", "clockRunningSince"):
        assert world.status()[unmoved] == before[unmoved]
    world.run_to("Succeeded", within=240)


def test_a_pod_that_never_was_scraped_holds() -> None:
    world = two_versions(scraped=False)
    world.by_name["triton-1"].scraped = True
    world.rollout()
    world.run_to("Holding")
    assert "no samples of pod triton-0 lately" in world.status()["message"]


def test_a_fault_that_nobody_watched_still_rolls_back() -> None:
    """Prometheus scraped on while the operator could not read it."""
    world = stepping()
    world.prometheus_up = False
    world.behaviour = failing(2, 0.9)
    world.run(60)
    assert world.status()["phase"] == "Holding"
    world.prometheus_up = True
    world.run_to("RolledBack", within=12)


def test_silent_pods_are_named_after_the_timeout_and_hold() -> None:
    world = two_versions(pods=4)
    world.rollout()
    world.run_to("Gating")
    world.run(1)
    for name in ("triton-1", "triton-3"):
        world.by_name[name].silent = True
    world.run_to("Progressing")
    world.run(50)
    assert "waiting for the pods to apply the weight" in world.status()["message"]
    world.run_to("Holding", within=12)
    assert world.status()["reason"] == "NotAcknowledged"
    assert "triton-1, triton-3 did not apply the weight within 1m" in world.status()["message"]
    assert world.status()["revision"]["acknowledgedPods"] == 2
    world.run(300)
    assert world.status()["stepElapsed"] == 0
    for name in ("triton-1", "triton-3"):
        world.by_name[name].silent = False
    world.run_to("Succeeded")


def test_a_bad_version_goes_back_although_a_pod_never_acknowledges() -> None:
    world = two_versions(behaviour=failing(2, 0.9))
    world.rollout()
    world.run_to("Gating")
    world.run(1)
    world.by_name["triton-1"].silent = True
    world.run_to("RollingBack", within=120)
    world.run(60)
    assert world.status()["phase"] == "RollingBack", "it is not proven on triton-1"
    assert world.weight == 0
    world.by_name["triton-1"].silent = False
    world.run_to("RolledBack", within=5)


def test_one_silent_pod_in_ten_is_left_out_by_name() -> None:
    world = two_versions(pods=10)
    world.rollout(initialPercent=50, stepPercent=50)
    world.run_to("Gating")
    world.run(1)
    world.by_name["triton-7"].silent = True
    world.by_name["triton-7"].scraped = False
    world.run_to("Progressing")
    world.run(62)
    assert "live on 9 of 10 pods; warming up; left out: triton-7" in world.status()["message"]
    world.run(200, lambda w: w.status()["phase"] == "Promoting")
    world.run(60)
    assert world.status()["phase"] == "Promoting", "the end waits for every pod"
    assert "NoData" not in {entry["reason"] for entry in world.status()["history"]}
    world.by_name["triton-7"].silent = False
    world.run_to("Succeeded", within=5)


def test_no_ready_pod_holds() -> None:
    world = stepping()
    for name in list(world.by_name):
        world.set_ready(name, ready=False)
    world.run_to("Holding", within=15)
    assert world.status()["reason"] == "NoReadyPods"
    assert "None of the 2 pods of digits is Ready" in world.status()["message"]
    elapsed = world.status()["stepElapsed"]
    world.run(120)
    assert world.status()["stepElapsed"] == elapsed
    for name in list(world.by_name):
        world.set_ready(name, ready=True)
    world.run_to("Succeeded")


def test_no_ready_pod_before_a_weight_is_live_holds() -> None:
    world = two_versions()
    world.rollout()
    world.run(10, lambda w: w.weight > 0)
    for name in list(world.by_name):
        world.by_name[name].table = None
        world.by_name[name].silent = True
        world.set_ready(name, ready=False)
    world.run_to("Holding", within=15)
    assert world.status()["reason"] == "NoReadyPods"


def test_without_a_ready_pod_a_promotion_is_not_proven() -> None:
    world = stepping()
    for name in list(world.by_name):
        world.by_name[name].silent = True
    world.say("promote", "full")
    world.run(5)
    for name in list(world.by_name):
        world.set_ready(name, ready=False)
    world.run(40)
    assert world.status()["phase"] == "Promoting"
    for name in list(world.by_name):
        world.by_name[name].silent = False
        world.set_ready(name, ready=True)
    world.run_to("Succeeded", within=10)


def test_a_pod_that_joins_does_not_stop_the_clock() -> None:
    world = stepping()
    elapsed = world.status()["stepElapsed"]
    world.add_pod("triton-9")
    world.run(20)
    assert world.status()["phase"] == "Progressing"
    assert world.status()["stepElapsed"] >= elapsed + 10
    world.run_to("Succeeded")
    assert "Holding" not in {entry["to"] for entry in world.status()["history"]}


def test_a_pod_that_joins_has_two_scrapes_time_to_be_seen() -> None:
    world = stepping()
    world.run(30, lambda w: (w.now + 8) % 10 == 0)
    world.add_pod("triton-9").scraped = False
    world.run(9)
    assert world.status()["phase"] == "Progressing"
    world.run(20)
    assert world.status()["phase"] == "Holding"
    assert "triton-9 lately" in world.status()["message"]


def test_what_counts_for_harm_is_kept_step_by_step() -> None:
    world = two_versions()
    world.rollout(initialPercent=20, stepPercent=30)
    world.run(600, lambda w: w.weight == 80)
    world.run(30)
    for tallies in world.status()["checkpoint"]["harm"].values():
        requests = [tally["requests"] for tally in tallies]
        assert len(requests) == 3
        # the share and the time of each step, warm-up left out
        assert requests[0] == pytest.approx(20 * 60, rel=0.2)
        assert requests[1] == pytest.approx(50 * 60, rel=0.2)


def test_pods_that_are_replaced_one_by_one_do_not_lose_requests_of_others() -> None:
    world = stepping()
    world.remove_pod("triton-0")
    world.add_pod("triton-0")
    status = world.run_to("Succeeded")
    assert "RolledBack" not in {entry["to"] for entry in status["history"]}


def test_an_operator_that_was_away_has_not_watched() -> None:
    world = stepping()
    elapsed = world.status()["stepElapsed"]
    watched = world.status()["stepRequests"]["canary"]
    world.down_for = 3600
    world.kill()
    world.run(3602)
    assert world.status()["currentStep"] == 1
    assert world.status()["stepElapsed"] <= elapsed + 10
    assert world.status()["stepRequests"]["canary"] <= watched + 1000
    world.down_for = 0
    world.run_to("Succeeded")


def test_the_clock_that_is_shown_runs_since_somebody_watches() -> None:
    world = stepping()
    before = world.status()["clockRunningSince"]
    world.run(10)
    assert world.status()["clockRunningSince"] == before
    world.down_for = 300
    world.kill()
    world.run(302)
    assert epoch(world.status()["clockRunningSince"]) == world.up_at


def test_a_version_that_broke_while_the_operator_was_away_goes_back_at_once() -> None:
    world = stepping()
    world.down_for = 300
    world.kill()
    world.behaviour = failing(2, 0.9)
    world.run(290)
    world.behaviour = lambda _v, _now: (0.0, 0.0)
    world.run_to("RolledBack", within=25)


def test_an_edited_plan_applies_from_the_next_step_above_the_live_weight() -> None:
    world = two_versions()
    world.rollout()
    world.run(600, lambda w: w.weight == 35)
    world.rollout(initialPercent=10, stepPercent=30, stepDuration="30s")
    world.run_to("Succeeded")
    assert weights(world) == [5, 20, 35, 40, 70, 0]
    assert [step["percent"] for step in world.status()["plan"]] == [5, 20, 35, 40, 70, 100]


def test_an_edited_metric_starts_its_evidence_afresh() -> None:
    world = stepping(behaviour=failing(2, 0.03))
    old = {check.id for check in world.table.checks}
    analysis = {
        "interval": "10s",
        "warmup": "10s",
        "metrics": [{"name": "errors", "errorRate": {"success": 0.1, "rollback": 0.2}}],
    }
    world.rollout(initialPercent=50, stepPercent=25, analysis=analysis)
    world.run(3)
    new = {check.id for check in world.table.checks}
    assert new.isdisjoint(old)
    world.run_to("Succeeded")
    assert [one["name"] for one in world.status()["metrics"]] == ["errors"]


def test_baselines_edited_on_the_way_are_where_a_rollback_goes() -> None:
    world = stepping()
    world.version(3)
    world.run(5)
    world.version(1, lifecycle="Active", trafficPercent=50)
    world.version(3, lifecycle="Active", trafficPercent=50)
    world.run(5)
    assert world.weight == 50, "the owner's split holds"
    world.behaviour = failing(2, 0.9)
    world.run_to("RolledBack", within=60)
    assert {arm.version: arm.weight for arm in world.table.split} == {1: 5_000, 3: 5_000}


def test_sticky_assignment_keeps_its_salt_and_ends_with_the_rollout() -> None:
    world = two_versions()
    world.rollout(assignment={"header": "x-user-id"}, initialPercent=50, stepPercent=50)
    world.run_to("Succeeded")
    world.run(2)
    uid = world.objects["CanaryRollout", "rollout"]["metadata"]["uid"]
    given = [table.assignment for table in world.tables if table.owner]
    assert {(one.header, one.salt) for one in given if one} == {("x-user-id", uid)}
    assert world.table.assignment is None


def test_a_table_deleted_in_a_step_comes_back_higher_with_the_same_weight() -> None:
    world = stepping()
    revision, elapsed = world.table.revision, world.status()["stepElapsed"]
    world.delete(CONFIG_MAP, "tidegate-routing-digits")
    world.run(2)
    assert world.table.revision > revision
    assert world.weight == 50
    world.run(30)
    assert world.status()["phase"] == "Progressing"
    assert world.status()["stepElapsed"] > elapsed
    assert "TableRepaired" in [event.reason for event in world.events]


@pytest.mark.parametrize("older", [True, False])
def test_a_table_restored_from_a_backup_is_raised_above_what_pods_apply(
    older: bool,
) -> None:
    world = stepping()
    name = "tidegate-routing-digits"
    old = world.objects[CONFIG_MAP, name]
    world.delete(CONFIG_MAP, name)
    world.operators.clear()
    fresh = {k: v for k, v in old["metadata"].items() if k != "uid"} | {"uid": "restored"}
    world.store(CONFIG_MAP, {**old, "metadata": fresh})
    if older:
        for pod in world.by_name.values():
            assert pod.table is not None
            pod.table = msgspec.structs.replace(pod.table, revision=pod.table.revision + 5)
    applied = max(pod.table.revision for pod in world.by_name.values() if pod.table)
    world.run(5)
    assert world.table.revision >= applied
    assert {pod.table_uid for pod in world.by_name.values()} == {"restored"}
    world.run_to("Succeeded")


def test_the_message_says_where_it_stands() -> None:
    world = stepping()
    assert world.status()["message"] == (
        "At 50% (step 1/3): gathering evidence; the next step comes after 1m in all"
    )
    assert epoch(world.status()["clockRunningSince"]) <= world.now
