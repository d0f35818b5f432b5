"""Shadow traffic in virtual time: who is copied, when copies go, what they cost, how they count."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import (
    BatchSettings,
    DisagreementCheck,
    ErrorCheck,
    Mirror,
    RoutingTable,
)
from tidegate_sidecar.core import shadows
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.compare import Tensor as Raw
from tidegate_sidecar.core.pairs import to_json
from tidegate_sidecar.core.refusal import Refusal, lost, unavailable
from tidegate_sidecar.core.runtime import ModelRuntime

AGREEMENT = DisagreementCheck(id="agreement/rollback@1", tolerance=0.001)
ERRORS = ErrorCheck(id="errors/rollback@1", arms=["shadow"])

Model = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any] | Refusal | None]


def same(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x


def other(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x + 1


def broken(_: np.ndarray[Any, Any]) -> Refusal:
    return Refusal(500, "no")


class World:
    """One pod: a runtime, and a Triton that answers when it is told to."""

    def __init__(self, make: Any, table: RoutingTable, **versions: Any) -> None:
        self.make = make
        self.runtime: ModelRuntime = make.runtime(
            table, make.version(1, **versions), make.version(2, **versions)
        )
        self.models: dict[int, Model] = {1: same, 2: same}
        self.answers: list[Any] = []
        self.flying: list[Batch] = []

    def ask(self, now: float = 0.0, value: float = 0.0, **fields: Any) -> Any:
        body, length = self.make.body(**fields)
        count = (len(body) - length) // 4
        body = body[:length] + np.full(count, value, np.float32).tobytes()
        return self.runtime.submit(
            None, body, json_length=length, version=None, headers={}, now=now
        )

    def poll(self, now: float) -> list[Batch]:
        found = self.runtime.poll(now)
        self.flying += found
        return found

    def answer(self, batch: Batch, now: float) -> None:
        """Do as the shell does with what Triton answers."""
        self.flying.remove(batch)
        _, buffers = self.runtime.encode(batch)
        x = np.frombuffer(b"".join(bytes(one) for one in buffers), np.float32)
        result = self.models[batch.version](x.reshape(batch.rows, 2))
        if batch.shadow:
            if isinstance(result, Refusal):
                read: Any = [result] * len(batch.members)
            else:
                length, body = reply(result)
                read = self.runtime.complete_shadows(batch, 200, length, body)
            for pair in self.runtime.finish_shadows(batch, read, now):
                self.runtime.judge(pair, self.runtime.mirror.compare(*pair), now)
            return
        if isinstance(result, Refusal):
            self.runtime.finish(batch, [result] * len(batch.members), now)
            return
        length, body = reply(result)
        results = self.runtime.complete(batch, 200, length, body)
        self.answers += results
        self.runtime.reflect(batch, length, body, results, now)
        self.runtime.finish(batch, results, now)

    def run(self, now: float, seconds: float = 0.001) -> float:
        """Answer everything, each batch after some time, until nothing is left to do."""
        while True:
            self.poll(now)
            if self.flying:
                now += seconds
                self.answer(self.flying[0], now)
            elif (wake := self.runtime.next_wake()) is not None:
                now = wake
            else:
                return now

    @property
    def mirrored(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for (_, outcome), count in self.runtime.counters.mirror.items():
            found[outcome] = found.get(outcome, 0) + count
        return found

    def pairs(self, check: Any = AGREEMENT) -> dict[tuple[str, int], tuple[int, int]]:
        """(arm, version) to (requests, bad), zeros left out."""
        found: dict[tuple[str, int], tuple[int, int]] = {}
        for series, count in self.runtime.counters.checks.items():
            if series.check == check.id and count.requests:
                requests, bad = found.get((series.arm, series.version), (0, 0))
                found[series.arm, series.version] = (requests + count.requests, bad + count.bad)
        return found


def reply(y: Any) -> tuple[int, bytes]:
    data = y.astype(np.float32).tobytes()
    tensor = {
        "name": "y",
        "datatype": "FP32",
        "shape": list(y.shape),
        "parameters": {"binary_data_size": len(data)},
    }
    header = json.dumps({"outputs": [tensor]}).encode()
    return len(header), header + data


def mirrored(
    make: Any,
    *split: tuple[str, int, int],
    weight: int = 10_000,
    checks: Sequence[Any] = (AGREEMENT, ERRORS),
    **fields: Any,
) -> RoutingTable:
    table: RoutingTable = make.table(*split, checks=checks, loaded=[1, 2], **fields)
    return msgspec.structs.replace(table, mirror=Mirror(version=2, weight=weight))


@pytest.fixture
def world(make: Any) -> World:
    return World(make, mirrored(make))


def test_equal_answers_agree(world: World) -> None:
    for value in range(20):
        world.ask(value=value)
    world.run(0.0)
    assert world.mirrored == {"agreed": 20}
    assert world.pairs() == {("shadow", 2): (20, 0)}
    assert world.pairs(ERRORS) == {("shadow", 2): (20, 0)}


def test_what_differs_is_counted_exactly(world: World) -> None:
    world.models[2] = lambda x: np.where(x >= 15, x + 1, x)
    for value in range(20):
        world.ask(value=value)
    world.run(0.0)
    assert world.mirrored == {"agreed": 15, "disagreed": 5}
    assert world.pairs() == {("shadow", 2): (20, 5)}
    assert world.pairs(ERRORS) == {("shadow", 2): (20, 0)}


def test_a_broken_canary_is_bad_and_no_caller_sees_it(world: World) -> None:
    world.models[2] = broken
    for _ in range(20):
        world.ask()
    world.run(0.0)
    assert world.mirrored == {"failed": 20}
    assert world.pairs() == {("shadow", 2): (20, 20)}
    assert world.pairs(ERRORS) == {("shadow", 2): (20, 20)}
    assert not any(isinstance(one, Refusal) for one in world.answers)
    assert len(world.answers) == 20


def test_a_request_that_the_canary_does_not_take_is_a_failed_pair(make: Any) -> None:
    world = World(make, mirrored(make))
    narrow = make.version(2, inputs=[Tensor(name="x", datatype="FP32", shape=[3])])
    world.runtime.version_ready(narrow)
    world.ask()
    world.run(0.0)
    assert world.mirrored == {"failed": 1}
    assert world.pairs() == {("shadow", 2): (1, 1)}
    assert world.pairs(ERRORS) == {("shadow", 2): (1, 0)}  # it is no error of the server


def test_answers_as_json_are_compared_as_well(world: World) -> None:
    world.models[1] = world.models[2] = lambda x: x * np.float32("nan")
    world.ask(outputs=[{"name": "y", "parameters": {"binary_data": False}}])
    world.ask(outputs=[{"name": "y", "parameters": {"binary_data": True}}])
    world.run(0.0)
    assert world.mirrored == {"agreed": 2}


def test_only_what_stable_answered_well_by_the_split_is_copied(make: Any) -> None:
    split = (("stable", 1, 5_000), ("canary", 2, 5_000))
    world = World(make, mirrored(make, *split))
    for _ in range(10):
        world.ask()
    make.submit(world.runtime, version=1)
    world.run(0.0)
    assert world.mirrored == {"agreed": 5}
    # A failed answer has nothing to be compared with.
    world.models[1] = broken
    for _ in range(10):
        world.ask()
    world.run(9.0)
    assert world.mirrored == {"agreed": 5}


def test_what_fell_back_to_stable_is_not_copied(make: Any) -> None:
    split = (("stable", 1, 5_000), ("canary", 3, 5_000))
    world = World(make, mirrored(make, *split))
    for _ in range(10):
        world.ask()
    world.run(0.0)
    assert world.runtime.counters.fallbacks == {"canary": 5}
    assert world.mirrored == {"agreed": 5}


def test_who_has_gone_is_not_copied(world: World) -> None:
    gone = world.ask()
    (batch,) = world.poll(0.0)
    world.runtime.cancel(gone, 0.1)
    world.answer(batch, 0.2)
    world.run(0.2)
    assert world.mirrored == {}


@pytest.mark.parametrize("weight", [100, 2_500, 9_000, 10_000])
def test_the_share_is_kept(make: Any, weight: int) -> None:
    world = World(make, mirrored(make, weight=weight))
    now = 0.0
    for i in range(1, 401):
        world.ask(now)
        now = world.run(now)
        assert abs(sum(world.mirrored.values()) - i * weight / 10_000) <= 1


@pytest.mark.parametrize("table", ["none", "weight 0"])
def test_without_a_mirror_nothing_is_copied(make: Any, table: str) -> None:
    plain = make.table(checks=[AGREEMENT], loaded=[2])
    world = World(make, plain if table == "none" else mirrored(make, weight=0))
    assert not world.runtime.mirror.on
    for _ in range(10):
        world.ask()
    world.run(0.0)
    assert world.mirrored == {}
    assert world.pairs() == {}


def test_the_callers_level_names_the_series(world: World) -> None:
    world.ask(parameters={"priority": 1})
    world.run(0.0)
    counted = {
        series.stratum
        for series, count in world.runtime.counters.checks.items()
        if series.check == AGREEMENT.id and count.requests
    }
    assert counted == {("1", "")}


# When they go


def test_nothing_real_waits_for_a_waiting_shadow(world: World) -> None:
    world.ask(0.0)
    (first,) = world.poll(0.0)
    world.ask(0.0)
    world.answer(first, 0.1)
    assert len(world.runtime._batcher.shadows) == 1
    (second,) = world.poll(0.1)
    assert not second.shadow
    assert world.poll(0.1) == []  # Triton is busy with a real one
    world.answer(second, 0.2)
    (copies,) = world.poll(0.2)
    assert copies.shadow


def test_no_shadow_goes_while_a_real_request_waits_for_company(make: Any) -> None:
    world = World(
        make, mirrored(make, batch=BatchSettings(strategy="Fixed", max_wait=0.5, max_batch_size=2))
    )
    world.ask(0.0)
    world.ask(0.0)
    (first,) = world.poll(0.0)
    world.answer(first, 0.1)
    world.ask(0.1)
    assert world.poll(0.1) == []
    (second,) = world.poll(0.6)
    assert not second.shadow


def test_requests_of_other_models_go_first_too(world: World) -> None:
    world.ask()
    (real,) = world.poll(0.0)
    world.answer(real, 0.1)
    assert world.runtime.poll(0.1, quiet=False) == []
    assert world.runtime.next_wake() is None
    (copy,) = world.poll(0.2)
    assert copy.shadow


def test_a_busy_device_takes_no_shadow_and_one_with_room_does(make: Any) -> None:
    world = World(make, mirrored(make), instances=2)
    world.ask()
    (first,) = world.poll(0.0)
    world.answer(first, 0.1)
    world.ask(0.1)
    real, copy = world.poll(0.1)
    assert (real.shadow, copy.shadow) == (False, True)
    world.ask(0.1)
    assert [one.shadow for one in world.poll(0.1)] == [False]


def test_a_real_request_for_the_same_slot_waits_for_the_one_in_flight_alone(
    make: Any, world: World
) -> None:
    copy = waiting(world)
    world.runtime.apply(mirrored(make, ("stable", 1, 5_000), ("canary", 2, 5_000), revision=2))
    arms = {world.ask(1.0).arm for _ in range(2)}
    assert arms == {"stable", "canary"}
    (stable,) = world.poll(1.0)
    assert stable.version == 1
    world.answer(copy, 1.5)
    (canary,) = world.poll(1.5)
    assert (canary.version, canary.shadow) == (2, False)


def test_a_shadow_is_no_larger_than_the_batch_of_its_original(world: World) -> None:
    for _ in range(3):
        world.ask()
    (three,) = world.poll(0.0)
    world.answer(three, 0.1)
    (copies,) = world.poll(0.1)
    assert (copies.shadow, copies.rows) == (True, 3)
    for now in (0.2, 0.3, 0.4):
        world.ask(now)
        (real,) = world.poll(now)
        world.answer(real, now)
    world.answer(copies, 0.5)
    assert world.poll(0.5) == []  # it rests
    wake = world.runtime.next_wake()
    assert wake
    (single,) = world.poll(wake)
    assert (single.shadow, single.rows) == (True, 1)


def test_a_device_that_is_never_idle_is_lent_now_and_then(world: World) -> None:
    """Real batches of 10 ms one after the other, and a shadow waits all the time."""
    now, beside = 0.0, 0.0
    world.ask(now)
    (real,) = world.poll(now)
    flying: list[tuple[float, Batch]] = []
    while now < 300.0:
        now += 0.01
        world.ask(now)  # waits until the slot is free
        for item in [one for one in flying if one[0] <= now]:
            flying.remove(item)
            world.answer(item[1], now)
        world.answer(real, now)
        real, *copies = world.poll(now)
        assert not real.shadow
        flying += [(now + 0.02, one) for one in copies]
        beside += 0.02 * len(copies)
        assert now > shadows.IN_VAIN or not copies
    assert 0.8 * shadows.BUSY_SHARE < beside / now <= shadows.BUSY_SHARE
    assert world.mirrored["agreed"] > 50


@pytest.mark.parametrize(
    ("slower", "share"), [(0.5, 0.1), (1, 0.1), (2, 0.025), (4, 0.00625), (100, 0.005)]
)
def test_a_slow_canary_gets_less_of_the_time(world: World, slower: float, share: float) -> None:
    for _ in range(2):
        world.ask(0.0)
        real = next(one for one in world.poll(0.0) if not one.shadow)
        world.answer(real, 1.0)
    (copy,) = [*world.flying, *world.poll(1.0)]
    world.answer(copy, copy.sent_at + slower)
    world.poll(copy.sent_at + slower)
    wake = world.runtime.next_wake()
    assert wake
    assert slower / (wake - copy.sent_at) == pytest.approx(share)


def test_shadows_of_other_groups_do_not_mix(world: World) -> None:
    for name in ("a", "b", "a"):
        world.ask(parameters={"custom": name})
    world.run(0.0)
    assert world.mirrored == {"agreed": 3}


def test_they_take_a_tenth_of_the_time_at_most(world: World) -> None:
    """All of it is idle, and there is always one that wants to go."""
    now, busy, end = 0.0, 0.0, 100.0
    while now < end:
        while len(world.runtime._batcher.shadows) < 10:
            world.ask(now)
            (real,) = world.poll(now)
            world.answer(real, now)
            now += 0.001
        for batch in world.poll(now):
            assert batch.shadow
            now += 0.03
            busy += 0.03
            world.answer(batch, now)
        world.poll(now)
        now = max(now, world.runtime.next_wake() or now)
    assert 0.09 <= busy / now <= 0.1001


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 3), st.integers(1, 5)),
        min_size=1,
        max_size=60,
    ),
    wait=st.sampled_from([0.0, 0.004]),
    instances=st.integers(1, 2),
)
def test_real_batches_are_the_same_but_for_the_slot_that_a_shadow_is_in(
    make: Any, arrivals: list[tuple[int, int, int]], wait: float, instances: int
) -> None:
    """Stable has its own slots: the canary's copies change nothing at all of its batches."""
    histories = []
    for on in (False, True):
        batch = BatchSettings(strategy="Fixed", max_wait=wait)
        table = mirrored(make, batch=batch) if on else make.table(batch=batch, loaded=[2])
        histories.append(history(World(make, table, instances=instances), arrivals))
    assert histories[0] == histories[1]


