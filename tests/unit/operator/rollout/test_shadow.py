"""Canaries that get copies of requests: answers compared, and rollouts that do nothing else."""

from typing import Any

import pytest
from canaries import analysis, started, steps, weights, where
from simulation import Simulation, failing, two_versions

AGREEMENT = {"name": "agreement", "disagreement": {"max": 0.02}}
BASELINE = {"name": "agreement", "disagreement": {"max": 0.02, "baseline": True}}
ERRORS = {"name": "errors", "errorRate": {"success": 0.01, "rollback": 0.05}}


def shadowing(*metrics: dict[str, Any], **fields: Any) -> Simulation:
    world = two_versions(**fields)
    world.rollout(
        maxPercent=0,
        mirrorPercent=50,
        stepDuration="30s",
        analysis=analysis(*(metrics or (ERRORS, AGREEMENT))),
    )
    return world


def test_a_good_shadow_ends_well_and_moves_nothing() -> None:
    world = shadowing()
    world.run_to("Progressing")
    world.run(20)
    status = world.status()
    assert world.table.mirror is not None
    assert (world.table.mirror.version, world.table.mirror.weight) == (2, 5_000)
    assert [(arm.name, arm.weight) for arm in world.table.split] == [("stable", 10_000)]
    assert (status["weight"], status["display"]["weight"]) == (0, "0%")
    assert status["stepRequests"]["canary"] > 500, "pairs"
    status = world.run_to("Succeeded")
    assert status["reason"] == "ShadowOnly"
    assert status["message"] == (
        "Version 2 is done: it answered mirrored requests as it should; no traffic was moved"
    )
    conditions = {one["type"]: one["status"] for one in status["conditions"]}
    assert (conditions["Ready"], conditions["Promoted"]) == ("True", "False")
    world.run(5)
    assert world.table.mirror is None
    assert [(one.version, one.weight) for one in world.table.baseline] == [(1, 10_000)]
    assert weights(world) == []
    told = {one.message for one in world.events if one.name == "rollout"}
    assert "The canary gets mirrored requests, and no share of the traffic" in told
    assert world.reasons()[-1] == "StepCompleted"


def test_a_shadow_without_metrics_of_its_own_is_judged_by_errors() -> None:
    world = two_versions()
    common = {"interval": "5s", "warmup": "0s", "minRequests": 20}
    world.rollout(maxPercent=0, mirrorPercent=50, stepDuration="30s", analysis=common)
    status = world.run_to("Succeeded")
    assert [one["name"] for one in status["metrics"]] == ["errors"]


def test_too_few_pairs_are_waited_for() -> None:
    world = shadowing(rate=0.5)
    world.run_to("Holding")
    assert "fewer than 20 mirrored requests; goes on with more" in world.status()["message"]
    world.run_to("Succeeded")


def test_a_shadow_that_disagrees_has_failed_as_it_never_had_traffic() -> None:
    world = shadowing()
    world.run_to("Progressing")
    world.run(5)
    world.disagreeing = (0.4, 0.0)
    status = world.run_to("Failed", "RolledBack")
    assert where(world) == ("Failed", "AnalysisFailed")
    assert status["message"].startswith("Given up without any traffic moved: agreement: ")
    assert "were answered otherwise than by stable" in status["message"]
    assert world.table.mirror is None
    assert world.reasons().count("RolledBack") == 1


def test_a_shadow_that_fails_has_failed() -> None:
    world = shadowing(behaviour=failing(2, 0.5))
    world.run_to("Failed")
    assert "errors: " in world.status()["message"]
    assert "shadow requests failed" in world.status()["message"]


def test_a_shadow_cannot_be_promoted_to_everything() -> None:
    world = shadowing()
    world.run_to("Progressing")
    world.say("promote", "full")
    status = world.run_to("Succeeded")
    assert status["reason"] == "ShadowOnly"
    assert status["message"] == "Version 2 is done: a person said so; no traffic was moved"
    assert weights(world) == []


def test_nor_before_it_has_begun() -> None:
    world = two_versions()
    world.load_time = 20
    world.version(3)
    plan = {"maxPercent": 0, "mirrorPercent": 50, "stepDuration": "30s"}
    world.rollout(canary=3, **plan, analysis=analysis(AGREEMENT))
    world.say("promote", "full")
    world.run_to("Succeeded")
    assert [arm.version for arm in world.table.split] == [1]


def test_a_shadow_of_what_was_stable_a_moment_ago_is_no_fast_return() -> None:
    world = two_versions()
    world.rollout("forward", **steps(50, 100), analysis=analysis())
    world.run_to("Succeeded", name="forward")
    world.rollout(
        canary=1, maxPercent=0, mirrorPercent=50, stepDuration="30s", analysis=analysis(AGREEMENT)
    )
    assert world.run_to("Succeeded")["reason"] == "ShadowOnly"
    assert [one.version for one in world.table.baseline] == [2]


def test_disagreement_gates_a_rollout_with_weight() -> None:
    world = started(mirrorPercent=20, analysis=analysis(AGREEMENT))
    world.run_to("Progressing")
    world.run(5)
    world.disagreeing = (0.2, 0.0)
    status = world.run_to("RolledBack")
    assert status["message"].startswith("Rolled back to version 1 from 20%: agreement: ")


@pytest.mark.parametrize("baseline", [False, True])
def test_at_all_of_the_traffic_there_is_nothing_left_to_agree_with(baseline: bool) -> None:
    metric = BASELINE if baseline else AGREEMENT
    world = two_versions()
    world.rollout(
        autoPromote=False,
        mirrorPercent=50,
        **steps(50, 100),
        analysis=analysis(ERRORS, metric, warmup="10s"),
    )
    status = world.run_to("WaitingPromotion")
    assert (world.weight, status["currentStep"]) == (100, 2)


def test_disagreement_above_its_bound_but_not_proven_does_not_pass() -> None:
    world = started(mirrorPercent=50, analysis=analysis(AGREEMENT))
    world.disagreeing = (0.03, 0.0)
    world.run_to("Holding")
    assert "disagreed, 2% allowed" in world.status()["message"]


@pytest.mark.parametrize("itself", [0.2, 0.0])
def test_of_a_model_that_disagrees_with_itself_only_the_excess_counts(itself: float) -> None:
    world = started(mirrorPercent=100, analysis=analysis(BASELINE, minRequests=200), rate=400)
    world.disagreeing = (0.2, itself)
    world.run_to("Succeeded", "RolledBack")
    assert world.status()["phase"] == ("Succeeded" if itself else "RolledBack")


def test_a_rollout_edited_to_a_shadow_halfway_keeps_a_table_that_adds_up() -> None:
    world = started(initialPercent=20, steps=None, stepDuration="30s", mirrorPercent=20)
    world.run_to("Progressing")
    world.run(10)
    world.edit(maxPercent=0)
    world.run(5)
    assert [(arm.name, arm.weight) for arm in world.table.split] == [
        ("stable", 8_000),
        ("canary", 2_000),
    ]
    world.run_to("Succeeded", "Failed", "RolledBack")
    world.run(5)
    assert [(arm.name, arm.version) for arm in world.table.split] == [("stable", 1)]
