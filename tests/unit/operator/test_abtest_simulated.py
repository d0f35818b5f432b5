"""Whole tests through the real operator, on simulated pods whose users rate what they get."""

import random
from typing import Any

import pytest
from experiments import ERRORS, CrowdSimulation, crowded
from simulation import failing

BASELINE = [("stable", 1, 10_000)]
TESTED = [("control", 1, 5_000), ("treatment", 2, 5_000)]
PROMOTED = [("stable", 2, 10_000)]


def run_to(world: CrowdSimulation, *phases: str, within: float = 1800.0) -> dict[str, Any]:
    world.run(within, lambda s: s.abtest.get("phase") in phases)
    assert world.abtest.get("phase") in phases, world.abtest.get("message")
    return world.abtest


def told(world: CrowdSimulation) -> list[tuple[str, str, int]]:
    return [(h["from"], h["to"], h["weight"]) for h in world.abtest["history"]]


def test_a_better_version_wins_and_is_promoted() -> None:
    world = crowded(quality={1: 0.75, 2: 0.85})
    world.ab_test(onFinish="PromoteWinner", guardrails=[ERRORS])
    status = run_to(world, "Finished")
    assert status["verdict"] == "TreatmentWins"
    assert world.splits == [BASELINE, TESTED, PROMOTED]
    assert world.table.owner is None
    assert world.secrets == {"tidegate-feedback-digits"}
    assert world.reasons("test") == ["TestStarted", "TestFinished"]
    assert told(world) == [
        ("New", "Gating", 0),
        ("Gating", "Running", 50),
        ("Running", "Running", 100),
        ("Running", "Finished", 100),
    ]
    assert world.condition("ABTest", "test", "Ready")["status"] == "True"
    assert world.condition("ABTest", "test", "Promoted")["status"] == "True"


def test_harm_takes_the_traffic_back_within_seconds() -> None:
    world = crowded(quality={1: 0.75, 2: 0.85}, behaviour=failing(2, 0.2, 1_000_200.0))
    world.ab_test(guardrails=[ERRORS], stopEarly=False)
    status = run_to(world, "Stopped")
    assert status["verdict"] == "GuardrailFailed"
    assert world.now <= 1_000_200 + 30
    assert world.splits == [BASELINE, TESTED, BASELINE]


def test_a_pod_that_loses_users_of_one_arm_is_found_out() -> None:
    world = crowded(quality={1: 0.75, 2: 0.85}, rate=400.0)
    world.ab_test(stopEarly=False)
    world.lossy = {"triton-1"}
    status = run_to(world, "Stopped")
    assert status["verdict"] == "SampleRatioMismatch"
    assert world.splits[-1] == BASELINE


def test_an_outage_of_prometheus_neither_ends_a_test_nor_loses_an_outcome() -> None:
    def counted(outage: bool) -> tuple[float, CrowdSimulation]:
        world = crowded()
        world.ab_test(duration="1h", stopEarly=False)
        world.run(100)
        world.prometheus_up = not outage
        world.run(120)
        if outage:
            assert world.abtest["phase"] == "Holding"
            assert world.abtest["reason"] == "Error"
        world.prometheus_up = True
        world.run(40)
        return world.rated(), world

    there, _ = counted(outage=False)
    away, world = counted(outage=True)
    assert away == there
    assert world.splits == [BASELINE, TESTED]
    assert world.reasons("test") == ["TestStarted", "RolloutHeld", "RolloutResumed"]


def test_a_test_and_a_rollout_take_turns() -> None:
    world = crowded(quality={1: 0.75, 2: 0.85})
    world.ab_test()
    world.run(20)
    world.rollout()
    world.run(20)
    message = world.status()["message"]
    assert "Waits for ABTest test, which owns the traffic of digits" in message
    run_to(world, "Finished")
    world.run_to("Progressing", within=60)
    assert world.splits[:4] == [
        BASELINE,
        TESTED,
        BASELINE,
        [("stable", 1, 9_500), ("canary", 2, 500)],
    ]


def scenario(kill_at: int | None = None, **settings: Any) -> CrowdSimulation:
    """A test that wins and is promoted, or does harm: with its operator killed before a write."""
    world = crowded(quality={1: 0.75, 2: 0.85}, rate=60.0, **settings)
    start = len(world.writes)
    world.kill_at_write = None if kill_at is None else start + kill_at
    world.ab_test(onFinish="PromoteWinner", guardrails=[ERRORS])
    world.run(150)
    return world


@pytest.mark.parametrize("harm", [False, True])
def test_killed_between_any_two_writes_a_test_ends_as_it_would_have(harm: bool) -> None:
    settings = {"behaviour": failing(2, 0.3, 1_000_080.0)} if harm else {}
    whole = scenario(**settings)
    run_to(whole, "Finished", "Stopped")
    writes = len([one for one in whole.writes if "ModelVersion" not in one])
    assert writes >= 6
    for kill_at in range(len(whole.writes)):
        world = scenario(kill_at, **settings)
        run_to(world, "Finished", "Stopped")
        assert world.splits == whole.splits, kill_at
        assert world.abtest["verdict"] == whole.abtest["verdict"], kill_at
        assert told(world) == told(whole), kill_at
        assert world.reasons("test").count("TestStarted") <= 1
        assert world.table.owner is None


def test_a_kill_neither_loses_nor_doubles_an_outcome() -> None:
    def counted(kill_after: float | None, down_for: float) -> float:
        world = crowded(down_for=down_for)
        world.ab_test(duration="1h", stopEarly=False)
        if kill_after is not None:
            world.run(kill_after)
            world.kill()
            world.run(200 - kill_after)
        else:
            world.run(200)
        return world.rated()

    whole = counted(None, 0.0)
    assert whole > 0
    for kill_after in (45.0, 73.0, 100.0, 138.0):
        for down_for in (0.0, 33.0):
            assert counted(kill_after, down_for) == whole, (kill_after, down_for)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_fails_every_outcome_counts_once(seed: int) -> None:
    """Kills, a Prometheus and an API server that go away: the quiet world counts the same."""
    chance = random.Random(seed)
    quiet, world = crowded(), crowded()
    for one in (quiet, world):
        one.ab_test(duration="1h", stopEarly=False, guardrails=[ERRORS])
        one.run(40)
    for _ in range(25):
        length = chance.uniform(3, 25)
        match chance.choice(["kill", "prometheus", "api", "nothing"]):
            case "kill":
                world.down_for = chance.choice([0.0, 20.0])
                world.kill()
            case "prometheus":
                world.prometheus_up = not world.prometheus_up
            case "api":
                world.api_up = not world.api_up
            case _:
                pass
        quiet.run(length)
        world.run(length)
        assert world.splits == quiet.splits
    world.prometheus_up = world.api_up = True
    for one in (quiet, world):
        one.run(60)
    assert world.abtest["phase"] == "Running", world.abtest["message"]
    assert world.rated() == quiet.rated()
