"""Every field of a policy, changed while requests wait: what it does is seen from then on.

Nothing is restarted, and whoever was let in is answered.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tidegate_contract.table import LEVELS, BatchSettings, Deduplication, Level
from tidegate_sidecar.core import report
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.runtime import ModelRuntime

TWO = (Level(level=1, name="people"), Level(level=2, name="jobs"))


class World:
    """A model in a pod, under a policy that can be changed."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.runtime = make.runtime(None, make.version())
        self.policy = BatchSettings(strategy="Fixed", max_wait=0.0)
        self._revision = 1
        self._asked: list[Any] = []
        self._flying: list[Any] = []

    def apply(self, **changes: Any) -> None:
        """Change the policy as one edit of it would."""
        given = {name: getattr(self.policy, name) for name in self.policy.__struct_fields__}
        self.policy = BatchSettings(**(given | changes))
        self._revision += 1
        self.runtime.apply(self.make.table(revision=self._revision, batch=self.policy))

    def serve(self, **version: Any) -> None:
        """Have another version in place of the one that is there."""
        self.runtime.version_ready(self.make.version(**version))

    def ask(self, now: float = 0.0, level: int | None = None, **fields: Any) -> Any:
        """Let one request in."""
        if level:
            fields["parameters"] = {"priority": level}
        self._asked.append(self.make.submit(self.runtime, now, **fields))
        return self._asked[-1]

    def refused(self, now: float = 0.0, level: int | None = None, **fields: Any) -> int:
        """The status of the refusal that a request gets."""
        with pytest.raises(Refusal) as caught:
            self.ask(now, level, **fields)
        return int(caught.value.status)

    def sent(self, now: float = 0.0) -> list[int]:
        """The sizes of the batches that go now."""
        batches = self.runtime.poll(now)
        self._flying += batches
        for batch in batches:
            self.runtime.encode(batch)
        return [batch.rows for batch in batches]

    def answer(self, now: float = 0.0) -> None:
        """Answer all that is in flight."""
        flying, self._flying = self._flying, []
        for batch in flying:
            results = self.runtime.complete(batch, 200, *reversed(self.make.reply(batch.rows)))
            self.runtime.finish(batch, results, now)
        self.runtime.handed_out()

    def learn(self, fixed: float, per_row: float, now: float = 0.0) -> float:
        """Have batches of one and of four rows finish, a second apart; returns the time."""
        for i in range(48):
            for _ in range(1 + 3 * (i % 2)):
                self.ask(now)
            (rows,) = self.sent(now)
            self.answer(now + fixed + per_row * rows)
            now += 1.0
        return now

    def outcomes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for tally in self.runtime.counters.tallies.values():
            for outcome, count in tally.outcomes.items():
                found[outcome] = found.get(outcome, 0) + count
        return found

    def end(self, now: float = 1e6) -> None:
        """Everybody who was let in is answered."""
        self.apply(strategy="Fixed", max_wait=0.0)
        self.answer(now)
        while self.sent(now):
            self.answer(now)
        assert self.outcomes().get("ok", 0) == len(self._asked)


@pytest.fixture
def world(make: Any) -> Iterator[World]:
    made = World(make)
    made.apply(deadline=None, early_drop=False)
    yield made
    made.end()


def test_strategy(world: World) -> None:
    world.apply(max_wait=9.0)
    world.ask()
    assert world.sent() == []
    world.apply(strategy="Adaptive")
    assert world.sent() == [1]


def test_min_batch_size(world: World) -> None:
    world.apply(strategy="Adaptive", max_wait=9.0, min_batch_size=3)
    world.ask()
    world.ask()
    assert world.sent() == []
    world.apply(min_batch_size=2)
    assert world.sent() == [2]


def test_max_batch_size(world: World) -> None:
    world.apply(max_batch_size=2)
    for _ in range(6):
        world.ask()
    assert world.sent() == [2]
    world.answer()
    world.apply(max_batch_size=3)
    assert world.sent() == [3]


