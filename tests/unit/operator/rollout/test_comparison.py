"""A canary against stable: ratios of errors and of latency, proof, and what it does to stable."""

import math
from typing import Any

import pytest
from canaries import analysis, started, steps, where
from simulation import Behaviour, Simulation, failing, two_versions

from tidegate_operator.rollout.observation import Before

SPEEDS = ((0.01, 900.0), (0.05, 1_000.0), (math.inf, 1_000.0))
"""Stable's answers before the rollout: 95% of them within 30 ms."""
PINNED = 0.03
RATIO = {"name": "errors", "errorRate": {"maxRatioToStable": 1.5}}
WITHIN = {"name": "errors", "errorRate": {"success": 0.05, "maxRatioToStable": 1.5}}
LATENCY = {"quantile": 0.95, "success": "100ms", "rollback": "500ms", "maxRatioToStable": 2}


def both(stable: float, canary: float) -> Behaviour:
    """Shares of errors."""
    return lambda version, _now: (canary if version == 2 else stable, 0.0)


def slow(stable: float, canary: float) -> Behaviour:
    """Shares of slow requests."""
    return lambda version, _now: (0.0, canary if version == 2 else stable)


def timed(slow_takes: float, behaviour: Behaviour, **fields: Any) -> Simulation:
    """Judged by latency; slow requests take so many seconds."""
    world = two_versions(
        rate=400, slow_takes=slow_takes, behaviour=behaviour, before=Before(latency={1: SPEEDS})
    )
    metric = {"name": "latency", "latency": {**LATENCY, **fields.pop("latency", {})}}
    world.rollout(**{**steps(50, 100, duration="60s"), **fields}, analysis=analysis(metric))
    return world


def test_a_canary_that_fails_more_often_than_stable_goes_back() -> None:
    world = started(rate=400, analysis=analysis(RATIO))
    world.behaviour = both(0.02, 0.12)
    status = world.run_to("RolledBack")
    assert "the canary fails" in status["message"]
    assert "times as often as stable, 1.5 allowed" in status["message"]
    metric = status["metrics"][0]
    assert metric["interval"][0] < metric["ratio"] < metric["interval"][1]
    assert metric["evidence"] >= metric["threshold"] == 100


def test_a_fault_that_both_have_is_not_the_canarys() -> None:
    world = started(rate=400, analysis=analysis(RATIO))
    world.run_to("Progressing")
    world.behaviour = both(0.12, 0.12)
    world.run_to("Succeeded")


def test_a_ratio_that_is_proven_within_success_passes_with_a_note() -> None:
    world = started(rate=400, analysis=analysis(WITHIN), **steps(50, 100, duration="5m"))
    world.behaviour = both(0.002, 0.03)
    world.run_to("Progressing")
    world.run(240)
    assert world.status()["phase"] == "Progressing"
    (metric,) = world.run_to("Succeeded")["metrics"]
    assert metric["verdict"] == "Pass"
    assert metric["reason"].startswith("within bounds, though the canary fails")


def test_latency_is_compared_at_stables_own_quantile_before_the_rollout() -> None:
    world = timed(0.05, slow(0.0, 0.0))
    world.run_to("Progressing")
    assert world.status()["checkpoint"]["pinned"] == {"latency": pytest.approx(PINNED)}
    bounds = {
        check.id.partition("@")[0]: check.bounds  # type: ignore[union-attr]
        for check in world.table.checks
        if check.id.startswith("latency")
    }
    assert bounds == {
        "latency/success": {"stable": 0.1, "canary": 0.1},
        "latency/rollback": {"stable": 0.5, "canary": 0.5},
        "latency/ratio": {"stable": pytest.approx(PINNED), "canary": pytest.approx(2 * PINNED)},
        "latency/slowdown": {"stable": pytest.approx(1.25 * PINNED)},
    }


