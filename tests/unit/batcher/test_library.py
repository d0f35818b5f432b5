"""The library: threads and coroutines get one answer each, whatever happens to their neighbours."""

import asyncio
import threading
from concurrent.futures import CancelledError, ThreadPoolExecutor
from math import inf, nan

import pytest

from tidegate_batcher.library import Batcher, ClosedError, ExpiredError, FullError
from tidegate_batcher.strategy import Decision, View
from tidegate_contract.table import BatchSettings

PATIENCE = 60.0


class Gate:
    """A function of batches that waits until it is opened, and remembers what it was given."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.entered.set()
        assert self.opened.wait(PATIENCE)
        return [2 * item for item in items]


@pytest.fixture
def gate() -> Gate:
    return Gate()


def test_many_threads_get_their_own_answers() -> None:
    sizes = []

    def double(items: list[int]) -> list[int]:
        sizes.append(len(items))
        return [2 * item for item in items]

    with Batcher(double) as batcher, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda n: batcher.submit(n).result(PATIENCE), range(2000)))
    assert found == [2 * n for n in range(2000)]
    assert sum(sizes) == 2000
    assert batcher.statistics.answered == 2000
    assert batcher.statistics.batches == len(sizes)


def test_coroutines_await_theirs_and_what_waits_goes_together(gate: Gate) -> None:
    async def ask() -> list[int]:
        async with Batcher(gate) as batcher:
            first = batcher.submit(0)
            await asyncio.to_thread(gate.entered.wait, PATIENCE)
            others = [batcher.submit(n) for n in range(1, 6)]
            gate.opened.set()
            return [await one for one in (first, *others)]

    assert asyncio.run(ask()) == [0, 2, 4, 6, 8, 10]
    assert gate.batches == [[0], [1, 2, 3, 4, 5]]


def test_a_coroutine_function_runs_on_the_loop_of_the_caller() -> None:
    loops = set()

    async def double(items: list[int]) -> list[int]:
        loops.add(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [2 * item for item in items]

    async def ask() -> tuple[list[int], asyncio.AbstractEventLoop]:
        async with Batcher(double) as batcher:
            found = await asyncio.gather(*(batcher.submit(n) for n in range(100)))
        return found, asyncio.get_running_loop()

    found, loop = asyncio.run(ask())
    assert found == [2 * n for n in range(100)]
    assert loops == {loop}


def test_a_coroutine_function_needs_a_loop() -> None:
    async def double(items: list[int]) -> list[int]:
        return items

    with pytest.raises(TypeError, match="async with"), Batcher(double):
        pass


def test_one_failed_item_does_not_fail_its_batch(gate: Gate) -> None:
    def picky(items: list[int]) -> list[int | BaseException]:
        gate(items)
        return [ValueError(f"not {n}") if n == 2 else n for n in items]

    with Batcher(picky) as batcher:
        first = batcher.submit(0)
        gate.entered.wait(PATIENCE)
        tickets = [batcher.submit(n) for n in range(1, 4)]
        gate.opened.set()
        assert first.result(PATIENCE) == 0
        assert [tickets[0].result(PATIENCE), tickets[2].result(PATIENCE)] == [1, 3]
        with pytest.raises(ValueError, match="not 2"):
            tickets[1].result(PATIENCE)
    assert batcher.statistics.failed == 1


def test_an_exception_that_is_raised_is_everybodys(gate: Gate) -> None:
    def broken(items: list[int]) -> list[int]:
        raise RuntimeError("out of order")

    with Batcher(broken) as batcher:
        ticket = batcher.submit(1)
        with pytest.raises(RuntimeError, match="out of order"):
            ticket.result(PATIENCE)


def test_too_few_results_are_a_mistake_that_all_are_told() -> None:
    with Batcher(lambda _: []) as batcher:
        ticket = batcher.submit(1)
        with pytest.raises(ValueError, match="0 results for 1 items"):
            ticket.result(PATIENCE)


def test_a_cancelled_item_is_not_processed(gate: Gate) -> None:
    with Batcher(gate) as batcher:
        first = batcher.submit(0)
        gate.entered.wait(PATIENCE)
        second = batcher.submit(1)
        assert second.cancel()
        gate.opened.set()
        assert first.result(PATIENCE) == 0
        with pytest.raises(CancelledError):
            second.result(PATIENCE)
    assert gate.batches == [[0]]
    assert batcher.statistics.cancelled == 1


def test_the_highest_priority_goes_first(gate: Gate) -> None:
    with Batcher(gate, BatchSettings(max_batch_size=2)) as batcher:
        batcher.submit(0)
        gate.entered.wait(PATIENCE)
        tickets = [batcher.submit(n, priority=6 - n) for n in range(1, 6)]
        gate.opened.set()
        for ticket in tickets:
            ticket.result(PATIENCE)
    assert gate.batches == [[0], [5, 4], [3, 2], [1]]


def test_groups_do_not_mix(gate: Gate) -> None:
    with Batcher(gate) as batcher:
        batcher.submit(0)
        gate.entered.wait(PATIENCE)
        tickets = [batcher.submit(n, group=n % 2) for n in range(1, 7)]
        gate.opened.set()
        for ticket in tickets:
            ticket.result(PATIENCE)
    assert gate.batches == [[0], [1, 3, 5], [2, 4, 6]]


def test_a_deadline_that_passes_in_the_queue_ends_the_item(gate: Gate) -> None:
    with Batcher(gate) as batcher:
        batcher.submit(0)
        gate.entered.wait(PATIENCE)
        ticket = batcher.submit(1, deadline=0.01)
        while batcher.statistics.waiting and not ticket.done():
            gate.opened.wait(0.02)
            gate.opened.set()
        with pytest.raises(ExpiredError):
            ticket.result(PATIENCE)
    assert gate.batches == [[0]]


def test_a_full_queue_says_when_to_come_back(gate: Gate) -> None:
    with Batcher(gate, BatchSettings(queue_max_size=1)) as batcher:
        batcher.submit(0)
        gate.entered.wait(PATIENCE)
        waiting = batcher.submit(1)
        with pytest.raises(FullError) as caught:
            batcher.submit(2)
        assert caught.value.retry_after >= 1
        gate.opened.set()
        assert waiting.result(PATIENCE) == 2


def test_the_lowest_makes_room_where_the_policy_says_so(gate: Gate) -> None:
    with Batcher(gate, BatchSettings(queue_max_size=1, on_full="DropLowest")) as batcher:
        batcher.submit(0)
        gate.entered.wait(PATIENCE)
        low, high = batcher.submit(1, priority=5), batcher.submit(2, priority=1)
        with pytest.raises(FullError):
            low.result(PATIENCE)
        gate.opened.set()
        assert high.result(PATIENCE) == 4


def test_what_waits_at_the_end_is_processed(gate: Gate) -> None:
    with Batcher(gate) as batcher:
        batcher.submit(0)
        gate.entered.wait(PATIENCE)
        ticket = batcher.submit(1)
        gate.opened.set()
    assert ticket.result(0) == 2


def test_outside_of_with_nothing_is_taken() -> None:
    batcher = Batcher(lambda items: items)
    with pytest.raises(ClosedError):
        batcher.submit(1)
    with batcher:
        pass
    with pytest.raises(ClosedError):
        batcher.submit(1)


@pytest.mark.parametrize("priority", [0, 6, -1])
def test_a_priority_that_the_policy_has_not_is_refused(priority: int) -> None:
    with (
        Batcher(lambda items: items) as batcher,
        pytest.raises(ValueError, match="levels 1 to 5"),
    ):
        batcher.submit(1, priority=priority)


class Broken:
    """A strategy that does not keep its promise: it raises, or decides what is no decision."""

    def __init__(self, decision: object) -> None:
        self.decision = decision

    def decide(self, view: View) -> Decision:
        if isinstance(self.decision, Exception):
            raise self.decision
        return self.decision  # type: ignore[return-value]


@pytest.mark.parametrize(
    "decision",
    [OSError("no licence"), None, (1, "one"), Decision(0, "never", nan), Decision(1.5, "")],  # type: ignore[arg-type]
    ids=repr,
)
def test_a_strategy_that_fails_is_told_and_all_are_answered(
    decision: object, caplog: pytest.LogCaptureFixture
) -> None:
    with Batcher(lambda items: items, strategy=Broken(decision)) as batcher:
        assert [batcher.submit(i).result(PATIENCE) for i in range(3)] == [0, 1, 2]
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("the strategy failed: ")


def test_without_a_slot_there_is_no_batcher() -> None:
    with pytest.raises(ValueError, match="slots 0"):
        Batcher(lambda items: items, slots=0)


@pytest.mark.parametrize(
    "returned", [None, 3, {1: 1}, "1", {1}, iter([1])], ids=lambda one: type(one).__name__
)
def test_what_is_no_list_of_results_is_a_mistake_that_all_are_told(returned: object) -> None:
    with Batcher(lambda _: returned) as batcher:  # type: ignore[arg-type, return-value]
        ticket = batcher.submit(1)
        with pytest.raises(TypeError, match="one result for each item, not "):
            ticket.result(PATIENCE)


def test_an_iterator_that_ends_too_early_hangs_nobody() -> None:
    def broken(items: list[int]) -> list[int]:
        return [next(iter([]))]

    async def ask() -> None:
        async with Batcher(broken) as batcher:
            await batcher.submit(1)

    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(ask())


def test_an_awaitable_needs_a_loop() -> None:
    async def double(items: list[int]) -> list[int]:
        return items

    with Batcher(lambda items: double(items)) as batcher:  # noqa: PLW0108 - no coroutine function
        ticket = batcher.submit(1)
        with pytest.raises(TypeError, match="async with"):
            ticket.result(PATIENCE)


class Never:
    """A strategy that waits for more than ever comes."""

    def decide(self, view: View) -> Decision:
        return Decision(0, "never", inf)


@pytest.mark.parametrize("strategy", [Never(), None])
def test_closing_waits_for_nobody(strategy: Never | None) -> None:
    policy = BatchSettings(strategy="Fixed", max_wait=1e6, deadline=None)
    with Batcher(lambda items: items, policy, strategy=strategy) as batcher:
        tickets = [batcher.submit(i) for i in range(3)]
    assert [one.result(0) for one in tickets] == [0, 1, 2]


@pytest.mark.parametrize("priority", [1.5, "1"])
def test_a_priority_is_a_whole_number(priority: object) -> None:
    with Batcher(lambda items: items) as batcher, pytest.raises(TypeError):
        batcher.submit(1, priority=priority)  # type: ignore[arg-type]


def test_a_deadline_is_a_number() -> None:
    with Batcher(lambda items: items) as batcher, pytest.raises(ValueError, match="no number"):
        batcher.submit(1, deadline=nan)


def test_a_batch_of_nothing_is_no_batch() -> None:
    with pytest.raises(ValueError, match="max_batch_size 0"):
        Batcher(lambda items: items, BatchSettings(max_batch_size=0))


def test_a_policy_names_its_strategy() -> None:
    policy = BatchSettings(strategy="Fixed", max_batch_size=2, max_wait=1e6, deadline=None)
    with Batcher(lambda items: [len(items)] * len(items), policy) as batcher:
        tickets = [batcher.submit(i) for i in range(2)]  # Adaptive would not wait for the second
        assert [one.result(PATIENCE) for one in tickets] == [2, 2]


def test_a_strategy_that_is_not_installed_is_refused() -> None:
    with pytest.raises(ValueError, match="strategy Nowhere is not installed"):
        Batcher(lambda items: items, BatchSettings(strategy="Nowhere"))
