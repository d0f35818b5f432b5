"""Sequences: one version from start to end, one request of them at a time, in their order."""

from typing import Any

import pytest

from tidegate_contract.table import BatchSettings, ErrorCheck
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Call
from tidegate_sidecar.core.sequences import Pin, Sequences, Step, step_of
from tidegate_sidecar.core.version import SEQUENCE_IDLE

LATER = SEQUENCE_IDLE - 1


def start(id_: int | str = 7) -> Step:
    return Step(id_, starts=True, ends=False)


def more(id_: int | str = 7) -> Step:
    return Step(id_, starts=False, ends=False)


def end(id_: int | str = 7) -> Step:
    return Step(id_, starts=False, ends=True)


PIN = Pin(2, "canary", idle=10.0)


@pytest.mark.parametrize(
    ("parameters", "step"),
    [
        (b'{"sequence_id":7,"sequence_start":true}', start()),
        (b'{"sequence_id":"7","other":1}', more("7")),
        (b'{"sequence_id":7,"sequence_end":true,"sequence_start":false}', end()),
    ],
)
def test_steps_are_read(parameters: bytes, step: Step) -> None:
    assert step_of(Call((), parameters=parameters)) == step


def test_a_pin_holds_until_its_end() -> None:
    found = Sequences()
    assert found.find(more(), 0.0) is None
    found.pin(start(), PIN, 0.0)
    assert found.find(more(), 1.0) == PIN
    assert found.find(more("7"), 1.0) is None
    assert found.find(start(), 1.0) is None
    assert found.holds(2, 1.0)
    assert not found.holds(1, 1.0)
    found.pin(end(), PIN, 1.0)
    assert found.find(more(), 1.0) is None
    assert not found.holds(2, 1.0)
    assert len(found) == 0


def test_a_pin_ends_when_nothing_comes() -> None:
    found = Sequences()
    found.pin(start(), PIN, 0.0)
    found.pin(more(), PIN, 9.0)
    assert found.find(more(), 18.9) == PIN
    assert found.find(more(), 19.0) is None
    assert not found.holds(2, 19.0)


def test_the_number_is_bounded() -> None:
    found = Sequences(most=3)
    for id_ in range(3):
        found.pin(start(id_), PIN, float(id_))
    for now in (3.0, 9.9):
        with pytest.raises(Refusal, match="sequence_id") as caught:
            found.pin(start(3), PIN, now)
        assert caught.value.status == 503
    found.pin(start(1), PIN, 9.9)
    found.pin(start(3), PIN, 10.0)
    with pytest.raises(Refusal):
        found.pin(start(4), PIN, 11.9)
    found.pin(end(1), PIN, 11.9)
    found.pin(start(4), PIN, 11.9)
    assert len(found) == 3


def test_who_waits_for_its_turn_keeps_its_line_though_room_is_made(make: Any) -> None:
    found = Sequences(most=1)
    first, second = (make.submit(make.runtime()) for _ in range(2))
    assert found.enter(end(), first, 0.0)
    assert not found.enter(end(), second, 0.0)
    found.over(first, 1.0)
    with pytest.raises(Refusal):
        found.pin(start(8), PIN, 1.0)
    assert not found.enter(end(), first, 1.0)
    assert found.turns() == [second]


class World:
    """A model of two versions, and what becomes of requests of sequences."""

    def __init__(self, make: Any, **settings: Any) -> None:
        self.make = make
        self.settings = BatchSettings(strategy="Fixed", max_wait=0.0, **settings)
        versions = make.version(1, instances=4), make.version(2, instances=4)
        self.runtime = make.runtime(self.table(("stable", 1, 10_000), ("canary", 2, 0)), *versions)

    def table(self, *split: Any, **more: Any) -> Any:
        checks = [ErrorCheck(id="errors", arms=["stable", "canary"])]
        return self.make.table(*split, checks=checks, batch=self.settings, **more)

    def split(self, *split: Any, **more: Any) -> None:
        self.runtime.apply(self.table(*split, revision=2, **more))

    def ask(self, now: float = 0.0, id_: int | str = 7, **fields: Any) -> Any:
        flags = {name: fields.pop(name) for name in ("start", "end") if name in fields}
        parameters = {"sequence_id": id_} | {f"sequence_{one}": on for one, on in flags.items()}
        return self.make.submit(self.runtime, now, parameters=parameters, **fields)

    def sent(self, now: float = 0.0) -> list[Any]:
        """The batches that go now."""
        batches = self.runtime.poll(now)
        assert all(len(batch.members) == 1 for batch in batches)
        return list(batches)

    def answer(self, batch: Any, now: float = 0.0, status: int = 200) -> None:
        body, length = self.make.reply(batch.rows)
        if status != 200:
            body, length = b'{"error":"why"}', None
        results = self.runtime.complete(batch, status, length, body)
        self.runtime.finish(batch, results, now)

    def serve(self, now: float = 0.0, status: int = 200) -> Any:
        """Send and answer the only request that may go."""
        (batch,) = self.sent(now)
        self.answer(batch, now, status)
        return batch.members[0]


