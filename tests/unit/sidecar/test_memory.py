"""Batches within memory: the policy's limit, what rows are learned to take, and pressure."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.memory import (
    GROWTH,
    HIGH,
    IN_VAIN,
    LEAST,
    LOW,
    SEEN,
    SETTLING,
    Largest,
    Pressure,
    Reading,
)

ANY = Tensor(name="y", datatype="FP32", shape=[-1])
TEXT = Tensor(name="t", datatype="BYTES", shape=[1])
USED = st.floats(0.0, 1.0)


def gpu(used: float) -> list[Reading]:
    return [Reading("GPU memory", used)]


def feed(pressure: Pressure, uses: list[float], start: int = 0) -> int:
    """Read one use a second; returns the time of the last."""
    for second, used in enumerate(uses, start):
        pressure.read(gpu(used), second)
    return start + len(uses) - 1


def run(memory: Callable[[float], float], pressure: Pressure, start: int, seconds: int) -> int:
    """Let memory be used by the share of the batch size."""
    for now in range(start, start + seconds):
        pressure.read(gpu(memory(pressure.share)), now)
    return start + seconds


@given(uses=st.lists(USED, max_size=60), now=USED, more=USED)
def test_a_share_is_bounded_and_more_use_never_makes_batches_larger(
    uses: list[float], now: float, more: float
) -> None:
    pressure = Pressure()
    at = feed(pressure, uses)
    assert LEAST <= pressure.share <= 1.0
    # Half a second later no cut is just judged: those are of whole seconds.
    shares = [
        deepcopy(pressure).read(gpu(used), at + 0.5) for used in sorted((now, max(now, more)))
    ]
    assert shares[0] >= shares[1]


@given(
    held=st.floats(0.0, LOW - 0.05), batches=st.floats(0.2, 1.5), others=st.floats(0.0, LOW - 0.05)
)
def test_batches_shrink_until_there_is_room_and_recover(
    held: float, batches: float, others: float
) -> None:
    pressure = Pressure()
    at = run(lambda share: min(1.0, held + batches * share), pressure, 0, 100)
    assert held + batches * pressure.share <= HIGH
    run(lambda _: others, pressure, at, 51)
    assert (pressure.share, pressure.note, pressure.short) == (1.0, None, None)


def test_between_the_marks_nothing_changes() -> None:
    pressure = Pressure()
    feed(pressure, [0.95, 0.89, 0.81, 0.85, 0.89, 0.81, 0.85, 0.89])
    assert pressure.share == 0.5
    assert pressure.short is None
    feed(pressure, [0.79, 0.79], 8)
    assert pressure.share == pytest.approx(0.5 + 2 * GROWTH)


def test_a_second_cut_waits_until_the_first_shows() -> None:
    pressure = Pressure()
    at = feed(pressure, [0.99] * int(SETTLING))
    assert pressure.share == 0.5
    feed(pressure, [0.95], at + 1)
    assert pressure.share == 0.25


def test_batches_that_free_nothing_by_being_small_grow_back() -> None:
    """A framework that holds on to what it once took: cutting on would stop serving for nothing."""
    pressure = Pressure()
    at = run(lambda _: 0.95, pressure, 0, 15)
    assert pressure.share == IN_VAIN
    at = run(lambda _: 0.95, pressure, at, 1)
    assert pressure.share == pytest.approx(IN_VAIN + GROWTH)
    at = run(lambda _: 0.95, pressure, at, 50)
    assert pressure.share == 1.0
    assert pressure.short == "GPU memory is 95% used"  # to load one more is another matter
    run(lambda _: 0.95 + 2 * SEEN, pressure, at, 1)
    assert pressure.share == 0.5


def test_what_was_in_vain_once_is_tried_again_where_use_fell_and_rose() -> None:
    pressure = Pressure()
    at = run(lambda _: 0.95, pressure, 0, 80)
    at = run(lambda _: 0.85, pressure, at, 1)
    run(lambda _: 0.92, pressure, at, 1)
    assert pressure.share == 0.5


def test_the_fullest_memory_counts_and_is_named() -> None:
    pressure = Pressure()
    pressure.read([Reading("the container's memory", 0.93), *gpu(0.5)], 0.0)
    assert pressure.note == "batches are at 50% of their size: the container's memory is 93% used"
    assert pressure.short == "the container's memory is 93% used"


def test_without_readings_batches_grow_back() -> None:
    pressure = Pressure()
    feed(pressure, [0.95])
    pressure.read([], 1.0)
    assert pressure.note == "batches are at 52% of their size: memory was short"
    pressure.read([], 60.0)
    assert pressure.share == 1.0


@given(values=st.lists(st.floats(0.0, 1e9), min_size=1, max_size=400))
def test_the_largest_is_of_64_values_at_least_and_of_128_at_most(values: list[float]) -> None:
    largest = Largest()
    for value in values:
        found = largest.add(value)
    assert max(values[-64:]) <= found <= max(values[-128:])


def test_the_largest_is_never_below_what_is_known() -> None:
    assert Largest(8.0).add(2.0) == 8.0


def policy(**fields: object) -> BatchSettings:
    return BatchSettings(**({"strategy": "Fixed", "max_wait": 0.0} | fields))  # type: ignore[arg-type]


@given(rows=st.lists(st.integers(1, 12), min_size=1, max_size=30), limit=st.integers(1, 400))
def test_no_batch_takes_more_memory_than_the_policy_allows(
    make: Any, rows: list[int], limit: int
) -> None:
    runtime = make.runtime(make.table(batch=policy(memory_limit=limit)), make.version())
    for count in rows:
        make.submit(runtime, rows=count)
    sent = 0
    while batches := runtime.poll(0.0):
        for batch in batches:
            _, buffers = runtime.encode(batch)
            assert sum(map(len, buffers)) + 8 * batch.rows <= limit or batch.rows == 1
            runtime.finish(batch, [None] * len(batch.members), 0.0)
            sent += batch.rows
    assert sent == sum(rows)


@pytest.mark.parametrize("output", [ANY, TEXT])
def test_what_the_metadata_leave_open_is_learned_from_answers(make: Any, output: Tensor) -> None:
    """8 bytes of input and 32 of output for each row: two fit into 100 bytes."""
    version = make.version(outputs=[output])
    runtime = make.runtime(make.table(batch=policy(memory_limit=100)), version)
    sizes = []
    for _ in range(2):
        make.submit(runtime, rows=8)
        for _ in range(8):
            for batch in runtime.poll(0.0):
                sizes.append(batch.rows)
                answer = b"{}" + bytes(32 * batch.rows)
                results = runtime.complete(batch, 200, 2, answer)
                runtime.finish(batch, results, 0.0)
    assert (sizes[0], set(sizes[1:])) == (8, {2})


def test_what_a_row_takes_of_the_limit_is_told(make: Any) -> None:
    """8 bytes of input and 8 of output."""
    limited = make.table(batch=policy(memory_limit=4))
    runtime = make.runtime(limited, make.version())

    def told() -> int | None:
        live = runtime.live(0.0)
        assert live is not None
        row: int | None = live.row_bytes
        return row

    assert told() is None
    make.submit(runtime, rows=3)
    sizes = []
    while batches := runtime.poll(0.0):
        for batch in batches:
            sizes.append(batch.rows)
            runtime.finish(batch, [None] * len(batch.members), 0.0)
    assert (sizes, told()) == ([1, 1, 1], 16)
    runtime.apply(make.table(revision=2))
    assert told() is None


def test_pressure_makes_batches_smaller_and_says_so(make: Any) -> None:
    runtime = make.runtime()
    for _ in range(16):
        make.submit(runtime)
    runtime.press(0.25, "batches are at 25% of their size: GPU memory is 93% used")
    assert [batch.rows for batch in runtime.poll(0.0)] == [2]
    live = runtime.live(0.0)
    assert live is not None
    assert live.notes == ["batches are at 25% of their size: GPU memory is 93% used"]
    assert runtime.describe(0.0)["memory"] == live.notes[0]
    runtime.press(1.0, None)
    assert runtime.describe(0.0)["memory"] is None
