"""The baseline: what the versions ask for, what a promotion leaves, what a lost table leaves."""

from typing import Any

import pytest
from simulation import Simulation, two_versions

from tidegate_operator.adapters.cluster import CONFIG_MAP


def baseline(world: Simulation) -> dict[int, int]:
    return {one.version: one.weight for one in world.table.baseline}


def problem(world: Simulation, name: str = "digits-1") -> str:
    condition = world.condition("ModelVersion", name, "TrafficSplitValid")
    return condition["message"] if condition["status"] == "False" else ""


def promoted() -> Simulation:
    world = two_versions()
    world.rollout(initialPercent=50, stepPercent=50)
    world.run_to("Succeeded")
    return world.run(5)


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([{"lifecycle": "Active"}, {}], {1: 10_000}),
        ([{"lifecycle": "Active", "trafficPercent": 100}, {"lifecycle": "Active"}], {1: 10_000}),
        (
            [
                {"lifecycle": "Active", "trafficPercent": 30},
                {"lifecycle": "Active", "trafficPercent": 70},
            ],
            {1: 3_000, 2: 7_000},
        ),
        ([{"lifecycle": "Deprecated", "trafficPercent": 100}, {}], {1: 10_000}),
        ([{"lifecycle": "Deprecated"}, {}], {1: 10_000}),
        ([{"lifecycle": "Deprecated"}, {"lifecycle": "Active"}], {2: 10_000}),
        (
            [
                {"lifecycle": "Deprecated", "trafficPercent": 20},
                {"lifecycle": "Active", "trafficPercent": 80},
            ],
            {1: 2_000, 2: 8_000},
        ),
    ],
)
def test_what_versions_ask_for(specs: list[dict[str, Any]], expected: dict[int, int]) -> None:
    world = Simulation()
    for number, spec in enumerate(specs, start=1):
        world.version(number, **spec)
    world.run(5)
    assert baseline(world) == expected
    assert [arm.weight for arm in world.table.split] == list(expected.values())
    assert not problem(world)


@pytest.mark.parametrize(
    "spec",
    [
        {"lifecycle": "Active", "trafficPercent": 90},
        {"lifecycle": "Active", "trafficPercent": 0},
        {"lifecycle": "Testing", "trafficPercent": 100},
        {},
    ],
)
def test_without_a_valid_split_there_is_no_table(spec: dict[str, Any]) -> None:
    world = Simulation()
    world.version(1, **spec)
    world.run(5)
    assert (CONFIG_MAP, "tidegate-routing-digits") not in world.objects
    assert "must add up to 100" in problem(world)
    assert "InvalidSpec" in world.reasons("digits-1")


def test_a_split_that_does_not_add_up_leaves_the_last_good_one() -> None:
    world = two_versions()
    world.version(2, lifecycle="Active", trafficPercent=30)
    world.run(60)
    assert baseline(world) == {1: 10_000}
    assert "not 130 (version 1: 100%, version 2: 30%)" in problem(world)
    assert world.reasons("digits-1").count("InvalidSpec") == 1
    world.version(1, lifecycle="Active", trafficPercent=70)
    world.run(5)
    assert baseline(world) == {1: 7_000, 2: 3_000}
    assert not problem(world)


def test_a_promotion_outlives_the_specs_that_asked_for_something_else() -> None:
    world = promoted()
    assert baseline(world) == {2: 10_000}
    world.version(1, lifecycle="Active", trafficPercent=100)  # applied again, as Git does
    world.kill()
    world.run(60)
    assert baseline(world) == {2: 10_000}
    assert world.condition("ModelVersion", "digits-1", "SpecBehind")["status"] == "True"
    assert (
        "live 100%, spec 0%" in world.condition("ModelVersion", "digits-2", "SpecBehind")["message"]
    )
    assert world.status("digits-2", "ModelVersion")["lifecycle"] == "Active"


def test_specs_win_again_once_a_value_differs() -> None:
    world = promoted()
    world.version(1, lifecycle="Active", trafficPercent=40)
    world.version(2, lifecycle="Active", trafficPercent=60)
    world.run(5)
    assert baseline(world) == {1: 4_000, 2: 6_000}


def test_specs_that_catch_up_move_nothing_and_are_behind_no_more() -> None:
    world = promoted()
    world.version(1, lifecycle="Inactive")
    world.version(2, lifecycle="Active", trafficPercent=100)
    world.run(5)
    assert baseline(world) == {2: 10_000}
    assert world.condition("ModelVersion", "digits-2", "SpecBehind")["status"] == "False"
    assert [row.version for row in world.table.versions] == [2]


@pytest.mark.parametrize("restarted", [False, True])
def test_a_lost_table_is_rebuilt_from_what_is_known(restarted: bool) -> None:
    world = promoted()
    highest = world.table.revision
    if restarted:
        world.operators.clear()
    world.delete(CONFIG_MAP, "tidegate-routing-digits")
    world.run(5)
    assert baseline(world) == {2: 10_000}
    assert world.table.revision > highest


@pytest.mark.parametrize("phase", ["Gating", "Progressing", "Promoting", "RollingBack"])
def test_a_table_lost_while_the_operator_is_away_in_the_middle_of_a_rollout(phase: str) -> None:
    world = two_versions(
        behaviour=lambda v, _: (0.9 if v == 2 and phase == "RollingBack" else 0, 0)
    )
    if phase == "Gating":
        world.load_error[2] = "no"
        world.version(3)
        world.rollout(canary=3)
        world.load_error[3] = "no"
    else:
        world.rollout(initialPercent=50, stepPercent=50)
    world.run_to(phase)
    before, world_weight = baseline(world), world.weight
    world.operators.clear()
    world.delete(CONFIG_MAP, "tidegate-routing-digits")
    world.run(3)
    assert baseline(world) == before
    assert world.weight == (0 if phase == "RollingBack" else world_weight)


@pytest.mark.parametrize("how", ["deleted", "Inactive"])
def test_a_version_with_traffic_keeps_it_when_its_object_goes(how: str) -> None:
    world = two_versions()
    if how == "deleted":
        world.delete("ModelVersion", "digits-1")
    else:
        world.version(1, lifecycle="Inactive")
    world.run(60)
    assert baseline(world) == {1: 10_000}
    assert 1 in [row.version for row in world.table.versions]
    (warning,) = [e for e in world.events if e.type == "Warning" and e.name == "digits-1"]
    assert warning.reason == "InvalidSpec"
    world.version(2, lifecycle="Active", trafficPercent=100)
    world.run(5)
    assert [row.version for row in world.table.versions] == [2]


def test_a_deprecated_version_keeps_serving_and_says_so() -> None:
    world = two_versions()
    world.version(1, lifecycle="Deprecated", trafficPercent=100)
    world.run(60)
    assert baseline(world) == {1: 10_000}
    assert not problem(world)
    status = world.status("digits-1", "ModelVersion")
    assert status["lifecycle"] == "Deprecated"
    assert "move off it" in status["message"]


def test_the_table_goes_with_the_last_version_and_pod() -> None:
    world = two_versions()
    world.delete("ModelVersion", "digits-1")
    world.delete("ModelVersion", "digits-2")
    world.run(60)
    assert baseline(world) == {1: 10_000}
    world.remove_pod("triton-0")
    world.remove_pod("triton-1")
    world.run(60)
    assert (CONFIG_MAP, "tidegate-routing-digits") not in world.objects
