"""Batching in any Python process: items in from threads or coroutines, batches out to a function.

Theory of operation. One lock guards the scheduler, the same one that stands before Triton. Worker
threads, one for each slot, ask it what to do next and sleep until something is submitted, a batch
ends, or the time comes that the scheduler named. ``submit`` gives a ``Ticket``, a future that a
thread may wait for and a coroutine await; cancelling it takes the item out of the queue.
"""

import asyncio
import inspect
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Hashable, Mapping, Sequence, Sized
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from math import inf, isnan
from operator import index
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.entry import Entry
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.guarded import Guarded
from tidegate_batcher.scheduler import Batch, Full, Late, Scheduler
from tidegate_batcher.strategy import Decision, Strategy, View
from tidegate_contract.table import BatchSettings

In = TypeVar("In")
Out = TypeVar("Out")

_log = logging.getLogger(__name__)

_OWN: Final[Mapping[str, type[Strategy]]] = {"Adaptive": Adaptive, "Fixed": Fixed}
_GROUP: Final = "tidegate.strategies"
_LANE: Final = 0
_MOST: Final = 2**31


class ExpiredError(TimeoutError):
    """The item was not worth anything any more before it could be processed."""


class FullError(RuntimeError):
    """There was no room for the item. ``retry_after``: seconds after which there may be."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ClosedError(RuntimeError):
    """The batcher was closed before the item could be processed."""


class Ticket(Future[Out]):
    """What will be answered to one item; threads call ``result``, coroutines await it."""

    def __await__(self) -> Generator[Any, None, Out]:
        """Wait on the running event loop; cancelling the wait cancels the item."""
        return asyncio.wrap_future(self).__await__()


_Entry = Entry[In, Ticket[Out]]


@dataclass(slots=True)
class Statistics:
    """Counts since the start; ``waiting`` is as of now."""

    submitted: int = 0
    answered: int = 0
    failed: int = 0
    expired: int = 0
    rejected: int = 0
    cancelled: int = 0
    batches: int = 0
    waiting: int = 0

    @property
    def mean_batch(self) -> float:
        """Items in a batch, on the average."""
        return (self.answered + self.failed) / self.batches if self.batches else 0.0


class Batcher(Generic[In, Out]):
    """Gathers items into batches by priority, deadline and what batches are found to cost.

    ``process_batch`` gets the items of one batch and returns one result for each, in their order.
    A result that is an exception fails that item alone; an exception that is raised fails the
    batch. It is called in one of ``slots`` threads; a coroutine function runs on the event loop of
    the ``async with`` in place of that. ``strategy``: in place of the one that the policy names; if
    it fails that is logged, and Adaptive decides.

    Raises:
        ValueError: the policy's strategy is not installed, or there is no room for any batch.

    Usage::

        with Batcher(predict, BatchSettings(max_batch_size=32)) as batcher:
            tickets = [batcher.submit(row) for row in rows]
            answers = [ticket.result() for ticket in tickets]

        async with Batcher(predict) as batcher:
            answer = await batcher.submit(row, priority=1, deadline=0.1)
    """

    def __init__(
        self,
        process_batch: Callable[[list[In]], Sequence[Out | BaseException]]
        | Callable[[list[In]], Awaitable[Sequence[Out | BaseException]]],
        policy: BatchSettings | None = None,
        *,
        strategy: Strategy | None = None,
        slots: int = 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._process_batch = process_batch
        self._policy = policy or BatchSettings()
        most = self._policy.max_batch_size
        if slots < 1:
            raise ValueError(f"slots {slots}: at least one batch must go at a time")
        if most is not None and most < 1:
            raise ValueError(f"max_batch_size {most}: a batch has at least one item")
        self._clock = clock
        self._scheduler = Scheduler()
        chosen = Guarded(strategy, _tell) if strategy else _installed(self._policy.strategy)
        self._scheduler.configure(self._policy, chosen, {})
        self._scheduler.open(_LANE, slots=slots, most=most or _MOST)
        self._slots = slots
        self._ready: list[Batch] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._statistics = Statistics()

    def submit(
        self,
        item: In,
        priority: int | None = None,
        deadline: float | None = None,
        *,
        group: Hashable = None,
    ) -> Ticket[Out]:
        """Let an item wait for its batch.

        ``priority``: 1 is the highest; the policy's default level where left out. ``deadline``:
        seconds from now until the answer is worth nothing; the policy's where left out. ``group``:
        only items of equal groups share a batch.

        Raises:
            ValueError: the policy has no such priority, or the deadline is no number.
            FullError: there is no room.
            ExpiredError: the deadline could not be met.
            ClosedError: the batcher is closed, or was not entered.
        """
        levels = len(self._policy.levels)
        level = self._policy.default_level if priority is None else index(priority)
        if not 1 <= level <= levels:
            raise ValueError(f"priority {level}: the policy has levels 1 to {levels}")
        until = self._policy.deadline if deadline is None else deadline
        if until is not None and isnan(until):
            raise ValueError("the deadline is no number")
        ticket: Ticket[Out] = Ticket()
        with self._changed:
            if self._closing or not self._threads:
                raise ClosedError("the batcher is closed, or was not entered by `with`")
            now = self._clock()
            by = inf if until is None else now + until
            entry = Entry(item, ticket, level, group, now, by)
            self._statistics.submitted += 1
            dropped = self._offer(entry, now)
            self._changed.notify()
        for one in dropped:
            _fail(one, FullError("thrown out for an item of a higher priority", 1.0))
        ticket.add_done_callback(lambda _: self._forget(entry))
        return ticket

    @property
    def statistics(self) -> Statistics:
        """What has happened so far."""
        with self._changed:
            now = self._statistics
            now.waiting = self._scheduler.waiting
            return replace(now)

    def close(self) -> None:
        """Process what waits, then end; what is submitted from here on is refused."""
        with self._changed:
            self._closing = True
            self._scheduler.configure(self._policy, _AtOnce(), {})
            self._scheduler.lanes[_LANE].hold_until = -inf
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> Self:
        if inspect.iscoroutinefunction(self._process_batch):
            raise TypeError("process_batch is a coroutine function: use `async with`")
        self._start()
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._start()
        return self

    async def __aexit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def _start(self) -> None:
        if self._threads:
            raise RuntimeError("a batcher is entered once")
        for number in range(self._slots):
            thread = threading.Thread(target=self._work, name=f"batcher-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _offer(self, entry: _Entry[In, Out], now: float) -> list[_Entry[In, Out]]:
        try:
            dropped = cast("list[_Entry[In, Out]]", self._scheduler.offer(entry, _LANE, now))
        except Full as error:
            self._statistics.rejected += 1
            raise FullError(str(error), error.retry_after) from error
        except Late as error:
            self._statistics.expired += 1
            raise ExpiredError(str(error)) from error
        self._statistics.rejected += len(dropped)
        return dropped

    def _forget(self, entry: _Entry[In, Out]) -> None:
        """Take the item of a ticket that was cancelled out of the queue."""
        if entry.ticket.cancelled():
            with self._changed:
                if self._scheduler.withdraw(entry):
                    self._statistics.cancelled += 1
                    self._changed.notify_all()

    def _work(self) -> None:
        """One slot: batch after batch until there is nothing left to do."""
        while batch := self._next():
            results = self._results(batch)
            with self._changed:
                self._count(batch, results)
                self._changed.notify_all()
            for entry, result in zip(batch.members, results, strict=True):
                _answer(cast("_Entry[In, Out]", entry), result)

    def _next(self) -> Batch | None:
        """Wait for the next batch; None at the end."""
        while True:
            with self._changed:
                now = self._clock()
                self._ready += self._scheduler.poll(now)
                expired = self._scheduler.expired(now)
                self._statistics.expired += len(expired)
                batch = self._ready.pop(0) if self._ready else None
                done = self._closing and not self._scheduler.waiting
                if not (batch or expired or done):
                    self._changed.wait(self._pause(now))
            for entry in expired:
                _fail(cast("_Entry[In, Out]", entry), ExpiredError("its deadline is over"))
            if batch:
                running = [self._begins(cast("_Entry[In, Out]", one)) for one in batch.members]
                if any(running):
                    return batch
                with self._changed:
                    self._scheduler.finished(batch, self._clock(), ok=False)
            elif done:
                return None

    def _pause(self, now: float) -> float | None:
        wake = self._scheduler.next_wake()
        return None if wake is None else max(wake - now, 0.0)

    def _begins(self, entry: _Entry[In, Out]) -> bool:
        """Whether somebody still waits for an item whose batch begins now."""
        return entry.ticket.set_running_or_notify_cancel()

    def _results(self, batch: Batch) -> Sequence[Out | BaseException]:
        values = [cast("_Entry[In, Out]", one).value for one in batch.members]
        try:
            found = self._process_batch(values)
            results = self._awaited(found) if inspect.isawaitable(found) else found
            _check(results, len(values))
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            return [error] * len(values)
        return cast("Sequence[Out | BaseException]", results)

    def _awaited(self, found: Awaitable[Any]) -> Any:
        """What comes of an awaitable, on the event loop of the ``async with``."""
        if self._loop is None:
            if inspect.iscoroutine(found):
                found.close()
            raise TypeError("process_batch returned an awaitable: use `async with`")
        return asyncio.run_coroutine_threadsafe(_await(found), self._loop).result()

    def _count(self, batch: Batch, results: Sequence[Out | BaseException]) -> None:
        failed = sum(isinstance(one, BaseException) for one in results)
        self._statistics.batches += 1
        self._statistics.failed += failed
        self._statistics.answered += len(results) - failed
        self._scheduler.finished(batch, self._clock(), ok=failed < len(results))


def _installed(name: str) -> Strategy:
    """The strategy that a policy names: our own, or that of an entry point.

    Raises:
        ValueError: there is none.
    """
    if name in _OWN:
        return _OWN[name]()
    for one in entry_points(group=_GROUP, name=name):
        return Guarded(one.load()(), _tell)
    raise ValueError(f"strategy {name} is not installed")


def _tell(why: str) -> None:
    _log.error("the strategy failed: %s; Adaptive decides", why)


class _AtOnce:
    """Waits for nobody: nobody comes any more."""

    def decide(self, view: View) -> Decision:
        return Decision(view.most, "closing")


async def _await(found: Awaitable[Any]) -> Any:
    return await found


def _check(results: object, items: int) -> None:
    """Refuse what cannot be given out.

    Raises:
        TypeError: it has no order, or is a text.
        ValueError: there are too few or too many.
    """
    if not (isinstance(results, Sized) and hasattr(results, "__getitem__")) or isinstance(
        results, (Mapping, str, bytes)
    ):
        what = type(results).__name__
        raise TypeError(f"process_batch must return a list of one result for each item, not {what}")
    if len(results) != items:
        raise ValueError(f"process_batch gave {len(results)} results for {items} items")


def _answer(entry: _Entry[In, Out], result: Out | BaseException) -> None:
    if entry.ticket.cancelled():
        return
    if isinstance(result, StopIteration):  # which no coroutine could be told, see PEP 479
        stopped = RuntimeError("process_batch raised StopIteration")
        stopped.__cause__ = result
        entry.ticket.set_exception(stopped)
    elif isinstance(result, BaseException):
        entry.ticket.set_exception(result)
    else:
        entry.ticket.set_result(result)


def _fail(entry: _Entry[In, Out], error: Exception) -> None:
    if entry.ticket.set_running_or_notify_cancel():
        entry.ticket.set_exception(error)