def test_a_canary_within_its_multiple_of_stables_latency_passes() -> None:
    """Slow ones take 50 ms: within 2 x 30 ms, beyond stable's own 30 ms."""
    world = timed(0.05, slow(0.0, 0.5))
    world.run_to("Succeeded")


def test_a_canary_beyond_its_multiple_of_stables_latency_goes_back() -> None:
    world = timed(0.09, slow(0.02, 0.5), latency={"success": "80ms"})
    status = world.run_to("RolledBack")
    assert "the canary takes longer than 60ms (2x stable's bound)" in status["message"]
    assert "times as often as stable takes longer than 30ms" in status["message"]


def test_a_latency_within_success_is_no_harm_however_much_slower() -> None:
    world = timed(0.09, slow(0.0, 0.5))
    (metric,) = world.run_to("Succeeded")["metrics"]
    assert "within bounds, though the canary takes longer" in metric["reason"]


def test_a_latency_beyond_its_rollback_bound_goes_back() -> None:
    world = timed(0.6, slow(0.0, 0.2))
    assert "canary requests took longer than 500ms" in world.run_to("RolledBack")["message"]


def test_only_the_given_priorities_are_asked_of_the_sidecars() -> None:
    world = timed(0.05, slow(0.0, 0.0), latency={"priorities": [1, 2]})
    world.run_to("Progressing")
    asked = [one for one in world.table.checks if one.id.startswith("latency")]
    assert [one.priorities for one in asked] == [[1, 2]] * len(asked)  # type: ignore[union-attr]


def test_a_ratio_alone_needs_to_know_how_fast_stable_was() -> None:
    metric = {"name": "latency", "latency": {"quantile": 0.95, "maxRatioToStable": 2}}
    world = started(analysis=analysis(metric))
    world.run_to("Holding")
    assert "how fast stable was before the rollout is not known" in world.status()["message"]


def test_proof_takes_longer_than_no_harm() -> None:
    world = started(rate=400, analysis=analysis(RATIO, passOn="Proven"))
    world.behaviour = both(0.02, 0.02)
    world.run_to("Holding")
    assert "not yet proven to be no worse than stable (E " in world.status()["message"]
    world.run_to("Succeeded", within=40_000)


def test_proof_is_not_had_for_a_latency_that_cannot_be_compared() -> None:
    metric = {"name": "latency", "latency": LATENCY}
    world = started(analysis=analysis(metric, passOn="Proven"))
    world.run_to("Holding")
    assert "is not known" in world.status()["message"]


def test_a_stable_that_breaks_the_bound_itself_keeps_the_rollout_from_starting() -> None:
    world = two_versions(before=Before(errors={1: 0.06}))
    world.rollout(analysis=analysis(), **steps(50, 100))
    world.run(60)
    assert where(world) == ("Gating", "StableUnhealthy")
    assert world.status()["message"] == (
        "Ready, but stable itself fails 6.00% of its requests, beyond rollback of errors; starts "
        "when it does not"
    )
    world.before = Before(errors={1: 0.05})
    world.run_to("Succeeded")


def test_a_stable_that_is_too_slow_itself_keeps_the_rollout_from_starting() -> None:
    slow_before = ((0.1, 0.0), (1.0, 1_000.0), (math.inf, 1_000.0))
    world = two_versions(before=Before(latency={1: slow_before}))
    metric = {"name": "latency", "latency": LATENCY}
    world.rollout(analysis=analysis({**metric, "dryRun": True}), **steps(50, 100))
    world.run_to("Progressing")
    world = two_versions(before=Before(latency={1: slow_before}))
    world.rollout(analysis=analysis(metric), **steps(50, 100))
    world.run(60)
    assert where(world) == ("Gating", "StableUnhealthy")
    assert "stable itself takes 955ms, beyond rollback of latency" in world.status()["message"]


