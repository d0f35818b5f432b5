"""``spec.suspend``: before, while and after a rollout has weight."""

import pytest
from canaries import started, stepping, steps, weights, where
from simulation import failing, two_versions


def test_suspended_before_it_began_it_waits_and_lets_others_go_first() -> None:
    world = two_versions()
    world.version(3)
    world.rollout("held", suspend=True, **steps(50, 100))
    world.run(2)
    world.rollout("other", canary=3, **steps(50, 100))
    world.run_to("Progressing", name="other")
    assert where(world, "held") == ("Waiting", "Suspended")
    assert world.status("held")["message"] == ("Suspended by spec.suspend; starts when it is false")
    world.run_to("Succeeded", name="other")
    assert where(world, "held") == ("Waiting", "Suspended")
    world.edit("held", suspend=False)
    world.run_to("Succeeded", name="held")


def test_suspended_in_the_gate_it_lets_the_model_go_and_begins_anew() -> None:
    world = two_versions()
    world.load_time = 60
    world.version(3)
    world.version(4)
    world.rollout(canary=3, gatingDeadline="2m", **steps(50, 100))
    world.run_to("Gating")
    world.run(5)
    world.edit(suspend=True)
    world.run(5)
    assert where(world) == ("Waiting", "Suspended")
    assert world.table.owner is None
    world.run(900)
    world.edit(suspend=False)
    world.run_to("Succeeded")


def test_suspended_at_the_first_gate_it_waits_for_both() -> None:
    world = started(**steps(20, 100, gates=(20,)))
    world.run_to("WaitingPromotion")
    world.edit(suspend=True)
    world.run(5)
    assert where(world) == ("Waiting", "Suspended")
    world.edit(suspend=False)
    world.run_to("WaitingPromotion", within=10)


def test_suspended_with_weight_it_stands_still_at_once() -> None:
    world = stepping()
    elapsed = world.status()["stepElapsed"]
    world.edit(suspend=True)
    world.run(1)
    assert where(world) == ("Holding", "Suspended")
    assert world.status()["message"] == (
        "Holding at 20% (step 1/3): suspended by spec.suspend; resumes when it is false"
    )
    assert world.condition("CanaryRollout", "rollout", "Paused")["status"] == "True"
    writes = len(world.writes)
    world.run(900)
    assert weights(world) == [20]
    assert len(world.writes) - writes <= 16, "progress once a minute, and nothing else"
    assert world.status()["stepElapsed"] <= elapsed + 5
    world.edit(suspend=False)
    world.run(1)
    assert world.status()["phase"] == "Progressing"
    world.run_to("Succeeded")
    held = [one for one in world.reasons() if one in {"RolloutPaused", "RolloutResumed"}]
    assert held == ["RolloutPaused", "RolloutResumed"]


def test_suspension_is_not_counted_towards_the_deadline() -> None:
    world = stepping(progressDeadline="2m", onDeadline="Rollback")
    world.edit(suspend=True)
    world.run(900)
    world.edit(suspend=False)
    world.run_to("Succeeded")


def test_a_breach_rolls_back_although_suspended() -> None:
    world = stepping()
    world.edit(suspend=True)
    world.run(20)
    world.behaviour = failing(2, 0.5)
    world.run_to("RolledBack", within=15)


@pytest.mark.parametrize("policy", ["onError", "onNoData"])
def test_missing_evidence_does_not_roll_back_what_is_suspended(policy: str) -> None:
    world = stepping(
        analysis={"interval": "5s", "warmup": "0s", "minRequests": 20, policy: "Rollback"}
    )
    world.edit(suspend=True)
    world.run(5)
    world.prometheus_up = policy != "onError"
    for pod in world.by_name.values():
        pod.scraped = policy != "onNoData"
    world.run(300)
    assert where(world) == ("Holding", "Suspended")
    world.edit(suspend=False)
    world.run_to("RolledBack", within=15)


def test_a_breach_that_was_seen_is_rolled_back_whatever_happens_the_next_second() -> None:
    world = stepping()
    world.behaviour = failing(2, 0.9)
    world.run(30, lambda w: w.status()["phase"] == "RollingBack")
    world.prometheus_up = False
    world.edit(suspend=True)
    world.run_to("RolledBack", within=5)


def test_suspended_after_the_end_nothing_happens() -> None:
    world = started()
    world.run_to("Succeeded")
    world.run(5)
    world.edit(suspend=True)
    writes = len(world.writes)
    world.run(60)
    assert world.status()["phase"] == "Succeeded"
    assert len(world.writes) - writes <= 1, "but that the edit was seen"
