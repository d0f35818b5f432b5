"""A fault that begins late in a long step, and evidence of another operator's making."""

import re

from canaries import analysis, stepping, steps
from simulation import Simulation, failing

LONG = steps(20, 100, duration="3h")


def rolled_back(world: Simulation) -> float:
    """Goes back; the share of bad requests that its message names."""
    message = world.run_to("RolledBack", within=60)["message"]
    found = re.search(r"errors: (\d+) of (\d+) canary requests failed", message)
    assert found is not None, message
    return int(found[1]) / int(found[2])


def test_good_requests_before_it_do_not_hide_a_fault_nor_its_rate() -> None:
    world = stepping(rate=500.0, **LONG)
    world.run(600)
    assert world.status()["stepRequests"]["canary"] > 40_000
    world.behaviour = failing(2, 0.3)
    assert rolled_back(world) > 0.15


def test_disagreement_that_begins_late_is_not_hidden_either() -> None:
    beyond = {"name": "agreement", "disagreement": {"max": 0.02, "baseline": True}}
    world = stepping(rate=500.0, mirrorPercent=50, analysis=analysis(beyond), **LONG)
    world.disagreeing = (0.03, 0.03)
    world.run(600)
    world.kill()
    world.run(20)
    assert world.status()["phase"] == "Progressing"
    world.disagreeing = (0.4, 0.03)
    message = world.run_to("RolledBack", within=60)["message"]
    found = re.search(r"agreement: .* otherwise than by stable \((\d+)", message)
    assert found is not None, message
    assert int(found[1]) > 15


def test_it_is_found_at_the_same_speed_after_a_kill() -> None:
    world = stepping(rate=500.0, **LONG)
    world.run(600)
    world.kill()
    world.run(20)
    world.behaviour = failing(2, 0.3)
    assert rolled_back(world) > 0.15


def test_a_checkpoint_of_an_operator_that_knew_tallies_only_is_gone_on_with() -> None:
    world = stepping(**LONG)
    world.run(130)
    world.operators.clear()
    raw = world.objects["CanaryRollout", "rollout"]
    status = raw["status"]
    checkpoint = {k: v for k, v in status["checkpoint"].items() if k != "shares"}
    world.store("CanaryRollout", raw, {**status, "checkpoint": checkpoint})
    world.run(30)
    assert world.status()["phase"] == "Progressing"
    world.run(60)
    harm = world.status()["checkpoint"]["harm"]
    assert sum(one["requests"] for one in next(iter(harm.values()))) > 3_000
    assert world.status()["checkpoint"]["shares"]
    world.behaviour = failing(2, 0.5)
    rolled_back(world)
