"""Specs that are edited while a rollout runs: the plan, the metrics, the deadlines."""

from typing import Any

import pytest
from canaries import ERRORS, analysis, started, stepping, steps, weights, where
from simulation import failing


def test_a_plan_applies_from_the_first_step_above_the_live_weight() -> None:
    world = stepping()
    world.edit(**steps(10, 20, 40, 80, 100))
    status = world.run_to("Succeeded")
    assert weights(world) == [20, 40, 80, 0]
    assert [one["percent"] for one in status["plan"]] == [20, 40, 80, 100]


def test_the_present_steps_length_stays_as_it_was() -> None:
    world = stepping()
    world.edit(**steps(20, 60, 100, duration="1h"))
    world.run(60)
    assert world.weight == 60
    assert world.status()["plan"][0]["duration"] == "20s"
    world.run(600)
    assert world.weight == 60


def test_a_plan_that_ends_below_the_live_weight_ends_it() -> None:
    world = started()
    world.run(100, lambda w: w.weight == 60)
    world.edit(**steps(10, 30))
    world.run_to("Succeeded")
    assert weights(world) == [20, 60, 0]


def test_in_the_gate_the_whole_plan_applies() -> None:
    world = started(**steps(20, 100, gates=(20,)))
    world.run_to("WaitingPromotion")
    world.edit(**steps(35, 100))
    world.run_to("Succeeded")
    assert weights(world) == [35, 0]


def test_auto_promote_taken_away_is_waited_for_at_the_end() -> None:
    world = stepping()
    world.edit(autoPromote=False, **steps(20, 60))
    status = world.run_to("WaitingPromotion")
    assert (world.weight, status["message"]) == (
        60,
        "At 60% (step 2/3): passed; waits for a promotion to 100%",
    )
    world.edit(autoPromote=True)
    world.run_to("Succeeded")


def test_an_edited_metric_starts_its_evidence_afresh_and_others_keep_theirs() -> None:
    dry = {"name": "dry", "errorRate": {"rollback": 0.9}, "dryRun": True}
    world = stepping(analysis=analysis(ERRORS, dry), **steps(20, 60, 100, duration="2m"))
    world.run(60)
    before = {check.id for check in world.table.checks}
    edited = {"name": "errors", "errorRate": {"success": 0.02, "rollback": 0.05}}
    world.edit(analysis=analysis(edited, dry))
    world.run(2)
    after = {check.id for check in world.table.checks}
    assert {one.partition("@")[0] for one in before - after} == {"errors/rollback"}
    world.run(20)
    harm = world.status()["checkpoint"]["harm"]
    assert len(harm) == 3
    told = [one for one in world.status()["history"] if "AnalysisChanged" in one["reason"]]
    assert [(one["from"], one["to"], one["weight"], one["reason"]) for one in told] == [
        ("Progressing", "Progressing", 20, "AnalysisChanged (attempt 2)")
    ], "the level is spent anew, and history says so once"
    assert {check.id for check in world.table.checks} == after
    assert world.run_to("Succeeded")["attempt"] == 2
    assert {check.id for check in world.table.checks} <= after


def test_a_retry_after_an_edit_begins_the_evidence_of_all_metrics_anew() -> None:
    second = {"name": "second", "errorRate": {"rollback": 0.9}}
    world = stepping(analysis=analysis(ERRORS, second), **steps(20, 60, 100, duration="2m"))
    edited = {"name": "errors", "errorRate": {"success": 0.02, "rollback": 0.05}}
    world.edit(analysis=analysis(edited, second))
    world.run(20)
    before = {check.id for check in world.table.checks}
    world.say("abort", "x")
    world.run_to("RolledBack")
    world.say("retry", "again")
    world.run_to("Progressing")
    assert world.status()["attempt"] == 3
    assert not before & {check.id for check in world.table.checks}


def test_a_looser_bound_does_not_inherit_what_was_counted_against_the_old_one() -> None:
    world = stepping(**steps(20, 60, 100, duration="2m"))
    world.behaviour = failing(2, 0.06)
    world.run(30)
    world.edit(analysis=analysis({"name": "errors", "errorRate": {"success": 0.2}}))
    world.run_to("Succeeded")


LOOSER = {"name": "errors", "errorRate": {"success": 0.03, "rollback": 0.05}}
OTHER = {"name": "other", "errorRate": {"success": 0.5}}


@pytest.mark.parametrize(
    "edited", [pytest.param(LOOSER, id="edited"), pytest.param(OTHER, id="taken away")]
)
def test_what_a_step_did_not_pass_by_is_no_reason_to_wait_for_twice_as_many(
    edited: dict[str, Any],
) -> None:
    world = started(analysis=analysis(ERRORS, OTHER))
    world.behaviour = failing(2, 0.02)
    world.run(1800)
    assert where(world) == ("Holding", "Inconclusive")
    world.edit(analysis=analysis(edited))
    world.run(25)
    assert world.weight == 60


def test_a_metric_that_is_edited_at_a_gate_is_judged_before_it_opens() -> None:
    world = started(**steps(20, 60, 100, gates=(60,)))
    world.run_to("WaitingPromotion")
    world.run(70)
    assert [one["verdict"] for one in world.status()["metrics"]] == ["Pass"]
    assert world.status()["verdict"] == "Pass"
    world.behaviour = failing(2, 0.02)
    stricter = {"name": "errors", "errorRate": {"success": 0.001, "rollback": 0.05}}
    world.edit(analysis=analysis(stricter), **steps(20, 60, 100))
    world.run(200)
    assert where(world) == ("Holding", "Inconclusive")
    assert "above success 0.1%" in world.status()["message"]
    assert weights(world) == [20]


def test_the_look_edited_the_rest_goes_on() -> None:
    world = stepping(**steps(20, 100, duration="1m"))
    world.edit(analysis=analysis(interval="20s"))
    world.run_to("Succeeded", within=200)
    assert where(world) == ("Succeeded", "Promoted")


def test_metrics_taken_away_are_no_longer_shown() -> None:
    second = {"name": "second", "errorRate": {"success": 0.5}}
    world = stepping(analysis=analysis(ERRORS, second))
    world.edit(analysis=analysis(ERRORS))
    status = world.run_to("Succeeded")
    assert [one["name"] for one in status["metrics"]] == ["errors"]