def test_max_wait(world: World) -> None:
    world.apply(max_wait=9.0)
    world.ask()
    assert world.sent(1.0) == []
    world.apply(max_wait=0.5)
    assert world.sent(1.0) == [1]


def test_target_latency(world: World) -> None:
    now = world.learn(0.01, 0.01)
    world.apply(strategy="Adaptive", target_latency=1.0)
    for _ in range(16):
        world.ask(now)
    assert world.sent(now) == [8]
    world.answer(now + 0.09)
    world.apply(target_latency=0.1)
    (rows,) = world.sent(now + 0.09)
    assert 2 <= rows <= 4  # two of these follow each other within it


def test_optimize(world: World) -> None:
    world.serve(max_batch_size=64, instances=2)
    now = world.learn(0.1, 0.1)
    for _ in range(40):
        now += 0.05
        world.ask(now)
    assert world.sent(now) == [40]
    world.apply(strategy="Adaptive", max_wait=9.0, optimize="Throughput")
    world.ask(now)
    assert world.sent(now) == []  # the next one is due before one batch is saved
    world.apply(optimize="Latency")
    assert world.sent(now) == [1]  # it would be answered later


def test_hardware(world: World) -> None:
    world.runtime = ModelRuntime("m", "pod-1", cores=1)
    world.apply(max_batch_size=1, hardware="CPU")
    world.serve(instances=3)
    for _ in range(3):
        world.ask()
    assert world.sent() == [1]
    world.apply(hardware="GPU")
    assert world.sent() == [1, 1]


def test_memory_limit(world: World) -> None:
    for _ in range(8):
        world.ask()
    world.apply(memory_limit=3 * 16)  # a row is two floats in, two out
    assert world.sent() == [3]
    world.answer()
    world.apply(memory_limit=None)
    assert world.sent() == [5]


def test_queue_max_size(world: World) -> None:
    world.apply(queue_max_size=1)
    world.ask()
    assert world.refused() == 429
    world.apply(queue_max_size=2)
    world.ask()
    assert world.refused() == 429


def test_on_full(world: World) -> None:
    world.apply(queue_max_size=1)
    lower = world.ask(level=5)
    assert world.refused(level=1) == 429
    world.apply(on_full="DropLowest")
    world.ask(level=1)
    assert [one for one, _ in world.runtime.given_up(0.0)] == [lower]
    world._asked.remove(lower)


def test_default_level(world: World) -> None:
    assert world.ask().level == 3
    world.apply(default_level=1)
    assert world.ask().level == 1


def test_aging_after(world: World) -> None:
    ages(world, {"aging_after": 99.0}, {"aging_after": 1.0})


def test_aging_reserve(world: World) -> None:
    ages(world, {"aging_reserve": 0.0}, {"aging_reserve": 0.5})


def ages(world: World, before: dict[str, float], after: dict[str, float]) -> None:
    """A low request goes beside a flood of high ones only under what comes after."""
    world.apply(**{"aging_after": 1.0, "aging_reserve": 0.5, "max_batch_size": 1} | before)
    aged = world.ask(level=5)
    for changes, times in (({}, (10.0, 11.0, 12.0)), (after, (20.0, 21.0, 22.0))):
        world.apply(**changes)
        for now in times:
            world.ask(now, level=1)
            world.sent(now)
            world.answer(now)
        assert aged.waits == (not changes)


def test_levels(world: World) -> None:
    world.apply(levels=TWO, default_level=2)
    assert world.ask(level=4).level == 2
    world.apply(levels=LEVELS)
    assert world.ask(level=4).level == 4