def history(world: World, arrivals: list[tuple[int, int, int]]) -> list[tuple[float, list[int]]]:
    """When which real requests were sent, with a Triton that takes 7 ms for each batch."""
    sent: list[tuple[float, list[int]]] = []
    numbers: dict[Any, int] = {}
    due: list[tuple[float, Batch]] = []
    now = 0.0
    coming = []
    at = 0
    for gap, rows, level in arrivals:
        at += gap
        coming.append((at / 1000, rows, level))
    while coming or due or world.runtime._batcher.waiting:
        times = [at for at, *_ in coming[:1]] + [at for at, _ in due]
        if (wake := world.runtime.next_wake()) is not None:
            times.append(wake)
        now = max(now, min(times))
        for item in [one for one in due if one[0] <= now]:
            due.remove(item)
            world.answer(item[1], now)
        while coming and coming[0][0] <= now:
            _, rows, level = coming.pop(0)
            numbers[world.ask(now, rows=rows, parameters={"priority": level})] = len(numbers)
        for batch in world.poll(now):
            due.append((now + 0.007, batch))
            if not batch.shadow:
                sent.append((now, [numbers[one] for one in batch.members]))
    return sent


# Bounds


def test_few_wait_and_the_rest_is_dropped(world: World) -> None:
    for _ in range(shadows.MOST_WAITING + 50):
        world.ask()
        real = next(one for one in world.poll(0.0) if not one.shadow)
        world.answer(real, 0.0)
    waiting = len(world.runtime._batcher.shadows)
    assert waiting == shadows.MOST_WAITING
    assert world.mirrored["dropped"] >= 49
    world.run(1.0)
    assert sum(world.mirrored.values()) == shadows.MOST_WAITING + 50
    requests, bad = world.pairs()["shadow", 2]
    assert (requests, bad) == (world.mirrored["agreed"], 0)


