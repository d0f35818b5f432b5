"""Short canary rollouts, and what is read off them."""

from itertools import pairwise
from typing import Any

from simulation import Simulation, two_versions

ERRORS = {"name": "errors", "errorRate": {"success": 0.01, "rollback": 0.05}}


def analysis(*metrics: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Looks every five seconds, from the first one on; by errors where nothing is given."""
    common = {"interval": "5s", "warmup": "0s", "minRequests": 20}
    return {**common, "metrics": list(metrics or [ERRORS]), **fields}


def steps(*percents: int, gates: tuple[int, ...] = (), duration: str = "20s") -> dict[str, Any]:
    """Explicit steps; ``gates``: the percents that wait for a person."""
    return {
        "steps": [
            {"percent": percent}
            | ({"duration": duration} if percent < 100 else {})
            | ({"gate": "Manual"} if percent in gates else {})
            for percent in percents
        ]
    }


def started(rate: float = 100.0, **spec: Any) -> Simulation:
    """A rollout of 20, 60 and 100 percent, as it begins."""
    world = two_versions(rate=rate)
    world.rollout(**{"analysis": analysis(), **steps(20, 60, 100), **spec})
    return world


def stepping(**spec: Any) -> Simulation:
    """The same with its first weight live and looked at."""
    world = started(**spec)
    world.run_to("Progressing")
    return world.run(11)


def weights(world: Simulation) -> list[int]:
    """The canary's shares in the tables that were written, repetitions left out."""
    shares = [
        sum(arm.weight for arm in table.split if arm.name == "canary") // 100
        for table in world.tables
    ]
    return [share for before, share in pairwise([0, *shares]) if share != before]


def where(world: Simulation, name: str = "rollout") -> tuple[str, str]:
    """Phase and reason."""
    status = world.status(name)
    return status["phase"], status["reason"]