def test_name(world: World) -> None:
    world.ask(level=2)
    world.sent()
    for batch in world._flying:
        batch.written_at = 0.1
    world.answer(0.2)
    for levels, name in ((LEVELS, "high"), (TWO, "jobs")):
        world.apply(levels=levels, default_level=2)
        profile = world.runtime.describe(0.2)
        (row,) = profile["requests"]
        assert (row["level"], row["name"]) == (2, name)
        assert f"level 2 ({name})" in report.render({"models": {"m": profile}})


def test_wait_multiplier(world: World) -> None:
    world.apply(levels=(replace_level(wait_multiplier=4.0),), default_level=1, max_wait=1.0)
    world.ask()
    assert world.sent(3.0) == []
    world.apply(levels=(replace_level(wait_multiplier=2.0),))
    assert world.sent(3.0) == [1]


def replace_level(**fields: Any) -> Level:
    return Level(level=1, name="only", **fields)


def test_max_queue(world: World) -> None:
    world.apply(levels=(replace_level(max_queue=1),), default_level=1)
    world.ask()
    assert world.refused() == 429
    world.apply(levels=(replace_level(max_queue=2),))
    world.ask()


def test_max_slice(world: World) -> None:
    now = world.learn(0.01, 0.01)
    world.apply(default_level=2, levels=(TWO[0], Level(level=2, name="jobs", max_slice=0.03)))
    world.ask(now, level=1)
    world.ask(now, level=2, rows=8)
    assert world.sent(now) == [1]
    world.answer(now + 0.02)
    assert world.sent(now + 0.02) == [2]
    world.apply(levels=TWO)
    world.answer(now + 0.05)
    assert world.sent(now + 0.05) == [6]


def test_deadline(world: World) -> None:
    world.apply(deadline=5.0)
    assert world.ask().answer_by == 5.0
    world.apply(deadline=7.0)
    assert world.ask().answer_by == 7.0
    world.answer(1.0)
    world.sent(1.0)
    world.answer(1.0)


def test_early_drop(world: World) -> None:
    now = world.learn(1.0, 0.0)
    hurried = {"tidegate-deadline-ms": "500"}
    world.apply(early_drop=True)
    assert world.refused(now, headers=hurried) == 504
    world.apply(early_drop=False)
    world.ask(now, headers=hurried)
    world.sent(now)
    world.answer(now)


def test_deduplication(world: World) -> None:
    world.ask()
    world.ask()
    assert world.sent() == [2]
    world.answer()
    world.apply(deduplication=Deduplication(ttl=0.0))
    world.ask()
    world.ask()
    assert world.sent() == [1]
    world.answer()
    world.apply(deduplication=None)
    world.ask()
    world.ask()
    assert world.sent() == [2]


def test_ttl(world: World) -> None:
    world.apply(deduplication=Deduplication(ttl=0.0))
    for ttl, sizes in ((9.0, [1]), (9.0, [])):
        world.apply(deduplication=Deduplication(ttl=ttl))
        world.ask(1.0)
        assert world.sent(1.0) == sizes
        world.answer(1.0)
    world.ask(11.0)
    assert world.sent(11.0) == [1]


def test_max_entries(world: World) -> None:
    gives_up(world, max_entries=1)


def test_max_bytes(world: World) -> None:
    gives_up(world, max_bytes=1500)


def gives_up(world: World, **bounds: int) -> None:
    """Of two answers that are kept the one that was not used for longer goes."""
    world.apply(deduplication=Deduplication(ttl=9.0))
    for number in (1, 2):
        world.ask(parameters={"number": number})
        world.sent()
        world.answer()
    world.apply(deduplication=Deduplication(ttl=9.0, **bounds))
    for number, sizes in ((2, []), (1, [1])):
        world.ask(parameters={"number": number})
        assert world.sent() == sizes
        world.answer()


def test_every_field_is_changed_above() -> None:
    kinds = (BatchSettings, Level, Deduplication)
    fields = {name for kind in kinds for name in kind.__struct_fields__} - {"level"}
    assert {name for name in fields if f"test_{name}" not in globals()} == set()
