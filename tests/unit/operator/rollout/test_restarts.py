"""A canary that makes Triton itself restart."""

import pytest
from canaries import stepping, where
from simulation import two_versions

from tidegate_operator.rollout.observation import Before


def test_one_restart_is_a_coincidence_two_are_not() -> None:
    world = stepping()
    pod = world.by_name["triton-0"]
    pod.restarts = 1
    world.run(15)
    assert world.status()["phase"] == "Progressing"
    pod.restarts = 2
    status = world.run_to("RolledBack", within=15)
    assert where(world) == ("RolledBack", "TritonRestarts")
    assert "Triton restarted 2 times since the canary has weight" in status["message"]


def test_restarts_are_added_up_over_pods_and_steps() -> None:
    world = stepping()
    world.by_name["triton-0"].restarts = 1
    world.run(60, lambda w: w.weight == 60)
    world.run(6)
    world.by_name["triton-1"].restarts = 1
    world.run_to("RolledBack", within=15)


def test_restarts_in_the_warm_up_count() -> None:
    world = two_versions()
    world.rollout(analysis={"interval": "5s", "warmup": "5m"})
    world.run_to("Progressing")
    world.run(10)
    world.by_name["triton-0"].restarts = 1
    world.run(60)
    world.by_name["triton-0"].restarts = 2
    assert world.run_to("RolledBack", within=20)["reason"] == "TritonRestarts"


def test_restarts_before_the_first_weight_are_not_the_canarys() -> None:
    world = two_versions()
    world.by_name["triton-0"].restarts = 5
    world.run(20)
    world.rollout(analysis={"interval": "5s", "warmup": "0s", "minRequests": 20})
    world.run_to("Succeeded")


def test_a_triton_that_restarted_shortly_before_says_nothing_of_the_canary() -> None:
    world = two_versions(before=Before(restarts=1))
    world.rollout(analysis={"interval": "5s", "warmup": "0s", "minRequests": 20})
    world.run_to("Progressing")
    world.run(10)
    world.by_name["triton-0"].restarts = 5
    world.run_to("Succeeded")


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_restarted_operator_counts_on(restarts: int) -> None:
    world = stepping()
    world.by_name["triton-0"].restarts = 1
    world.run(15)
    world.down_for = 30
    world.kill()
    world.by_name["triton-1"].restarts = restarts - 1
    world.run_to("RolledBack" if restarts == 2 else "Succeeded", within=400)


def test_what_made_triton_restart_is_unloaded_at_once_and_loaded_again_by_a_retry() -> None:
    world = stepping()
    world.by_name["triton-0"].restarts = 2
    world.run_to("RolledBack", within=15)
    world.run(3)
    assert [row.version for row in world.table.versions] == [1]
    world.say("retry", "again")
    world.run_to("Succeeded")
