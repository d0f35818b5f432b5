"""The operator is killed before every single write of whole rollouts: the history stays right.

Whatever the gap between two writes, no step is skipped, doubled or shortened, no rollback is
undone, and no word of a person is acted on twice; what comes after the kill is judged against the
same rollout without one.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytest
from canaries import analysis, steps, where
from simulation import Simulation, failing, two_versions

from tidegate_operator.api.canaryrollout import FINISHED

PLAN: dict[str, Any] = {**steps(20, 60, 100, duration="10s"), "analysis": analysis()}
DURATION = 10.0
Act = tuple[Callable[[Simulation], bool], Callable[[Simulation], None]]
"""What somebody does, once, when something is so."""


class Story:
    """A rollout with what happens to it on the way: the same however often the operator is killed,
    as it depends on what was written and not on who wrote it.
    """

    def __init__(self, name: str, *acts: Act, **spec: Any) -> None:
        self.name = name
        self.acts = acts
        self.spec = {**PLAN, **spec}

    def begin(self, **settings: Any) -> Simulation:
        world = two_versions(**settings)
        world.version(3)
        world.run(5)
        world.rollout(**self.spec)
        return world

    def finish(self, world: Simulation) -> Simulation:
        waiting = list(self.acts)
        for _ in range(1800):
            if waiting and waiting[0][0](world):
                waiting.pop(0)[1](world)
            world.tick()
            if not waiting and world.status().get("phase") in FINISHED:
                break
        assert not waiting
        return world.run(50)


def phase(*names: str, weight: int | None = None) -> Callable[[Simulation], bool]:
    return lambda world: (
        world.status().get("phase") in names
        and (weight is None or world.status()["weight"] == weight)
    )


def says(word: str, value: str) -> Callable[[Simulation], None]:
    return lambda world: world.say(word, value)


def behaves(share: float) -> Callable[[Simulation], None]:
    def act(world: Simulation) -> None:
        world.behaviour = failing(2, share)

    return act


def edits(**fields: Any) -> Callable[[Simulation], None]:
    return lambda world: world.edit(**fields)


GATES = steps(20, 60, 100, gates=(20, 60, 100), duration="10s")
AWAITS = phase("WaitingPromotion")
STORIES = [
    Story("good"),
    Story("bad", (phase("Progressing", weight=60), behaves(0.9))),
    Story("bad_at_once", (phase("Gating"), behaves(0.9))),
    Story("refused", canary=3),
    Story(
        "gates",
        (phase("WaitingPromotion", weight=0), says("promote", "step@0")),
        (phase("WaitingPromotion", weight=20), says("promote", "step@1")),
        (phase("WaitingPromotion", weight=60), says("promote", "step@2")),
        **GATES,
    ),
    Story(
        "full",
        (AWAITS, says("promote", "full")),
        **steps(20, 60, 100, gates=(60, 100), duration="10s"),
    ),
    Story("aborted", (phase("Progressing", weight=60), says("abort", "no"))),
    Story(
        "retried",
        (phase("Progressing", weight=60), behaves(0.9)),
        (phase("RolledBack"), behaves(0.0)),
        (phase("RolledBack"), says("retry", "mended")),
        (phase("Progressing", weight=20), lambda _world: None),
    ),
    Story(
        "suspended",
        (phase("Progressing", weight=20), edits(suspend=True)),
        (phase("Holding"), lambda world: world.edit(suspend=False)),
    ),
    Story(
        "shadow",
        steps=None,
        maxPercent=0,
        mirrorPercent=50,
        stepDuration="10s",
        analysis=analysis({"name": "agreement", "disagreement": {"max": 0.02}}),
    ),
    Story(
        "fast_return",
        (phase("Succeeded"), lambda world: world.rollout("back", canary=1)),
        (lambda world: world.status("back").get("phase") == "Succeeded", lambda _world: None),
    ),
    Story("all_watched", (AWAITS, says("promote", "step")), autoPromote=False),
]


def refuses(story: Story, world: Simulation) -> Simulation:
    if story.name == "refused":
        world.tensors[3] = []
    return world


def taken(world: Simulation) -> list[tuple[str, int]]:
    """The history as phases and weights.

    Left out: holds, as a killed operator sees less and may hold for it; and the way back, which is
    over at once where only the table's latch was written before the kill.
    """
    entries = [(to, weight) for _, to, weight in world.history()]
    kept = [one for one in entries if one[0] not in {"Holding", "RollingBack"}]
    return [one for one, before in zip(kept, [None, *kept], strict=False) if one != before]


@functools.cache
def unkilled(story: Story) -> Simulation:
    return story.finish(refuses(story, story.begin()))


def kills(story: Story) -> range:
    """All writes from the rollout's first one on."""
    return range(len(story.begin().writes), len(unkilled(story).writes))


