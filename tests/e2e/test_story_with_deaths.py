"""The same story while its parts are killed one after the other: it ends the same.

Requests that were at a part when it died may be lost or fail; nobody else's may, and no answer
may be wrong. A pod whose Triton comes back has the stable version first: until the canary is loaded
there too, its users meet the stable one again, so nothing is claimed of them here.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tidegate_contract import names
from tidegate_demo.story import Told
from tidegate_demo.world import World

Telling = tuple[World, Told]
Trouble = Callable[[World, int, Any], None]

DEATHS: dict[tuple[int, int], Callable[[World], None]] = {
    (2, 1): lambda world: world.operator.kill(),
    (2, 2): lambda world: world.prometheus.kill(),
    (2, 3): lambda world: world.pods[0].kill("triton"),
    (3, 1): lambda world: world.pods[0].kill("sidecar"),
}
"""By act and by the rollout's step: what dies once that step's clock runs."""


class Killer:
    """Kills each part once, when its moment has come."""

    def __init__(self) -> None:
        self.killed: list[tuple[int, int]] = []

    def look(self, world: World, act: int, status: Any) -> None:
        moment = (act, status.get("currentStep", 0))
        if moment in DEATHS and moment not in self.killed and status.get("clockRunningSince"):
            self.killed.append(moment)
            DEATHS[moment](world)


@pytest.fixture(scope="module")
def disturbed(
    tell: Callable[[Trouble], AbstractContextManager[Telling]],
) -> Iterator[tuple[World, Told, Killer]]:
    killer = Killer()
    with tell(killer.look) as (world, told):
        yield world, told, killer


def test_every_part_was_killed(disturbed: tuple[World, Told, Killer]) -> None:
    assert disturbed[2].killed == list(DEATHS)


@pytest.mark.parametrize(
    "claim",
    [
        "version 2 was promoted",
        "its share grew step by step, as planned",
        "version 3 was rolled back",
        "version 4 was refused before any weight",
        "each answer is what its version says",
        "version 1 is as accurate as trained",
        "version 2 is as accurate as trained",
    ],
)
def test_claim(disturbed: tuple[World, Told, Killer], claim: str) -> None:
    (check,) = [one for one in disturbed[1].checks if one.claim == claim]

    assert check.held, check.shown


def test_only_requests_at_the_killed_pod_failed(disturbed: tuple[World, Told, Killer]) -> None:
    world = disturbed[0]
    elsewhere = [
        answer
        for answer in world.ledger.failures()
        if answer.arm != names.ARM_CANARY and answer.pod != world.pods[0].ip
    ]

    assert elsewhere == []
    assert world.ledger.strangers == 0


def test_everything_is_alive_again(disturbed: tuple[World, Told, Killer]) -> None:
    world = disturbed[0]

    assert world.operator.alive
    assert world.prometheus.alive
    assert sorted(world.cluster.ready_addresses()) == sorted(pod.ip for pod in world.pods)
