"""Where a batch's answer goes: to one caller, to several, or to nobody yet; and how they count."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tidegate_contract.table import BatchSettings, Deduplication, ErrorCheck, Level, SlowCheck
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.dedup import Carrier
from tidegate_sidecar.core.delivery import error
from tidegate_sidecar.core.exchange import Answer
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, lost
from tidegate_sidecar.core.runtime import ModelRuntime

CHECKS = [
    ErrorCheck(id="errors", arms=["stable", "canary"]),
    SlowCheck(id="slow", bounds={"stable": 1.0, "canary": 1.0}),
]


class World:
    """A model of two arms on one version or two, and Triton, which answers zeros."""

    def __init__(self, make: Any, **settings: Any) -> None:
        self.make = make
        self.settings = settings
        self.runtime: ModelRuntime = make.runtime(
            make.table(
                ("stable", 1, 5_000),
                ("canary", 2, 5_000),
                checks=CHECKS,
                batch=BatchSettings(max_wait=0.0, **settings),
            ),
            make.version(1),
            make.version(2),
        )

    def ask(self, now: float = 0.0, version: int | None = 1, **fields: Any) -> Pending:
        """One request; to version 1 as arm ``direct`` where none is named."""
        pending: Pending = self.make.submit(self.runtime, now, version=version, **fields)
        return pending

    def poll(self, now: float) -> list[Batch]:
        batches = self.runtime.poll(now)
        for batch in batches:
            self.runtime.encode(batch)
        return batches

    def end(self, batch: Batch, now: float, status: int = 200) -> tuple[list[Any], Batch | None]:
        """Answer a batch; the results of its members, and what is to follow it."""
        batch.answered_at = now
        body, length = b'{"error": "no"}', None
        if status == 200:
            body, length = self.make.reply(batch.rows)
        results = self.runtime.complete(batch, status, length, body)
        after = self.runtime.finish(batch, results, now)
        if after:
            self.runtime.encode(after)
        return results, after

    def lose(self, batch: Batch, now: float) -> list[Any]:
        results = self.runtime.fail(batch, lost("it went away"))
        assert self.runtime.finish(batch, results, now) is None
        return results

    def handed_out(self) -> dict[Pending, Any]:
        return dict(self.runtime.handed_out())

    def given_up(self, now: float) -> dict[Pending, int]:
        return {pending: one.status for pending, one in self.runtime.given_up(now)}

    def outcomes(self) -> dict[tuple[str, str], int]:
        """By arm and outcome."""
        found: dict[tuple[str, str], int] = {}
        for (arm, _, _), tally in self.runtime.counters.tallies.items():
            assert tally.waiting == tally.in_flight == 0
            for outcome, count in tally.outcomes.items():
                found[arm, outcome] = found.get((arm, outcome), 0) + count
        return found

    def evidence(self, check: str) -> dict[str, tuple[int, int]]:
        """By arm: requests that the check concerns, and those that were bad."""
        found = dict.fromkeys(("stable", "canary"), (0, 0))
        for series, count in self.runtime.counters.checks.items():
            if series.check == check:
                requests, bad = found[series.arm]
                found[series.arm] = requests + count.requests, bad + count.bad
        return found


@pytest.fixture
def sharing(make: Any) -> World:
    return World(make, deduplication=Deduplication(ttl=0.0))


@pytest.fixture
def plain(make: Any) -> World:
    return World(make)


def shown(answer: Any) -> Any:
    assert isinstance(answer, Answer)
    return json.loads(answer.json)


# Equal requests


def test_each_waiter_counts_for_its_own_arm(sharing: World) -> None:
    asked = [sharing.ask(version=None, id=str(i)) for i in range(8)]
    direct = sharing.ask(version=1)
    batches = sharing.poll(0.0)
    assert sorted((batch.version, batch.rows) for batch in batches) == [(1, 1), (2, 1)]
    for batch in batches:
        sharing.end(batch, 0.5)
    answers = sharing.handed_out()
    assert {shown(answers[one])["id"] for one in asked} == set("01234567")
    assert shown(answers[direct])["model_version"] == "1"
    assert sharing.outcomes() == {
        ("stable", "ok"): 4,
        ("canary", "ok"): 4,
        ("direct", "ok"): 1,
    }
    assert sharing.evidence("errors") == {"stable": (4, 0), "canary": (4, 0)}


def test_an_error_is_everybodys(sharing: World) -> None:
    asked = [sharing.ask(version=None) for _ in range(4)]
    for batch in sharing.poll(0.0):
        sharing.end(batch, 2.0, 500)
    assert {one.status for one in sharing.handed_out().values()} == {500}
    assert len(asked) == 4
    assert sharing.evidence("errors") == {"stable": (2, 2), "canary": (2, 2)}
    assert sharing.evidence("slow") == {"stable": (2, 2), "canary": (2, 2)}


def test_a_lost_answer_is_everybodys(sharing: World) -> None:
    sharing.ask()
    sharing.ask()
    (batch,) = sharing.poll(0.0)
    sharing.lose(batch, 1.0)
    assert {one.status for one in sharing.handed_out().values()} == {503}
    assert sharing.outcomes() == {("direct", "server_error"): 2}


def test_the_highest_level_and_the_earliest_deadline_hold(sharing: World) -> None:
    sharing.ask(rows=2)
    (first,) = sharing.poll(0.0)
    slow = sharing.ask(parameters={"priority": 5})
    other = sharing.ask(parameters={"priority": 2, "temperature": 1})
    fast = sharing.ask(parameters={"priority": 1})
    hurried = sharing.ask(headers={"tidegate-deadline-ms": "1000"})
    sharing.end(first, 0.5)
    sharing.handed_out()
    (batch,) = sharing.poll(0.5)
    (carrier,) = batch.members
    assert (carrier.level, carrier.answer_by) == (1, 1.0)
    assert sharing.given_up(0.9) == {}
    assert sharing.given_up(1.5) == {hurried: 504}
    sharing.end(batch, 2.0)
    assert set(sharing.handed_out()) == {slow, fast}
    (batch,) = sharing.poll(2.0)
    sharing.end(batch, 3.0)
    assert set(sharing.handed_out()) == {other}
    assert sharing.outcomes() == {("direct", "ok"): 4, ("direct", "expired"): 1}


def test_who_expires_in_the_queue_leaves_the_others_there(sharing: World) -> None:
    sharing.ask(rows=2)
    (first,) = sharing.poll(0.0)
    hurried = sharing.ask(parameters={"timeout": 100_000})
    patient = sharing.ask()
    assert sharing.poll(1.0) == []
    assert sharing.given_up(1.0) == {hurried: 504}
    assert sharing.runtime.next_wake() == 0.0
    sharing.end(first, 1.5)
    sharing.handed_out()
    (batch,) = sharing.poll(1.5)
    sharing.end(batch, 2.0)
    assert set(sharing.handed_out()) == {patient}
    assert sharing.outcomes() == {("direct", "ok"): 2, ("direct", "expired"): 1}


def test_the_queue_holds_one_place_for_all(make: Any) -> None:
    world = World(make, deduplication=Deduplication(ttl=0.0), queue_max_size=2)
    world.ask(rows=2)
    (first,) = world.poll(0.0)
    for _ in range(20):
        world.ask()
    world.ask(rows=3)
    with pytest.raises(Refusal) as caught:
        world.ask(rows=4)
    assert caught.value.status == 429
    world.end(first, 1.0)
    for batch in world.poll(1.0):
        world.end(batch, 1.0)
    assert len(world.handed_out()) == 22
    assert world.outcomes() == {("direct", "ok"): 22, ("direct", "rejected"): 1}


def test_who_cancels_leaves_and_the_last_takes_the_carrier(sharing: World) -> None:
    sharing.ask(rows=2)
    (first,) = sharing.poll(0.0)
    one, other = sharing.ask(), sharing.ask()
    sharing.runtime.cancel(one, 0.1)
    assert sharing.runtime.waiting == 1
    sharing.runtime.cancel(other, 0.1)
    assert sharing.runtime.waiting == 0
    sharing.end(first, 1.0)
    assert sharing.poll(1.0) == []
    assert sharing.outcomes() == {("direct", "ok"): 1, ("direct", "cancelled"): 2}


def test_who_cancels_in_flight_counts_by_what_became_of_it(sharing: World) -> None:
    asked = [sharing.ask(version=None) for _ in range(4)]
    batches = sharing.poll(0.0)
    for one in asked[:2]:
        sharing.runtime.cancel(one, 0.1)
    for batch in batches:
        sharing.end(batch, 0.2, 500)
    assert set(sharing.handed_out()) == set(asked[2:])
    assert sharing.evidence("errors") == {"stable": (2, 2), "canary": (2, 2)}


def test_a_version_that_goes_frees_all_who_waited(sharing: World) -> None:
    sharing.ask(version=None, rows=2)
    sharing.ask(version=None, rows=2)
    flying = sharing.poll(0.0)
    asked = [sharing.ask(version=None) for _ in range(6)]
    sharing.runtime.version_gone(2)
    assert sharing.runtime.replan(0.1) == []
    for batch in flying:
        sharing.end(batch, 0.5)
    (batch,) = sharing.poll(0.5)
    assert (batch.version, batch.rows) == (1, 1)
    sharing.end(batch, 0.6)
    assert set(asked) <= set(sharing.handed_out())
    assert sharing.outcomes() == {("stable", "ok"): 7, ("canary", "ok"): 1}


def test_what_hangs_counts_as_slow_for_all_who_wait(sharing: World) -> None:
    for _ in range(4):
        sharing.ask(version=None)
    sharing.poll(0.0)
    sharing.runtime.look(2.0)
    assert sharing.evidence("slow") == {"stable": (2, 2), "canary": (2, 2)}


def test_a_kept_answer_is_no_evidence(make: Any) -> None:
    world = World(make, deduplication=Deduplication(ttl=10.0))
    for _ in range(2):
        world.ask(version=None)
    for batch in world.poll(0.0):
        world.end(batch, 0.0)
    world.handed_out()
    again = world.ask(1.0, version=None, id="again")
    assert shown(world.handed_out()[again])["id"] == "again"
    assert world.poll(1.0) == []
    world.runtime.cancel(again, 1.0)
    assert sum(world.outcomes().values()) == 3
    assert world.evidence("errors") == {"stable": (1, 0), "canary": (1, 0)}
    world.ask(10.0, version=1)
    assert len(world.poll(10.0)) == 1


@pytest.mark.parametrize("fields", [{"stateful": True}, {"deterministic": False}])
def test_what_may_answer_otherwise_is_never_shared(sharing: World, fields: Any) -> None:
    info = replace(sharing.runtime.ready[1], **fields)
    sharing.runtime.version_ready(info)
    for _ in range(3):
        sharing.ask()
    (batch,) = sharing.poll(0.0)
    assert batch.rows == 3
    sharing.end(batch, 0.1)
    assert sharing.handed_out() == {}


def test_sequences_are_never_shared(sharing: World) -> None:
    for _ in range(2):
        sharing.ask(parameters={"sequence_id": 7, "sequence_start": True})
    assert sharing.runtime.waiting == 2


# Slices


def test_a_large_request_is_one_answer_and_counts_once(plain: World) -> None:
    one = plain.ask(rows=20, id="7")
    sizes = []
    results: list[Any] = []
    now = 0.0
    while batches := plain.poll(now):
        for batch in batches:
            sizes.append(batch.rows)
            now += 0.1
            results += plain.end(batch, now)[0]
    assert sizes == [8, 8, 4]
    assert results[:-1] == [None, None]
    assert shown(results[-1])["outputs"][0]["shape"] == [20, 2]
    assert plain.outcomes() == {("direct", "ok"): 1}
    assert one.slices is None


@pytest.mark.parametrize("status", [500, 0])
def test_a_slice_that_fails_fails_it_once(make: Any, status: int) -> None:
    world = World(make)
    world.runtime.version_ready(make.version(1, instances=2))
    world.ask(rows=30)
    first, second = world.poll(0.0)
    results = world.end(first, 0.1, 500)[0] if status else world.lose(first, 0.1)
    assert results[0].status >= 500
    assert world.poll(0.1) == []
    assert (world.end(second, 0.2, 500)[0] if status else world.lose(second, 0.2)) == [None]
    assert world.outcomes() == {("direct", "server_error"): 1}


def test_slices_of_who_has_gone_are_not_sent(plain: World) -> None:
    one = plain.ask(rows=20)
    (first,) = plain.poll(0.0)
    plain.runtime.cancel(one, 0.1)
    plain.end(first, 0.2)
    assert plain.poll(0.2) == []
    assert plain.outcomes() == {("direct", "cancelled"): 1}


def test_who_is_late_between_slices_is_answered_once(plain: World) -> None:
    one = plain.ask(rows=20, headers={"tidegate-deadline-ms": "1000"})
    (first,) = plain.poll(0.0)
    plain.poll(1.5)
    assert plain.given_up(1.5) == {one: 504}
    assert plain.end(first, 2.0)[0] == [None]
    assert plain.poll(2.0) == []
    assert plain.given_up(2.0) == {}
    assert plain.outcomes() == {("direct", "expired"): 1}


def test_a_version_that_is_loaded_anew_gets_no_rest_of_a_request(make: Any) -> None:
    world = World(make)
    one = world.ask(rows=20, headers={"tidegate-deadline-ms": "1000"})
    (old,) = world.poll(0.0)
    world.runtime.version_ready(make.version(1, instances=2))
    assert [(who, why.status) for who, why in world.runtime.replan(0.1)] == [(one, 503)]
    assert world.poll(2.0) == []
    assert world.given_up(2.0) == {}
    assert world.end(old, 2.0)[0] == [None]
    assert world.outcomes() == {("direct", "rejected"): 1}


def test_equal_large_requests_share_their_slices(sharing: World) -> None:
    asked = [sharing.ask(rows=20, id=str(i)) for i in range(3)]
    while batches := sharing.poll(0.0):
        for batch in batches:
            sharing.end(batch, 0.0)
    answers = sharing.handed_out()
    assert [shown(answers[one])["id"] for one in asked] == ["0", "1", "2"]
    assert shown(answers[asked[0]])["outputs"][0]["shape"] == [20, 2]
    assert sharing.outcomes() == {("direct", "ok"): 3}


def test_who_is_late_of_equal_large_ones_is_answered_once(sharing: World) -> None:
    hurried = sharing.ask(rows=20, headers={"tidegate-deadline-ms": "1000"})
    patient = sharing.ask(rows=20)
    (first,) = sharing.poll(0.0)
    sharing.poll(1.5)
    assert sharing.given_up(1.5) == {hurried: 504}
    assert sharing.end(first, 1.5)[0] == [None]
    while batches := sharing.poll(1.5):
        for batch in batches:
            sharing.end(batch, 1.5)
    answers = sharing.handed_out()
    assert list(answers) == [patient]
    assert shown(answers[patient])["outputs"][0]["shape"] == [20, 2]
    assert sharing.outcomes() == {("direct", "ok"): 1, ("direct", "expired"): 1}


def large_at_once(make: Any) -> World:
    """A world that shares, and sends three slices at once."""
    world = World(make, deduplication=Deduplication())
    world.runtime.version_ready(make.version(1, instances=3))
    return world


def test_what_its_callers_have_left_is_no_answer_without_outputs(make: Any) -> None:
    world = large_at_once(make)
    gone = world.ask(rows=20)
    batches = world.poll(0.0)
    world.runtime.cancel(gone, 0.0)
    for batch in batches:
        world.end(batch, 0.0)
    after = world.ask(rows=20)
    assert shown(world.handed_out()[after])["outputs"][0]["shape"] == [20, 2]


def test_what_could_not_be_written_leaves_nothing_behind(make: Any) -> None:
    world = large_at_once(make)
    one, _ = world.ask(rows=20), world.ask(rows=3)
    first, *others = world.runtime.poll(0.0)
    world.lose(first, 0.0)
    assert one in world.handed_out()
    for batch in others:
        world.runtime.encode(batch)
        world.end(batch, 0.0)
    for batch in world.poll(0.0):
        world.end(batch, 0.0)
    assert not world.runtime.deduplicator._sent


# Errors that are sent again


def test_whoever_is_answered_counts_once_while_others_are_sent_again(plain: World) -> None:
    asked = [plain.ask(version=None) for _ in range(8)]
    batches = [batch for batch in plain.poll(0.0) if batch.version == 1]
    (root,) = batches
    poisoned = root.members[0]
    now = 0.0
    answered: list[Pending] = []
    following: Batch | None = root
    while following:
        now += 0.5
        bad = poisoned in following.members
        results, after = plain.end(following, now, 500 if bad else 200)
        for pending, result in zip(following.members, results, strict=True):
            if result is not None:
                answered.append(pending)
        plain.runtime.look(now)
        following = after
        if following:
            assert root in plain.runtime._batcher._flying
            assert plain.poll(now) == []
    assert sorted(map(id, answered)) == sorted(id(one) for one in asked if one.version == 1)
    assert plain.evidence("errors")["stable"] == (4, 1)
    requests, late = plain.evidence("slow")["stable"]
    assert requests == 4
    assert late == 4  # the first second was over when the first of them was answered
    assert not any(batch.version == 1 for batch in plain.runtime._batcher._flying)
    assert sum(plain.runtime.counters.retries.values()) == 4


def test_levels_keep_their_bounds(make: Any) -> None:
    """A carrier that rises leaves its old level's place."""
    levels = tuple(
        Level(level=i, name=str(i), max_queue=1 if i == 5 else None) for i in range(1, 6)
    )
    world = World(make, deduplication=Deduplication(ttl=0.0), levels=levels)
    world.ask(rows=2)
    (first,) = world.poll(0.0)
    world.ask(parameters={"priority": 5})
    with pytest.raises(Refusal):
        world.ask(rows=3, parameters={"priority": 5})
    world.ask(parameters={"priority": 1})
    world.ask(rows=3, parameters={"priority": 5})
    world.end(first, 1.0)
    while batches := world.poll(1.0):
        for batch in batches:
            world.end(batch, 1.0)
    assert world.outcomes() == {("direct", "ok"): 4, ("direct", "rejected"): 1}