@pytest.mark.parametrize("binary", [True, False])
def test_little_memory_is_held(world: World, binary: bool) -> None:
    world.runtime._batcher.shadows.most_bytes = 4_000
    fields: Any = {"parameters": {"binary_data_output": binary}}
    world.models[2] = lambda _: None
    for _ in range(100):
        world.ask(rows=8, **fields)
        real = next(one for one in world.poll(0.0) if not one.shadow)
        world.answer(real, 0.0)
        assert held(world) <= 4_000
    assert world.mirrored["dropped"] > 50
    world.models[2] = same
    world.run(1.0)
    assert world.runtime._batcher.shadows._held == 0


def held(world: World) -> int:
    queue = world.runtime._batcher.shadows
    kept = [*queue._waiting, *queue.in_flight]
    bodies = {id(body): len(body) for one in kept for body in map(behind, one.buffers)}
    return sum(bodies.values()) + sum(len(one.answered["y"].data) for one in kept)


def behind(buffer: Any) -> bytes:
    """What a view keeps in memory."""
    return getattr(buffer, "obj", buffer)  # type: ignore[no-any-return]


def test_one_that_is_too_large_is_dropped(world: World) -> None:
    world.runtime._batcher.shadows.most_bytes = 100
    world.ask(rows=8)
    world.run(0.0)
    assert world.mirrored == {"dropped": 1}
    assert world.runtime._batcher.shadows._held == 0