@pytest.fixture
def world(make: Any) -> World:
    return World(make)


def test_a_sequence_stays_where_it_started(world: World) -> None:
    assert world.ask(start=True).version == 1
    world.serve()
    world.split(("stable", 1, 0), ("canary", 2, 10_000))
    assert world.ask(id_=8, start=True).version == 2
    world.serve()
    for _ in range(3):
        one = world.ask()
        assert (one.version, one.arm, one.evidence) == (1, "stable", True)
        assert world.serve() is one
    assert world.ask(end=True).version == 1
    world.serve()
    assert world.ask(start=True).version == 2


def test_all_of_a_sequence_counts_while_its_arm_is_one(world: World) -> None:
    for flags in ({"start": True}, {}, {"end": True}):
        world.ask(**flags)
        world.serve(status=500)
    bad = {series[1:3]: one.bad for series, one in world.runtime.counters.checks.items() if one.bad}
    assert bad == {("stable", 1): 3}
    world.ask(start=True)
    world.serve()
    world.split(("canary", 2, 10_000), loaded=[1])
    one = world.ask()
    assert (one.version, one.arm, one.evidence, one.checks) == (1, "stable", False, ())


@pytest.mark.parametrize("named", [None, 2])
def test_what_continues_nothing_is_tritons_to_judge(world: World, named: int | None) -> None:
    one = world.ask(version=named)
    assert (one.version, one.evidence) == (named or 1, False)
    world.serve(status=400)
    assert not world.runtime.in_use(one.version, 0.0)


def test_a_start_may_name_its_version(world: World) -> None:
    assert world.ask(version=2, start=True).arm == "direct"
    world.serve()
    assert (world.ask().version, world.runtime.direct_at) == (2, {2: 0.0})


def test_one_of_a_sequence_goes_at_a_time_in_order(world: World) -> None:
    asked = [world.ask(start=True), *(world.ask() for _ in range(3)), world.ask(end=True)]
    other = world.ask(id_=8, start=True)
    assert world.runtime.waiting == 6
    first, beside = world.sent()
    assert (first.members, beside.members) == ([asked[0]], [other])
    assert not world.sent()
    served = []
    while first:
        served += first.members
        world.answer(first)
        first = next(iter(world.sent()), None)
    assert served == asked
    assert not world.runtime.sequences.held


def test_a_higher_priority_overtakes_nothing_of_its_own_sequence(world: World) -> None:
    first = world.ask(start=True, headers={"tidegate-priority": "5"})
    second = world.ask(headers={"tidegate-priority": "1"})
    assert [world.serve(), world.serve()] == [first, second]


def test_who_goes_while_it_waits_for_its_turn_is_forgotten(world: World) -> None:
    world.ask(start=True)
    (batch,) = world.sent()
    gone, stays = world.ask(), world.ask()
    world.runtime.cancel(gone, 0.0)
    assert world.runtime.waiting == 1
    world.answer(batch)
    assert world.serve() is stays


@pytest.mark.parametrize("sent", [True, False])
def test_who_goes_lets_the_next_have_its_turn(world: World, sent: bool) -> None:
    gone = world.ask(start=True)
    after = world.ask()
    batches = world.sent() if sent else []
    world.runtime.cancel(gone, 0.0)
    for batch in batches:
        assert not world.sent()
        world.answer(batch)
    assert world.serve() is after


@pytest.mark.parametrize("how", ["cancelled", "late", "thrown out"])
def test_nothing_is_kept_of_who_left_the_queue(make: Any, how: str) -> None:
    world = World(make, queue_max_size=1, on_full="DropLowest")
    one = world.ask(start=True, headers={"tidegate-priority": "5", "tidegate-deadline-ms": "1000"})
    if how == "cancelled":
        world.runtime.cancel(one, 0.0)
    elif how == "late":
        assert not world.sent(1.0)
        assert [late for late, _ in world.runtime.given_up(1.0)] == [one]
    else:
        world.ask(id_=8, start=True)
        assert [out for out, _ in world.runtime.given_up(0.0)] == [one]
    assert one not in world.runtime.sequences.going


def test_who_was_late_lets_the_next_have_its_turn_at_once(world: World) -> None:
    world.ask(start=True, headers={"tidegate-deadline-ms": "1000"})
    after = world.ask()
    assert not world.sent(1.0)
    assert len(world.runtime.given_up(1.0)) == 1
    assert world.runtime.next_wake() == 0.0
    assert world.serve(1.0) is after


