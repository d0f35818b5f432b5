"""The operator is killed before every single write of whole rollouts: the history stays right.

Whatever the gap between two writes, no step is skipped, doubled or shortened, and no rollback is
undone; what comes after the kill is judged against the same rollout without one.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from simulation import Simulation, failing, two_versions

PLAN: dict[str, Any] = {
    "initialPercent": 20,
    "stepPercent": 40,
    "stepDuration": "20s",
    "analysis": {"interval": "5s", "warmup": "5s", "minRequests": 20},
}
DURATION = 20.0


def good(**settings: Any) -> Simulation:
    world = two_versions(**settings)
    world.rollout(**PLAN)
    return world


def bad(**settings: Any) -> Simulation:
    """Fails from the second step on."""
    world = good(**settings)
    world.behaviour = lambda v, _now: (0.9 if v == 2 and world.weight > 20 else 0.0, 0.0)
    return world


def bad_at_once(**settings: Any) -> Simulation:
    world = good(**settings)
    world.behaviour = failing(2, 0.9)
    return world


def refused(**settings: Any) -> Simulation:
    world = good(**settings)
    world.tensors[2] = []
    return world


def steps(world: Simulation) -> list[tuple[str, int]]:
    """The history as phases and weights.

    Left out: holds, as a killed operator sees less and may hold for it; and the way back, which is
    over at once where only the table's latch was written before the kill.
    """
    entries = [(to, weight) for _, to, weight in world.history()]
    kept = [one for one in entries if one[0] not in {"Holding", "RollingBack"}]
    return [one for one, before in zip(kept, [None, *kept], strict=False) if one != before]


def finish(world: Simulation) -> Simulation:
    world.run_to("Succeeded", "RolledBack", "Failed", within=1800)
    return world.run(40)


@functools.cache
def unkilled(story: Callable[..., Simulation]) -> Simulation:
    return finish(story())


def kills(story: Callable[..., Simulation]) -> list[int]:
    """All writes from the rollout's first one on."""
    return list(range(len(story().writes), len(unkilled(story).writes)))


CASES = [
    pytest.param(story, write, down_for, id=f"{story.__name__}-{write}-{down_for:g}")
    for story in (good, bad, bad_at_once, refused)
    for write in kills(story)
    for down_for in (0.0, 60.0)
]


@pytest.mark.parametrize(("story", "write", "down_for"), CASES)
def test_killed_before_a_write(
    story: Callable[..., Simulation], write: int, down_for: float
) -> None:
    world = story(kill_at_write=write, down_for=down_for)
    finish(world)
    assert world.kill_at_write is None, "it was killed"
    assert steps(world) == steps(unkilled(story))
    assert [arm.version for arm in world.table.split] == [
        arm.version for arm in unkilled(story).table.split
    ]
    assert world.table.baseline == unkilled(story).table.baseline
    if world.status()["phase"] == "Succeeded":
        assert all(world.attended[percent] >= DURATION for percent in (20, 60))
    revisions = [table.revision for table in world.tables]
    assert revisions == sorted(set(revisions))
    shares = [table.split[-1].weight for table in world.tables if table.split[-1].name == "canary"]
    assert shares == sorted(shares), "a weight that was left is not given again"


@pytest.mark.parametrize("story", [good, bad, bad_at_once, refused])
def test_killed_before_every_third_write(story: Callable[..., Simulation]) -> None:
    world = story()

    def again(_what: str) -> None:
        world.kill_at_write = world.kill_at_write or len(world.writes) + 3

    world.before_write = again
    finish(world)
    assert steps(world) == steps(unkilled(story))


@pytest.mark.parametrize("story", [good, bad, bad_at_once, refused])
def test_no_event_is_told_twice_after_kills_at_rest(story: Callable[..., Simulation]) -> None:
    world = finish(story())
    told = list(world.events)
    writes = len(world.writes)
    for _ in range(3):
        world.kill()
        world.run(40)
    assert world.events == told
    assert world.writes[writes:] == []