# Changes on the way


def waiting(world: World, count: int = 3) -> Batch:
    """Copies that wait behind one that is in flight, with a real request in flight too."""
    for _ in range(count):
        world.ask()
        real = next(one for one in world.poll(0.0) if not one.shadow)
        world.answer(real, 0.0)
    (copy,) = [*world.flying, *world.poll(0.0)]
    assert copy.shadow
    assert len(world.runtime._batcher.shadows) == count - 1
    return copy


def test_without_the_mirror_in_the_next_table_copies_are_given_up(make: Any, world: World) -> None:
    copy = waiting(world)
    world.runtime.apply(make.table(revision=2, checks=[AGREEMENT], loaded=[2]))
    assert world.mirrored == {"dropped": 2}
    world.answer(copy, 1.0)  # what is in flight comes back, and counts for nobody
    assert world.pairs() == {}
    assert world.poll(1.0) == []
    assert not world.runtime.in_use(2, 0.0)


def test_a_change_of_share_or_checks_keeps_them(make: Any, world: World) -> None:
    copy = waiting(world)
    strict = DisagreementCheck(id="agreement/rollback@2", tolerance=0)
    world.runtime.apply(mirrored(make, weight=100, revision=2, checks=[strict]))
    world.answer(copy, 1.0)
    world.run(1.0)
    assert world.mirrored == {"agreed": 3}
    assert world.pairs(strict) == {("shadow", 2): (3, 0)}