def test_who_is_refused_at_his_turn_lets_the_next_have_it_at_once(world: World) -> None:
    world.ask(start=True)
    (batch,) = world.sent()
    world.ask(headers={"tidegate-deadline-ms": "1000"})
    after = world.ask()
    world.answer(batch, 1.0)
    assert not world.sent(1.0)
    assert len(world.runtime.given_up(1.0)) == 1
    assert world.runtime.next_wake() == 0.0
    assert world.serve(1.0) is after


def test_nothing_is_kept_of_a_sequence_whose_last_waits_no_more(world: World) -> None:
    world.ask(start=True)
    (batch,) = world.sent()
    last = world.ask(end=True)
    world.answer(batch)
    world.runtime.cancel(last, 0.0)
    assert len(world.runtime.sequences) == 0


def test_a_deadline_holds_while_it_waits_for_its_turn(world: World) -> None:
    world.ask(start=True)
    (batch,) = world.sent()
    late = world.ask(headers={"tidegate-deadline-ms": "1000"})
    assert world.runtime.next_wake() == 1.0
    assert not world.runtime.poll(1.0)
    assert [(one, refusal.status) for one, refusal in world.runtime.given_up(1.0)] == [(late, 504)]
    world.answer(batch, 2.0)
    assert not world.sent(2.0)


def test_those_who_wait_for_their_turn_fill_the_queue(make: Any) -> None:
    world = World(make, queue_max_size=2)
    world.ask(start=True)
    world.ask()
    with pytest.raises(Refusal) as caught:
        world.ask()
    assert caught.value.status == 429
    assert [world.serve() and 1 for _ in range(2)] == [1, 1]
    assert world.runtime.waiting == 0


def test_who_waits_for_its_turn_keeps_its_room(make: Any) -> None:
    world = World(make, queue_max_size=1)
    world.ask(start=True)
    (batch,) = world.sent()
    held = world.ask()
    with pytest.raises(Refusal) as caught:
        make.submit(world.runtime)
    assert caught.value.status == 429
    world.answer(batch)
    assert world.serve() is held
    assert not world.runtime.given_up(0.0)


def test_a_smaller_queue_turns_nobody_away_who_waits_for_its_turn(make: Any) -> None:
    world = World(make, queue_max_size=9)
    world.ask(start=True)
    (batch,) = world.sent()
    held = [world.ask() for _ in range(3)]
    world.settings = BatchSettings(strategy="Fixed", max_wait=0.0, queue_max_size=1)
    world.split()
    world.answer(batch)
    assert [world.serve() for _ in held] == held
    assert not world.runtime.given_up(0.0)


def test_a_canary_that_holds_its_part_of_the_queue_answers_for_it(world: World) -> None:
    world.split(("stable", 1, 0), ("canary", 2, 10_000))
    world.ask(start=True)
    (batch,) = world.sent()
    world.split(("stable", 1, 10_000), ("canary", 2, 0))
    for _ in range(16):
        world.ask()
    with pytest.raises(Refusal, match="arm canary has 16 requests waiting"):
        world.ask()
    assert world.runtime.waiting == 16
    world.answer(batch)
    world.serve()
    world.ask()


def test_a_version_waits_for_its_open_sequences(world: World) -> None:
    world.ask(start=True)
    world.serve()
    assert world.runtime.in_use(1, LATER)
    assert not world.runtime.in_use(2, LATER)
    world.ask(LATER)
    world.serve(LATER)
    assert world.runtime.in_use(1, LATER + LATER)
    world.ask(LATER, end=True)
    assert world.runtime.in_use(1, LATER)
    world.serve(LATER)
    assert not world.runtime.in_use(1, LATER)


def test_a_version_that_has_gone_takes_its_sequences_along(world: World) -> None:
    world.ask(start=True)
    (batch,) = world.sent()
    held = world.ask()
    world.runtime.version_gone(1)
    assert [(one, refusal.status) for one, refusal in world.runtime.replan(0.0)] == [(held, 503)]
    world.answer(batch, status=503)
    world.split(("canary", 2, 10_000), loaded=[1])
    one = world.ask()
    assert (one.version, one.evidence) == (2, False)


def test_a_start_goes_nowhere_else_while_it_waits(world: World) -> None:
    waiting = world.ask(start=True)
    world.runtime.version_gone(1)
    assert [one for one, _ in world.runtime.replan(0.0)] == [waiting]
    assert not world.runtime.sequences.going


def test_a_sequence_is_not_mirrored(world: World) -> None:
    one = world.ask(start=True)
    assert one.decoded.call.unique
    assert not world.make.submit(world.runtime).decoded.call.unique
