"""``unloadDelay``: what nobody needs any more is unloaded, and loaded again when it is."""

import pytest
from canaries import analysis, steps
from simulation import Simulation, failing, two_versions

from tidegate_operator.adapters.metrics import Rates
from tidegate_operator.rollout.observation import LiveMetrics


def over(end: str = "Succeeded", **spec: object) -> Simulation:
    """A rollout to version 2 that ended a moment ago."""
    world = two_versions(behaviour=failing(2, 0.9 if end == "RolledBack" else 0.0))
    world.rollout(unloadDelay="5m", analysis=analysis(), **{**steps(50, 100), **spec})
    world.run_to(end)
    return world


def loaded(world: Simulation) -> list[int]:
    return [row.version for row in world.table.versions]


@pytest.mark.parametrize(("end", "stays"), [("Succeeded", 2), ("RolledBack", 1)])
def test_what_is_left_behind_goes_after_the_delay(end: str, stays: int) -> None:
    world = over(end)
    world.run(290)
    assert loaded(world) == [1, 2]
    world.run(60)
    assert loaded(world) == [stays]
    status = world.status(f"digits-{3 - stays}", "ModelVersion")
    assert status["phase"] == "Unloaded"
    assert status["message"] == (
        f"Version {3 - stays} is unloaded, 5m after rollout; a rollout loads it again"
    )
    assert world.condition("ModelVersion", f"digits-{3 - stays}", "Ready")["status"] == "True"
    writes = len(world.writes)
    world.run(600)
    assert len(world.writes) == writes


def test_what_never_was_there_leaves_nothing() -> None:
    world = two_versions()
    world.rollout(canary=1, unloadDelay="0s")
    world.run_to("Succeeded")
    world.run(100)
    assert loaded(world) == [1, 2]


def test_a_shadow_leaves_the_canary_behind() -> None:
    world = two_versions()
    world.rollout(
        maxPercent=0,
        mirrorPercent=50,
        stepDuration="20s",
        unloadDelay="1m",
        analysis={"interval": "5s", "warmup": "0s", "minRequests": 20},
    )
    world.run_to("Succeeded")
    world.run(100)
    assert loaded(world) == [1]


def test_requests_that_name_it_keep_it() -> None:
    world = over()
    for _ in range(4):
        world.by_name["triton-1"].direct_at[1] = world.now
        world.run(200)
        assert loaded(world) == [1, 2]
    world.run(100)
    assert loaded(world) == [1, 2]
    world.run(60)
    assert loaded(world) == [2]


def test_once_unloaded_it_is_not_loaded_again_for_being_named_nor_are_pods_asked_for_ever() -> None:
    world = over()
    world.run(400)
    assert loaded(world) == [2]
    world.by_name["triton-1"].direct_at[1] = world.now
    asked: list[str] = []
    report = world.report

    def counted(address: str) -> object:
        asked.append(address)
        return report(address)

    world.report = counted  # type: ignore[method-assign, assignment]
    world.run(600)
    assert asked == []
    world.remove_pod("triton-0")
    world.add_pod("triton-9")
    world.run(60)
    assert loaded(world) == [2]


@pytest.mark.parametrize("lifecycle", ["Testing", "Deprecated"])
def test_an_edited_lifecycle_loads_it_again(lifecycle: str) -> None:
    world = over()
    world.run(400)
    assert loaded(world) == [2]
    world.version(1, lifecycle=lifecycle)
    world.run(40)
    assert loaded(world) == [1, 2]


def test_a_rollout_that_names_it_keeps_it_or_loads_it_again() -> None:
    world = over()
    world.version(3)
    world.rollout("next", canary=3, suspend=True, stableVersion=1)
    world.run(600)
    assert loaded(world) == [1, 2, 3]
    world.delete("CanaryRollout", "next")
    world.run(60)
    assert loaded(world) == [2, 3]
    world.rollout("next", canary=1, rollbackWindow="0s", analysis=analysis(), **steps(50, 100))
    world.run(5)
    assert loaded(world) == [1, 2, 3]
    world.run_to("Succeeded", name="next")


def test_a_retry_loads_the_canary_again() -> None:
    world = over("RolledBack")
    world.run(400)
    assert loaded(world) == [1]
    world.behaviour = failing(2, 0.0)
    world.say("retry", "x")
    world.run_to("Succeeded")


def test_a_share_keeps_it() -> None:
    world = over()
    world.version(1, lifecycle="Active", trafficPercent=50)
    world.version(2, lifecycle="Active", trafficPercent=50)
    world.run(600)
    assert loaded(world) == [1, 2]


def test_what_is_unloaded_stays_so_when_the_rollout_is_deleted() -> None:
    world = over()
    world.run(400)
    world.delete("CanaryRollout", "rollout")
    world.run(60)
    world.kill()
    world.run(60)
    assert loaded(world) == [2]
    assert world.status("digits-1", "ModelVersion")["message"] == (
        "Version 1 is unloaded; a rollout, or another lifecycle, loads it again"
    )
    world.version(3, podSelector={"matchLabels": {"app": "other"}})
    world.run(60)
    assert world.status("digits-1", "ModelVersion")["phase"] == "Unloaded"
    world.delete("ModelVersion", "digits-3")
    world.run(60)
    assert loaded(world) == [2]
    world.rollout("back", canary=1, analysis=analysis(), **steps(50, 100))
    world.run_to("Succeeded", name="back")
    world.delete("CanaryRollout", "back")
    world.run(600)
    assert loaded(world) == [1, 2], "a rollout that is deleted before its delay leaves nothing"


def test_what_is_unloaded_is_loaded_by_an_edit_after_its_rollout_is_gone() -> None:
    world = over()
    world.run(400)
    world.delete("CanaryRollout", "rollout")
    world.run(10)
    world.version(1, lifecycle="Testing")
    world.run(40)
    assert loaded(world) == [1, 2]
    world.version(1, lifecycle="Inactive")
    world.run(40)
    assert loaded(world) == [2]
    world.version(1, lifecycle="Testing")
    world.run(40)
    assert loaded(world) == [1, 2]


def test_the_condition_names_the_rate_of_requests_that_keep_a_version() -> None:
    world = over()
    world.run(250)
    world.rates = Rates(live={("default", "digits"): {1: LiveMetrics(requests_per_second=0.25)}})
    world.by_name["triton-1"].direct_at[1] = world.now
    world.run(150)
    said = world.condition("ModelVersion", "digits-1", "Loaded")
    assert (said["status"], said["reason"]) == ("True", "StillNamed")
    assert said["message"] == (
        "Not unloaded: requests name version 1 themselves, 0.25 a second; unloaded 5m after the "
        "last of them"
    )
    world.run(250)
    assert loaded(world) == [2]
    assert world.condition("ModelVersion", "digits-1", "Loaded")["reason"] == "Unloaded"


def test_of_several_rollouts_the_last_one_counts() -> None:
    world = over()
    world.run(100)
    world.rollout("back", canary=1, unloadDelay="20m")
    world.run_to("Succeeded", name="back")
    world.run(600)
    assert loaded(world) == [1, 2], "the first one's delay is over, the last one's is not"
    world.run(700)
    assert loaded(world) == [1]