def test_another_version_in_the_next_table_gives_them_up(make: Any, world: World) -> None:
    copy = waiting(world)
    table = make.table(revision=2, checks=[AGREEMENT], loaded=[1, 2, 3])
    world.runtime.apply(msgspec.structs.replace(table, mirror=Mirror(version=3, weight=10_000)))
    world.answer(copy, 1.0)
    assert world.mirrored["dropped"] == 2
    assert world.pairs() == {}
    world.ask(2.0)  # version 3 is not ready here
    world.run(2.0)
    assert world.mirrored["dropped"] == 3


@pytest.mark.parametrize("version", [1, 2])
def test_a_version_that_goes(world: World, version: int) -> None:
    copy = waiting(world)
    world.runtime.version_gone(version)
    world.answer(copy, 1.0)
    world.run(1.0)
    dropped = {"dropped": 2, "agreed": 1} if version == 2 else {"agreed": 3}
    assert world.mirrored == dropped
    assert not world.runtime.in_use(2, 0.0)


def test_a_version_that_is_loaded_anew(make: Any, world: World) -> None:
    copy = waiting(world)
    world.runtime.version_ready(make.version(2, instances=2))
    world.answer(copy, 1.0)
    world.ask(1.0)
    world.run(1.0)
    assert world.mirrored == {"dropped": 2, "agreed": 2}


