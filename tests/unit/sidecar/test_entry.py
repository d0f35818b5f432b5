"""The bounds of a queue: all that waits counts, for a batch or for its turn in a sequence."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tidegate_contract.table import BatchSettings, Level
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.refusal import Refusal

LEVELS = 3


def policy(**bounds: Any) -> BatchSettings:
    """Of three levels. ``low``: how many of the lowest may wait."""
    low = bounds.pop("low", None)
    levels = [Level(level=number, name=f"l{number}") for number in range(1, LEVELS)]
    levels.append(Level(level=LEVELS, name="low", max_queue=low))
    plain: dict[str, Any] = {
        "strategy": "Fixed",
        "max_wait": 0.0,
        "levels": tuple(levels),
        "default_level": 2,
    }
    return BatchSettings(**(plain | bounds))


def ask(make: Any, runtime: Any, level: int, sequence: int = 0, **more: Any) -> Any:
    parameters: dict[str, Any] = {"priority": level}
    if sequence:
        parameters |= {"sequence_id": sequence, "sequence_start": True}
    return make.submit(runtime, parameters=parameters, **more)


def one_of_a_sequence_at_the_model(make: Any, runtime: Any, sequence: int = 1) -> Batch:
    ask(make, runtime, 1, sequence)
    (batch,) = runtime.poll(0.0)
    return batch  # type: ignore[no-any-return]


@pytest.mark.parametrize("sequence", [0, 1])
def test_who_waits_for_its_turn_makes_room_for_a_higher_level(make: Any, sequence: int) -> None:
    table = make.table(batch=policy(queue_max_size=3, on_full="DropLowest"))
    runtime = make.runtime(table, make.version(instances=1))
    one_of_a_sequence_at_the_model(make, runtime)
    ask(make, runtime, 2)
    older, younger = (ask(make, runtime, 3, 1) for _ in range(2))
    with pytest.raises(Refusal):
        ask(make, runtime, 3, sequence)
    ask(make, runtime, 1, sequence)
    ((thrown_out, refusal),) = runtime.given_up(0.0)
    assert (thrown_out, refusal.status) == (younger, 503)
    assert (runtime.waiting, older in runtime.sequences.held) == (3, True)


@pytest.mark.parametrize("sequence", [0, 1])
def test_a_levels_own_bound_counts_who_waits_for_its_turn(make: Any, sequence: int) -> None:
    runtime = make.runtime(make.table(batch=policy(low=2)))
    one_of_a_sequence_at_the_model(make, runtime)
    for _ in range(2):
        ask(make, runtime, 3, 1)
    with pytest.raises(Refusal, match="maximum queue size of level 3"):
        ask(make, runtime, 3, sequence)
    ask(make, runtime, 2, sequence)


class Waiting(RuleBasedStateMachine):
    """A model whose requests come by themselves and in sequences, against a count of answers."""

    make: Any

    @initialize(
        size=st.integers(1, 6), low=st.none() | st.integers(1, 3), instances=st.integers(1, 2)
    )
    def start(self, size: int, low: int | None, instances: int) -> None:
        self.size, self.low = size, low
        self.runtime = self.make.runtime(None, self.make.version(instances=instances))
        self.flying: list[Batch] = []
        self.ends: Counter[Any] = Counter()
        self.asked: list[Any] = []
        self.now = 0.0
        self.change("Reject")

    @rule(on_full=st.sampled_from(["Reject", "DropLowest"]))
    def change(self, on_full: str) -> None:
        self.on_full = on_full
        batch = policy(queue_max_size=self.size, on_full=on_full, low=self.low)
        self.runtime.apply(self.make.table(batch=batch))

    @rule(level=st.integers(1, LEVELS), sequence=st.integers(0, 2), hurried=st.booleans())
    def arrive(self, level: int, sequence: int, hurried: bool) -> None:
        headers = {"tidegate-deadline-ms": "1500"} if hurried else {}
        full = self.runtime.waiting >= self.size
        lower = any(one.level > level for one in self.waiting())
        alike = sum(one.level == level for one in self.waiting())
        level_full = level == LEVELS and self.low is not None and alike >= self.low
        if level_full or (full and (self.on_full == "Reject" or not lower)):
            with pytest.raises(Refusal) as caught:
                ask(self.make, self.runtime, level, sequence, now=self.now, headers=headers)
            assert caught.value.status == 429
            return
        one = ask(self.make, self.runtime, level, sequence, now=self.now, headers=headers)
        self.asked.append(one)

    @rule(by=st.sampled_from([0.0, 1.0]))
    def poll(self, by: float) -> None:
        self.now += by
        self.flying += self.runtime.poll(self.now)
        self.give_up()

    def give_up(self) -> None:
        self.ends.update(one for one, _ in self.runtime.given_up(self.now))

    @precondition(lambda self: self.flying)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        self.ends.update(one for one in batch.members if not one.cancelled)
        body, length = self.make.reply(batch.rows)
        self.runtime.finish(batch, self.runtime.complete(batch, 200, length, body), self.now)

    @precondition(lambda self: self.waiting())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting()))
        self.runtime.cancel(one, self.now)
        self.ends[one] += 1

    def waiting(self) -> list[Any]:
        """Those in the queue, and those who wait for their turn."""
        return [*self.runtime._batcher.scheduler.queued(), *self.runtime.sequences.held]

    @invariant()
    def bounds_hold(self) -> None:
        if not hasattr(self, "asked"):
            return
        waiting = self.waiting()
        assert len(waiting) == self.runtime.waiting <= self.size
        assert self.low is None or sum(one.level == LEVELS for one in waiting) <= self.low
        tallies = self.runtime.counters.tallies.values()
        assert sum(tally.waiting for tally in tallies) == len(waiting)
        assert all(tally.waiting >= 0 for tally in tallies)

    def teardown(self) -> None:
        """Everybody gets one answer."""
        if not hasattr(self, "asked"):
            return
        self.give_up()
        while self.flying or self.runtime.waiting:
            self.flying += self.runtime.poll(self.now)
            self.give_up()
            while self.flying:
                batch = self.flying.pop()
                self.ends.update(one for one in batch.members if not one.cancelled)
                body, length = self.make.reply(batch.rows)
                results = self.runtime.complete(batch, 200, length, body)
                self.runtime.finish(batch, results, self.now)
        assert self.ends == Counter(self.asked)


def test_no_more_wait_than_may_and_everybody_gets_one_answer(make: Any) -> None:
    class Here(Waiting):
        pass

    Here.make = make
    often = settings(max_examples=60, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Here, settings=often)
