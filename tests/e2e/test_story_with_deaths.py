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

pytestmark = pytest.mark.timeout(900)
"""The story has limits of its own, for each act; the first test waits for all of it."""
Telling = tuple[World, Told]
Trouble = Callable[[World, int, Any], None]

WARM = 3000
"""So many reports take users the first half minute of the test: from here on they count."""


def operator_and_sidecar(world: World) -> None:
    """What counts dies, and who adds it up."""
    world.operator.kill()
    world.pods[0].kill("sidecar")


DEATHS: dict[tuple[int, int], Callable[[World], None]] = {
    (2, 0): operator_and_sidecar,
    (3, 1): lambda world: world.operator.kill(),
    (3, 2): lambda world: world.prometheus.kill(),
    (3, 3): lambda world: world.pods[0].kill("triton"),
    (4, 1): lambda world: world.pods[0].kill("sidecar"),
}
"""By act and by the rollout's step, 0 in the test: what dies once the clock runs there."""


class Killer:
    """Kills each part once, when its moment has come."""

    def __init__(self) -> None:
        self.killed: list[tuple[int, int]] = []

    def look(self, world: World, act: int, status: Any) -> None:
        moment = (act, status.get("currentStep", 0))
        if moment not in DEATHS or moment in self.killed or not status.get("clockRunningSince"):
            return
        if moment[1] or len(world.ledger.reports) >= WARM:
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
        "version 2 won its test, which moved nothing",
        "the test measured what its users know",
        "version 2 was promoted",
        "its share grew step by step, as planned",
        "copies disagreed as often as the versions do",
        "that was a dry run, and decided nothing",
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
