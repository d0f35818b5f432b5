"""Sends a schedule over connections that are kept, and writes down when what was sent and answered.

Callbacks, arrays that are as long as the schedule, and bytes that were written before: what a
request costs here, the next one may be late by.
"""

import asyncio
import contextlib
import gc
import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import httptools
import numpy as np
import numpy.typing as npt

from tidegate_cli.errors import CommandError
from tidegate_load.schedule import Schedule, Times
from tidegate_load.wire import Script

_COARSE: Final = 0.002
"""The event loop's timers count milliseconds: it sleeps until so many seconds before a request is
due, then looks at the clock again and again."""
_RECONNECT: Final = 0.2
_PROGRESS: Final = 1.0


@dataclass(eq=False)
class Record:
    """What became of each request of a schedule; times are seconds from the start.

    ``sent``, ``done``: NaN where it was not. ``status``: HTTP's, 0 where the connection was lost.
    ``answered``: the requests' numbers in the order in which they ended; the first ``ended`` count.
    ``delayed``: how many found no connection free. ``due``: how many were to go until now.
    ``elapsed``: seconds until the last answer, and at least until the last request was due.
    """

    schedule: Schedule
    sent: Times
    done: Times
    status: npt.NDArray[np.uint16]
    answered: npt.NDArray[np.uint64]
    ended: int = 0
    delayed: int = 0
    due: int = 0
    elapsed: float = 0.0
    interrupted: bool = False


class Sender:
    """One run against one server."""

    def __init__(
        self,
        address: tuple[str, int],
        script: Script,
        schedule: Schedule,
        *,
        connections: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        count = schedule.times.size
        # Plain arrays are written, their memory is what numpy reads: its own indexing is slow.
        self._sent, self._done = (array("d", [np.nan]) * count for _ in range(2))
        self._status, self._answered = array("H", bytes(2 * count)), array("Q", bytes(8 * count))
        self.record = Record(
            schedule,
            np.frombuffer(self._sent),
            np.frombuffer(self._done),
            np.frombuffer(self._status, np.uint16),
            np.frombuffer(self._answered, np.uint64),
        )
        self._address = address
        self._messages: Sequence[bytes] = [script.messages[one] for one in script.which]
        self._connections = connections
        self._clock = clock
        self._free: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._waiting: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._stopped = False
        self._next = 0
        self._next_due = np.inf
        self._due: array[float] = array("d")

    async def connect(self) -> None:
        """Open the connections.

        Raises:
            CommandError: the server does not listen.
        """
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.gather(*(self._connect() for _ in range(self._connections)))
        except OSError as error:
            raise CommandError(f"{self._address[0]}:{self._address[1]}: {error}") from error

    async def run(self, drain: float, progress: Callable[[Record], None] | None = None) -> Record:
        """Send it all, once connected; wait for the last answers at most ``drain`` seconds.

        ``progress`` is called every second.
        """
        self._drain = drain
        collecting = gc.isenabled()
        gc.disable()  # a collection stops the schedule, and nothing here makes cycles
        try:
            await self._play(progress)
        finally:
            if collecting:
                gc.enable()
            self._close()
        return self.record

    def interrupt(self) -> None:
        """End now: what was not answered stays so."""
        self.record.interrupted = True
        self._end()

    async def _play(self, progress: Callable[[Record], None] | None) -> None:
        loop = asyncio.get_running_loop()
        self._started = self._clock()
        self._due.frombytes((self.record.schedule.times + self._started).tobytes())
        self._due.append(np.inf)
        self._next_due = self._due[0]
        loop.call_soon(self._tick)
        if progress is not None:
            loop.call_later(_PROGRESS, self._tell, progress)
        await self._over

    def _tell(self, progress: Callable[[Record], None]) -> None:
        if not self._over.done():
            self.record.elapsed = self._clock() - self._started
            progress(self.record)
            asyncio.get_running_loop().call_later(_PROGRESS, self._tell, progress)

    def _tick(self) -> None:
        """Send what is due; come again when the next one is."""
        if self._over.done():
            return
        loop = asyncio.get_running_loop()
        now = self._clock()
        if self._next_due <= now:
            self._send_due(now)
        if self._next == len(self._messages):
            rest = self._started + self.record.schedule.seconds - now
            loop.call_later(max(rest, 0), self._played)
        elif self._next_due - now > 2 * _COARSE:
            loop.call_later(self._next_due - now - _COARSE, self._tick)
        else:
            loop.call_soon(self._tick)

    def _send_due(self, now: float) -> None:
        while self._next_due <= now:
            number = self._next
            self._next = number + 1
            self._next_due = self._due[self._next]
            if self._free:
                self._send(self._free.pop(), number)
            else:
                self.record.delayed += 1
                self._waiting.append(number)
        self.record.due = self._next

    def _send(self, connection: "_Connection", number: int) -> None:
        self._sent[number] = self._clock() - self._started
        connection.send(number, self._messages[number])

    def answered(self, connection: "_Connection", number: int, status: int, *, keep: bool) -> None:
        """A request has its answer, with the connection free for the next one if ``keep``."""
        now = self._clock()
        self._record(number, status, now)
        if keep:
            self.offer(connection)
        if self._next_due <= now:
            self._send_due(now)

    def offer(self, connection: "_Connection") -> None:
        """A connection is free."""
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: "_Connection", number: int | None) -> None:
        """A connection has ended, with a request unanswered if there is a number."""
        self._open.discard(connection)
        if self._over.done():
            return
        if number is None:
            self._free = [one for one in self._free if one is not connection]
        else:
            self._record(number, 0, self._clock())
        task = asyncio.get_running_loop().create_task(self._reconnect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    def _record(self, number: int, status: int, now: float) -> None:
        record = self.record
        self._done[number] = now - self._started
        self._status[number] = status
        self._answered[record.ended] = number
        record.ended += 1
        if self._stopped and record.ended == self._next:
            self._end()

    def _played(self) -> None:
        """All requests are sent: wait for what is not answered."""
        self._stopped = True
        if self.record.ended == self._next:
            self._end()
        else:
            asyncio.get_running_loop().call_later(self._drain, self._end)

    def _end(self) -> None:
        if not self._over.done():
            self.record.elapsed = self._clock() - self._started
            self._over.set_result(None)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: _Connection(self), *self._address)
        self._open.add(connection)
        self.offer(connection)

    async def _reconnect(self) -> None:
        while not self._over.done():
            try:
                await self._connect()
            except OSError:
                await asyncio.sleep(_RECONNECT)
            else:
                return

    def _close(self) -> None:
        for task in self._opening:
            task.cancel()
        for connection in self._open:
            connection.close()


class _Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._parser = httptools.HttpResponseParser(self)
        self._number: int | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        self._file = transport.get_extra_info("socket").fileno()

    def send(self, number: int, message: bytes) -> None:
        """Send a request now: the transport would gather writes until the loop's turn is over."""
        self._number = number
        written = 0
        if not self._transport.is_closing():
            with contextlib.suppress(OSError):  # full, or broken: the transport finds out which
                written = os.write(self._file, message)
        if written < len(message):
            self._transport.write(memoryview(message)[written:])

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_message_complete(self) -> None:
        number, self._number = self._number, None
        if number is None:  # nobody asked
            self._transport.abort()
            return
        keep = self._parser.should_keep_alive()
        if not keep:
            self._transport.close()
        self._sender.answered(self, number, self._parser.get_status_code(), keep=keep)

    def connection_lost(self, _: Exception | None) -> None:
        self._sender.lost(self, self._number)
