"""Several objects that want one model: one has it, the others say whom they wait for."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from simulation import Simulation, failing, two_versions

from tidegate_contract.table import Owner
from tidegate_operator import reconciler
from tidegate_operator.rollout.model import AnyState, Plan, decide
from tidegate_operator.rollout.observation import Observation


def three_versions(**settings: object) -> Simulation:
    world = two_versions(**settings)
    world.version(3)
    return world.run(5)


def test_the_oldest_starts_the_second_waits_and_starts_after_it() -> None:
    world = three_versions()
    world.rollout("b", canary=2, initialPercent=50, stepPercent=50)
    world.run(1)
    world.rollout("a", canary=3, initialPercent=50, stepPercent=50)
    world.run(5)
    assert world.status("a")["phase"] == "Waiting"
    message = world.status("a")["message"]
    assert message.startswith("Waits for CanaryRollout b, which owns the traffic of digits; ")
    assert world.reasons("a") == ["WaitingForOwner"]
    world.run_to("Succeeded", name="b")
    world.run_to("Succeeded", name="a")
    assert world.status("a")["stableVersion"] == 2
    assert world.reasons("a").count("WaitingForOwner") == 1
    assert [table.owner.name for table in world.tables if table.owner][-1] == "a"


def test_a_younger_one_that_started_keeps_the_model() -> None:
    world = three_versions()
    world.rollout("young", canary=2)
    world.run_to("Progressing", name="young")
    world.rollout("old", canary=3)
    world.objects["CanaryRollout", "old"]["metadata"]["creationTimestamp"] = "1970-01-01T00:00:00Z"
    world.run(30)
    assert world.status("old")["phase"] == "Waiting"
    assert world.status("young")["phase"] == "Progressing"


def test_one_that_cannot_start_does_not_stand_in_the_way() -> None:
    world = three_versions()
    world.rollout("undeclared", canary=9)
    world.run(1)
    world.rollout("good", canary=2)
    world.run_to("Progressing", name="good")
    assert world.status("undeclared")["reason"] == "VersionNotDeclared"
    world.version(9)
    world.run(5)
    assert world.status("undeclared")["reason"] == "WaitingForOwner"


def test_a_rollback_lets_the_next_one_go_and_its_latch_with_it() -> None:
    world = three_versions(behaviour=failing(2, 0.9))
    world.rollout("bad", canary=2)
    world.run_to("RolledBack", name="bad")
    uid = world.objects["CanaryRollout", "bad"]["metadata"]["uid"]
    assert world.table.latch is not None
    assert world.table.latch.uid == uid
    world.run(30)
    assert world.table.latch is not None
    world.rollout("good", canary=3, initialPercent=50, stepPercent=50)
    world.run_to("Succeeded", name="good")
    assert world.table.latch is None
    assert world.status("bad")["phase"] == "RolledBack"


def test_a_deleted_rollout_returns_to_the_baseline_in_any_phase() -> None:
    for phase in ("Gating", "Progressing", "Holding"):
        world = three_versions()
        if phase == "Gating":
            world.version(4)
            world.load_error[4] = "no"
        world.rollout(canary=4 if phase == "Gating" else 2)
        world.run_to("Gating" if phase == "Gating" else "Progressing")
        if phase == "Holding":
            world.run(30)
            world.prometheus_up = False
            world.run_to("Holding")
        world.delete("CanaryRollout", "rollout")
        world.run(3)
        assert world.table.owner is None
        assert [(arm.name, arm.weight) for arm in world.table.split] == [("stable", 10_000)]


def test_deleting_a_finished_one_moves_nothing() -> None:
    world = three_versions()
    world.rollout(initialPercent=50, stepPercent=50)
    world.run_to("Succeeded")
    world.run(5)
    revision = world.table.revision
    world.delete("CanaryRollout", "rollout")
    world.run(60)
    assert world.table.revision == revision
    assert [arm.version for arm in world.table.split] == [2]


def test_a_rollout_to_what_has_everything_is_done_at_once() -> None:
    world = two_versions()
    revision = world.table.revision
    world.rollout(canary=1)
    status = world.run_to("Succeeded")
    assert status["reason"] == "AlreadyPromoted"
    assert status["display"]["weight"] == "100%"
    assert world.run(60).table.revision == revision


def test_stable_must_have_everything() -> None:
    world = three_versions()
    world.rollout(canary=2, stableVersion=3)
    world.run(5)
    assert world.status()["reason"] == "AmbiguousBaseline"
    assert world.status()["message"] == ("Starts when version 3 holds all the traffic; now 1: 100%")
    world.rollout("first", canary=3, initialPercent=50, stepPercent=50)
    world.run_to("Succeeded", name="first")
    world.run_to("Succeeded")
    assert world.status()["stableVersion"] == 3


def test_a_newer_one_takes_over_as_soon_as_the_older_is_aborted() -> None:
    world = three_versions()
    world.rollout("older", canary=2)
    world.run_to("Progressing", name="older")
    world.rollout("newer", canary=3, stepDuration="10s")
    world.run(30)
    assert world.status("newer")["phase"] == "Waiting"
    world.say("abort", "superseded", name="older")
    world.run_to("RolledBack", name="older", within=10)
    world.run_to("Progressing", name="newer", within=15)
    world.run_to("Succeeded", name="newer")
    assert world.status("older")["reason"] == "Aborted"


@pytest.mark.parametrize("how", ["deleted", "finished"])
def test_ownership_passes_on_within_a_tick(how: str) -> None:
    world = three_versions()
    world.rollout("first", canary=2, initialPercent=50, stepPercent=50)
    world.run_to("Progressing", name="first")
    world.rollout("second", canary=3)
    world.run(3)
    if how == "deleted":
        world.delete("CanaryRollout", "first")
    else:
        world.run_to("Succeeded", name="first")
    world.run_to("Gating", "Progressing", name="second", within=5)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> list[Owner]:
    """Who moves another model's traffic in the same pods, while there is one."""
    others: list[Owner] = []

    def decided(seen: Observation, remembered: Mapping[str, AnyState]) -> Plan:
        return decide(replace(seen, busy=others[0] if others else None), remembered)

    monkeypatch.setattr(reconciler, "decide", decided)
    return others


def test_rollouts_of_models_that_share_pods_take_turns(busy: list[Owner]) -> None:
    world = two_versions()
    busy.append(Owner(kind="CanaryRollout", name="faces-2", uid="u"))
    world.rollout()
    world.run(30)
    assert world.status()["phase"] == "Waiting"
    assert world.status()["message"] == (
        "Waits for CanaryRollout faces-2, which moves another model's traffic in the same pods; "
        "starts when it is finished or deleted"
    )
    assert world.reasons() == ["WaitingForOwner"]
    busy.clear()
    world.run_to("Progressing", within=40)
    busy.append(Owner(kind="CanaryRollout", name="faces-2", uid="u"))
    world.run_to("Succeeded")


def test_one_version_must_have_everything() -> None:
    world = three_versions()
    world.version(1, lifecycle="Active", trafficPercent=50)
    world.version(3, lifecycle="Active", trafficPercent=50)
    world.run(5)
    world.rollout(canary=2)
    world.run(5)
    assert world.status()["reason"] == "AmbiguousBaseline"
    assert world.status()["message"] == (
        "Starts when one version holds all the traffic; now 1: 50%, 3: 50%"
    )
    world.version(3, lifecycle="Active", trafficPercent=100)
    world.version(1, lifecycle="Active", trafficPercent=0)
    world.run_to("Progressing", within=20)
    assert world.status()["stableVersion"] == 3