def test_waiting_copies_do_not_hold_an_unload_back_and_flying_ones_do(world: World) -> None:
    copy = waiting(world)
    assert world.runtime.in_use(2, 0.0)
    world.answer(copy, 1.0)
    assert not world.runtime.in_use(2, 0.0)


@pytest.mark.parametrize(
    ("refusal", "outcome", "pairs"),
    [
        (unavailable("connection refused"), "dropped", {}),
        (lost("connection reset"), "failed", {("shadow", 2): (1, 1)}),
    ],
)
def test_a_triton_that_goes(world: World, refusal: Refusal, outcome: str, pairs: Any) -> None:
    copy = waiting(world, 1)
    world.models[2] = lambda _: refusal
    world.answer(copy, 1.0)
    assert world.mirrored == {outcome: 1}
    assert world.pairs() == world.pairs(ERRORS) == pairs


def test_a_canary_that_hangs_fails_once_and_holds_only_its_slot(world: World) -> None:
    copy = waiting(world)
    for now in (29.0, 31.0, 32.0):
        world.runtime.look(now)
    assert world.mirrored == {"failed": 1}
    assert world.pairs() == {("shadow", 2): (1, 1)}
    world.ask(40.0)
    (real,) = world.poll(40.0)
    assert not real.shadow
    world.answer(real, 40.0)
    assert world.poll(40.0) == []
    world.answer(copy, 60.0)
    assert world.mirrored == {"failed": 1}


def test_nothing_is_mirrored_while_the_pod_shuts_down(world: World) -> None:
    copy = waiting(world)
    world.runtime.mirror.stop()
    world.ask(1.0)
    (real,) = world.poll(1.0)
    world.answer(real, 1.0)
    world.answer(copy, 1.0)
    assert world.poll(1.0) == []
    assert not world.runtime._batcher.shadows


# Stable against itself


def test_a_tenth_of_the_pairs_goes_to_stable_again(make: Any) -> None:
    baseline = DisagreementCheck(id="noise@1", tolerance=0, baseline=True)
    world = World(make, mirrored(make, checks=[baseline, AGREEMENT, ERRORS]))
    calls = iter(range(1_000))
    world.models[1] = lambda x: x + (next(calls) % 2) * 0.0001  # a version that is never sure
    now = 0.0
    for _ in range(100):
        world.ask(now)
        now = world.run(now)
    assert sum(world.mirrored.values()) == 100
    requests, bad = world.pairs(baseline)["stable", 1]
    assert requests == 10
    assert bad > 0
    assert world.pairs(baseline)["shadow", 2][0] == 100
    assert world.pairs(AGREEMENT) == {("shadow", 2): (100, 0)}
    assert world.pairs(ERRORS) == {("shadow", 2): (100, 0)}


# Samples