# All of it at once

SEQUENCE = (
    {"sequence_id": 7},
    {"sequence_id": 7, "sequence_start": True},
    {"sequence_id": 7, "sequence_end": True},
)


class Pod(RuleBasedStateMachine):
    """Requests of all kinds before a Triton of all moods: exactly one answer each.

    Drives the runtime as the shell does.
    """

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make
        self.now = 0.0
        self.revision = 1
        self.runtime: ModelRuntime = self.make.runtime(
            self.table(None), self.make.version(1), self.make.version(2, instances=2)
        )
        self.flying: list[Batch] = []
        self.asked: list[Pending] = []
        self.refused = 0
        self.answers: dict[Pending, int] = {}

    def table(self, settings: BatchSettings | None) -> Any:
        arms = ("stable", 1, 7_000), ("canary", 2, 3_000)
        batch = settings or BatchSettings(max_wait=0.0)
        return self.make.table(*arms, checks=CHECKS, batch=batch, revision=self.revision)

    def answer(self, pending: Pending, result: Any) -> None:
        assert not isinstance(pending, Carrier)
        assert isinstance(result, Answer | Refusal)
        if isinstance(result, Answer):
            (output,) = json.loads(result.json)["outputs"]
            assert output["shape"] == [pending.rows, 2]
            assert sum(map(len, result.data)) == (8 * pending.rows if result.binary else 0)
        assert pending not in self.answers
        self.answers[pending] = 1

    def hand_out(self) -> None:
        for pending, result in self.runtime.handed_out():
            self.answer(pending, result)

    def finish(self, batch: Batch, results: list[Any]) -> None:
        for pending, result in zip(batch.members, results, strict=True):
            if result is not None and not pending.cancelled:
                self.answer(pending, result)
        after = self.runtime.finish(batch, results, self.now)
        self.hand_out()
        if after:
            self.runtime.encode(after)
            self.flying.append(after)

    @rule(
        rows=st.sampled_from([1, 1, 1, 2, 9, 20]),
        custom=st.integers(0, 1),
        level=st.integers(1, 5),
        wait=st.sampled_from([None, None, 0.5, 2.0]),
        answer=st.sampled_from([None, None, 1000, 3000]),
        version=st.sampled_from([None, None, 1, 2]),
        binary=st.booleans(),
        sequence=st.sampled_from([{}, {}, {}, {}, *SEQUENCE]),
    )
    def ask(
        self,
        rows: int,
        custom: int,
        level: int,
        wait: float | None,
        answer: int | None,
        version: int | None,
        binary: bool,
        sequence: dict[str, Any],
    ) -> None:
        parameters: dict[str, Any] = {"custom": custom, "priority": level} | sequence
        if wait:
            parameters["timeout"] = int(wait * 1e6)
        try:
            pending = self.make.submit(
                self.runtime,
                self.now,
                version=version,
                rows=rows,
                headers={"tidegate-deadline-ms": str(answer)} if answer else None,
                parameters=parameters | {"binary_data_output": binary},
            )
        except Refusal:
            self.refused += 1
        else:
            self.asked.append(pending)

    @rule()
    def poll(self) -> None:
        for batch in self.runtime.poll(self.now):
            self.runtime.encode(batch)
            self.flying.append(batch)
        parts = [one.members[0] for one in self.flying if one.members[0].decoded.call.alone]
        assert len(parts) <= 1, "of one sequence"
        for pending, refusal in self.runtime.given_up(self.now):
            self.answer(pending, refusal)
        self.hand_out()

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), status=st.sampled_from([200, 200, 200, 400, 500, 503, 0]))
    def end(self, data: st.DataObject, status: int) -> None:
        batch = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        batch.answered_at = self.now
        if status == 0:
            self.finish(batch, self.runtime.fail(batch, lost("it went away")))
            return
        body, length = self.make.reply(batch.rows) if status == 200 else (b'{"error": "no"}', None)
        self.finish(batch, self.runtime.complete(batch, status, length, body))

    @precondition(lambda self: self.asked)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A caller goes; the shell forgets who was answered."""
        waiting = [one for one in self.asked if one not in self.answers]
        if waiting:
            pending = data.draw(st.sampled_from(waiting))
            self.runtime.cancel(pending, self.now)
            self.asked.remove(pending)
            self.answers[pending] = 0  # it must not be answered any more

    @rule(version=st.integers(1, 2), instances=st.integers(1, 3), back=st.booleans())
    def load(self, version: int, instances: int, back: bool) -> None:
        self.runtime.version_gone(version)
        if back:
            self.runtime.version_ready(self.make.version(version, instances=instances))
        for pending, refusal in self.runtime.replan(self.now):
            self.answer(pending, refusal)

    @rule(
        size=st.sampled_from([2, 5, 1000]),
        on_full=st.sampled_from(["Reject", "DropLowest"]),
        most=st.sampled_from([None, 1, 3]),
        ttl=st.sampled_from([None, 0.0, 0.0, 2.0]),
        slice_=st.sampled_from([None, 0.001]),
    )
    def policy(
        self, size: int, on_full: Any, most: int | None, ttl: float | None, slice_: float | None
    ) -> None:
        self.revision += 1
        levels = tuple(
            Level(level=i, name=str(i), max_slice=slice_ if i > 3 else None) for i in range(1, 6)
        )
        self.runtime.apply(
            self.table(
                BatchSettings(
                    max_wait=0.0,
                    queue_max_size=size,
                    on_full=on_full,
                    max_batch_size=most,
                    levels=levels,
                    deduplication=None if ttl is None else Deduplication(ttl=ttl),
                )
            )
        )

    @rule(seconds=st.floats(0.01, 2.0))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.runtime.look(self.now)

    def teardown(self) -> None:
        """Whoever is left is answered in the end, and counts once."""
        self.load(1, 1, back=True)
        for _ in range(1000):
            self.now += 0.01
            self.poll()
            if self.flying:
                batch = self.flying.pop(0)
                body, length = self.make.reply(batch.rows)
                self.finish(batch, self.runtime.complete(batch, 200, length, body))
            elif not self.runtime.waiting:
                break
        assert not self.flying
        assert not self.runtime.waiting
        assert not self.runtime.deduplicator.waiting
        assert all(one in self.answers for one in self.asked)
        assert not self.runtime.in_use(1, self.now + 1000)
        counted = 0
        for tally in self.runtime.counters.tallies.values():
            assert tally.waiting == tally.in_flight == 0
            counted += sum(tally.outcomes.values())
        assert counted == len(self.answers) + self.refused


def test_everybody_gets_exactly_one_answer_and_counts_once(make: Any) -> None:
    run_state_machine_as_test(
        lambda: Pod(make),  # type: ignore[arg-type]
        settings=settings(max_examples=25, stateful_step_count=30, deadline=None),
    )


@pytest.mark.parametrize(("status", "told"), [(199, 500), (304, 500), (999, 500), (422, 422)])
def test_an_error_is_told_by_a_status_that_is_one(status: int, told: int) -> None:
    assert error(status, b"").status == told


def test_a_clients_memory_that_is_too_small_is_no_fault_of_the_version() -> None:
    said = b"shared memory size specified with the request for output 'y' (4 bytes) should be 8"
    assert error(500, b'{"error":"%b"}' % said).status == 400