def test_a_neighbour_that_slows_stable_holds_until_it_does_not() -> None:
    """40 ms is beyond 1.25 x 30 ms, and within all of the canary's own bounds."""
    world = timed(0.04, slow(0.0, 0.0))
    world.run_to("Progressing")
    world.run(10)
    world.behaviour = slow(0.5, 0.5)
    world.run_to("Holding", within=30)
    assert where(world) == ("Holding", "Inconclusive")
    assert world.status()["message"] == (
        "Holding at 50% (step 1/2): latency: stable, on the same device, takes more than 1.25x of "
        "its time before the rollout; resumes when it does not"
    )
    elapsed = world.status()["stepElapsed"]
    world.run(300)
    assert world.status()["stepElapsed"] == elapsed
    world.behaviour = slow(0.0, 0.0)
    world.run_to("Progressing", within=30)
    world.run_to("Succeeded")


def test_a_neighbour_that_slows_stable_after_a_long_good_time_is_noticed_as_soon() -> None:
    world = timed(0.04, slow(0.0, 0.0), **steps(50, 100, duration="3h"))
    world.run_to("Progressing")
    world.run(900)
    world.behaviour = slow(0.5, 0.5)
    world.run_to("Holding", within=30)
    assert "on the same device" in world.status()["message"]


def test_a_neighbour_that_breaks_stables_own_bound_goes_back() -> None:
    world = timed(0.6, slow(0.0, 0.0))
    world.run_to("Progressing")
    world.run(10)
    world.behaviour = slow(0.3, 0.0)
    status = world.run_to("RolledBack")
    assert "stable, on the same device, was within its bound before" in status["message"]
    assert "stable requests took longer than 500ms" in status["message"]


def test_a_slowed_stable_has_no_say_once_the_canary_has_everything() -> None:
    world = timed(0.04, slow(0.0, 0.0), autoPromote=False)
    world.run_to("Progressing")
    world.run(10)
    world.behaviour = slow(0.5, 0.0)
    world.run_to("Holding", within=30)
    world.say("promote", "step@1")
    status = world.run_to("WaitingPromotion", within=200)
    assert (status["weight"], status["currentStep"]) == (100, 2)


def test_after_a_slowdown_an_open_judgement_is_told_again() -> None:
    metrics = [
        {"name": "latency", "latency": LATENCY},
        {"name": "errors", "errorRate": {"success": 0.01}},
    ]
    world = two_versions(
        rate=400,
        slow_takes=0.04,
        behaviour=both(0.0, 0.04),
        before=Before(latency={1: SPEEDS}),
    )
    world.rollout(**steps(50, 100, duration="60s"), analysis=analysis(*metrics))
    world.run_to("Holding")
    assert "above success 1%" in world.status()["message"]
    world.behaviour = slow(0.9, 0.0)
    world.run(20)
    assert "on the same device" in world.status()["message"]
    world.behaviour = both(0.0, 0.04)
    world.run(30)
    assert "on the same device" not in world.status()["message"]
    assert where(world) == ("Holding", "Inconclusive")


def test_the_level_is_shared_by_all_tests_that_can_roll_back() -> None:
    metrics = [
        {"name": "errors", "errorRate": {"rollback": 0.05, "maxRatioToStable": 1.5}},
        {"name": "latency", "latency": LATENCY},
        {"name": "dry", "errorRate": {"rollback": 0.05}, "dryRun": True},
    ]
    world = started(analysis=analysis(*metrics, significanceLevel=0.05))
    world.run_to("Progressing")
    world.run(12)
    assert {one["threshold"] for one in world.status()["metrics"]} == {5 / 0.05}


@pytest.mark.parametrize(("share", "end"), [(0.5, "RolledBack"), (0.0, "Succeeded")])
def test_a_canary_with_sticky_users_is_judged_by_bucket(share: float, end: str) -> None:
    world = two_versions(behaviour=failing(2, share))
    world.rollout(assignment={"header": "x-user-id"}, **steps(50, 100), analysis=analysis(RATIO))
    status = world.run_to(end)
    assert list(status["checkpoint"]["buckets"]) == list(status["checkpoint"]["ratios"])
