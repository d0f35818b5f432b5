"""Of what one look finds, the first counts: abort, Fail, deadline, suspension, missing evidence,
gate, time. Every one of these against the next.
"""

import functools
from collections.abc import Callable

import pytest
from canaries import ERRORS, analysis, started, steps, where
from simulation import Simulation, failing

Cause = Callable[[Simulation], None]


def abort(world: Simulation) -> None:
    world.say("abort", "a person")


def fail(world: Simulation) -> None:
    world.behaviour = failing(2, 1.0)


def deadline(world: Simulation) -> None:
    world.edit(progressDeadline="1s")


def suspend(world: Simulation) -> None:
    world.edit(suspend=True)


def no_data(world: Simulation) -> None:
    world.by_name["triton-1"].scraped = False


def gate(world: Simulation) -> None:
    world.edit(**steps(20, 60, 100, gates=(60,)))


def time(world: Simulation) -> None:
    """The step's time is over anyway."""


ORDER: list[tuple[Cause, tuple[str, str]]] = [
    (abort, ("RolledBack", "Aborted")),
    (fail, ("RolledBack", "AnalysisFailed")),
    (deadline, ("Holding", "DeadlineExceeded")),
    (suspend, ("Holding", "Suspended")),
    (no_data, ("Holding", "NoData")),
    (gate, ("WaitingPromotion", "AwaitingPromotion")),
    (time, ("Progressing", "Analysing")),
]
PAIRS = [
    pytest.param(first, then, found, id=f"{first.__name__}-{then.__name__}")
    for i, (first, found) in enumerate(ORDER)
    for then, _ in ORDER[i + 1 :]
]


@functools.cache
def passes_at() -> float:
    """When the first step passes where nothing comes between."""
    return begun().run(60, lambda w: w.weight == 60).now


def begun() -> Simulation:
    world = started(analysis=analysis(ERRORS))
    world.run_to("Progressing")
    return world


@pytest.mark.parametrize(("first", "then", "found"), PAIRS)
def test_the_first_counts(first: Cause, then: Cause, found: tuple[str, str]) -> None:
    """Both are true at the look that would pass the step; what is not scraped is missed
    later, and what fails has to be scraped first.
    """
    world = begun()
    others = {abort, deadline, suspend, gate, time}
    for lead, causes in [(13, {no_data}), (6, {fail}), (3, others)]:
        world.run(passes_at() - lead - world.now)
        for cause in (first, then):
            if cause in causes:
                cause(world)
    assert world.status()["phase"] == "Progressing"
    world.run(4)
    assert where(world) == found
    assert world.weight == (0 if first in {abort, fail} else 60 if first is time else 20)