def test_pairs_are_kept_only_where_they_are_wanted(world: World) -> None:
    world.models[2] = other
    world.ask(value=1)
    world.run(0.0)
    pairs = world.runtime.mirror.pairs
    assert pairs.kept == []
    pairs.wanted = True
    world.ask(5.0, value=1)
    world.run(5.0)
    (pair,) = shown(world, 1_000.0)
    assert pair["at"] == pytest.approx(1_005, abs=1)
    assert pair["request"] == {"x": {"datatype": "FP32", "shape": [1, 2], "data": [1, 1]}}
    assert pair["stable"] == {"y": {"datatype": "FP32", "shape": [1, 2], "data": [1, 1]}}
    assert pair["canary"] == {"y": {"datatype": "FP32", "shape": [1, 2], "data": [2, 2]}}
    assert pair["difference"].startswith("output y: 2 of 2 differ, first at [0, 0]: 1.0 by stable")
    pairs.wanted = False
    pairs.wanted = True
    assert pairs.kept == []


def test_pairs_that_agree_are_not_kept(world: World) -> None:
    world.runtime.mirror.pairs.wanted = True
    world.ask()
    world.run(0.0)
    assert world.runtime.mirror.pairs.kept == []


def test_a_failed_pair_says_why(world: World) -> None:
    world.runtime.mirror.pairs.wanted = True
    world.models[2] = broken
    world.ask()
    world.run(0.0)
    (pair,) = shown(world)
    assert pair["canary"] == {"error": "500 no"}
    assert pair["difference"] == "the canary failed: 500 no"


def test_the_last_pairs_are_kept_and_no_more_than_64_kib_of_each(make: Any) -> None:
    world = World(make, mirrored(make), max_batch_size=10_000)
    world.models[2] = other
    world.runtime.mirror.pairs.wanted = True
    now = 0.0
    for value in range(40):
        world.ask(now, value=value, rows=10_000)
        now = world.run(now)
    kept = shown(world)
    assert [one["stable"]["y"]["data"][0] for one in kept] == list(range(8, 40))
    for pair in kept:
        tensors = pair["request"]["x"], pair["stable"]["y"], pair["canary"]["y"]
        assert all(one["truncated"] for one in tensors)
        assert all(one["shape"] == [10_000, 2] for one in tensors)
        assert 4 * sum(len(one["data"]) for one in tensors) <= 64 * 1024
        assert min(len(one["data"]) for one in tensors) > 1_000


def shown(world: World, epoch: float = 0.0) -> Any:
    return json.loads(to_json(world.runtime.mirror.pairs.kept, epoch))["pairs"]


@pytest.mark.parametrize(
    ("tensor", "data"),
    [
        (Raw("FP32", (2,), np.array([np.nan, np.inf], "<f4").tobytes()), ["nan", "inf"]),
        (Raw("FP16", (1,), np.array([0.5], "<f2").tobytes()), [0.5]),
        (Raw("BF16", (1,), b"\xc0\x3f"), [1.5]),
        (Raw("BOOL", (2,), b"\x00\x01"), [False, True]),
        (Raw("UINT64", (1,), b"\xff" * 8), [2**64 - 1]),
        (Raw("BYTES", (2,), b"\x01\0\0\0a\x01\0\0\0\xff"), ["a", "\\xff"]),
    ],
)
def test_every_type_can_be_shown(world: World, tensor: Raw, data: Any) -> None:
    world.ask()
    (batch,) = world.poll(0.0)
    world.answer(batch, 0.0)
    shadow = world.runtime._batcher.shadows.head
    world.runtime.mirror.pairs.keep(shadow, {"y": tensor}, "all", 0.0)
    (pair,) = shown(world)
    assert pair["canary"]["y"] == {
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "data": data,
    }


def test_a_text_that_was_cut_shows_its_whole_elements(world: World) -> None:
    world.ask()
    (batch,) = world.poll(0.0)
    world.answer(batch, 0.0)
    element = (10_000).to_bytes(4, "little") + b"x" * 10_000
    long = Raw("BYTES", (3,), element * 3)
    world.runtime.mirror.pairs.keep(world.runtime._batcher.shadows.head, {"y": long}, "all", 0.0)
    (pair,) = shown(world)
    assert [len(one) for one in pair["canary"]["y"]["data"]] == [10_000]
    assert pair["canary"]["y"]["truncated"] is True