CASES = [
    pytest.param(story, write, down_for, id=f"{story.name}-{write}-{down_for:g}")
    for story in STORIES
    for write in kills(story)
    for down_for in ((0.0, 20.0) if story.name in {"good", "bad"} else (20.0 * (write % 2),))
]


@pytest.mark.parametrize(("story", "write", "down_for"), CASES)
def test_killed_before_a_write(story: Story, write: int, down_for: float) -> None:
    world = refuses(story, story.begin(kill_at_write=write, down_for=down_for))
    story.finish(world)
    assert world.kill_at_write is None, "it was killed"
    as_unkilled(story, world)
    if world.status()["phase"] == "Succeeded" and story.name in {"good", "gates", "suspended"}:
        assert all(world.attended[percent] >= DURATION for percent in (20, 60))


def as_unkilled(story: Story, world: Simulation) -> None:
    expected = unkilled(story)
    assert taken(world) == taken(expected)
    assert where(world)[0] == where(expected)[0]
    assert world.status()["attempt"] == expected.status()["attempt"]
    assert world.said() == {}
    assert "lastVerb" not in world.status()
    assert [arm.version for arm in world.table.split] == [
        arm.version for arm in expected.table.split
    ]
    assert world.table.baseline == expected.table.baseline
    revisions = [table.revision for table in world.tables]
    assert revisions == sorted(set(revisions))
    shares = [table.split[-1].weight for table in world.tables if table.split[-1].name == "canary"]
    if story.name != "retried":
        assert shares == sorted(shares), "a weight that was left is not given again"


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_killed_before_every_third_write(story: Story) -> None:
    world = refuses(story, story.begin())

    def again(_what: str) -> None:
        world.kill_at_write = world.kill_at_write or len(world.writes) + 3

    world.before_write = again
    as_unkilled(story, story.finish(world))


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_no_event_is_told_twice_after_kills_at_rest(story: Story) -> None:
    world = story.finish(refuses(story, story.begin()))
    told = list(world.events)
    writes = len(world.writes)
    for _ in range(3):
        world.kill()
        world.run(40)
    assert world.events == told
    assert world.writes[writes:] == []


@pytest.mark.parametrize("down_for", [0.0, 20.0])
@pytest.mark.parametrize("write", range(6))
def test_an_abort_killed_on_its_way_is_an_abort_and_no_word_in_vain(
    write: int, down_for: float
) -> None:
    story = next(one for one in STORIES if one.name == "aborted")
    world = story.begin()
    world.run(200, phase("Progressing", weight=60))
    world.run(3)
    world.down_for = down_for
    world.kill_at_write = len(world.writes) + write
    world.say("abort", "no")
    world.run(120)
    assert where(world) == ("RolledBack", "Aborted")
    assert "VerbIgnored" not in world.reasons()
    assert world.said() == {}


def restarts(world: Simulation) -> None:
    world.by_name["triton-0"].restarts = 2


def unheard(world: Simulation) -> None:
    for pod in world.by_name.values():
        pod.scraped = False


def unreadable(world: Simulation) -> None:
    world.prometheus_up = False


@pytest.mark.parametrize(
    ("act", "analysed", "reason"),
    [
        (behaves(0.9), {}, "AnalysisFailed"),
        (restarts, {}, "TritonRestarts"),
        (unheard, {"onNoData": "Rollback"}, "NoData"),
        (unreadable, {"onError": "Rollback"}, "Error"),
        (edits(progressDeadline="1s", onDeadline="Rollback"), {}, "DeadlineExceeded"),
        (says("abort", "no"), {}, "Aborted"),
    ],
)
def test_a_way_back_that_only_the_table_knows_of_keeps_its_reason(
    act: Callable[[Simulation], None], analysed: dict[str, str], reason: str
) -> None:
    world = two_versions()
    spec = {**steps(20, 60, 100, duration="10m"), "analysis": analysis(**analysed)}
    world.rollout(**spec)
    world.run_to("Progressing")
    world.run(11)

    def kill(what: str) -> None:
        if what == "table":
            world.before_write = lambda _what: None
            world.kill_at_write = len(world.writes) + 1

    world.before_write = kill
    act(world)
    world.run(120, lambda it: it.table.latch is not None)
    assert world.status()["phase"] == "Progressing"
    assert world.kill_at_write is None, "it was killed"
    world.run_to("RolledBack", within=120)
    assert where(world) == ("RolledBack", reason)
