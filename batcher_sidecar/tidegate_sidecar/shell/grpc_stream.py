"""A stream of inference calls: each goes the way of a single one, and answers come in their order.

So do Triton's own. Calls of decoupled models pass by (`grpc_decoupled`); their answers come in
between, as they are ready. An error of one call does not end the stream.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any, Final

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.shell.grpc_call import Plane, Waiting, with_deadline
from tidegate_sidecar.shell.grpc_decoupled import Decoupled, Passage, Upstream
from tidegate_sidecar.shell.grpc_messages import (
    parse_call,
    write_streamed,
    write_streamed_refusal,
)

_MOST: Final = 256
"""Calls of one stream that wait here; its next ones stay in the connection, where the client sees
that it is ahead. Two of the largest batches that are usual."""


class Stream:
    """One client's stream. ``begin``: opens one to Triton. ``context``: the client's."""

    def __init__(
        self,
        plane: Plane,
        decoupled: Decoupled,
        headers: dict[str, str],
        begin: Callable[[], Upstream],
        context: Any,
    ) -> None:
        self._plane = plane
        self._decoupled = decoupled
        self._headers = headers
        self._context = context
        self._tasks = asyncio.TaskGroup()
        self._passage = Passage(begin, self._write)
        self._room = asyncio.Semaphore(_MOST)
        self._waiting: asyncio.Queue[Waiting | None] = asyncio.Queue()
        self._writing = asyncio.Lock()

    async def run(self, calls: AsyncIterator[bytes], stopping: asyncio.Event) -> bool:
        """Answer calls until the client has said that it has no more, and all are answered.

        ``stopping``: no more are taken. Returns whether the client had ended before that.

        Raises:
            AioRpcError: Triton ended the stream of decoupled calls with an error.
        """
        try:
            async with self._tasks:
                self._tasks.create_task(self._answer_all())
                reading = self._tasks.create_task(self._take_all(calls))
                stopped = self._tasks.create_task(stopping.wait())
                await asyncio.wait({reading, stopped}, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                reading.cancel()
                self._waiting.put_nowait(None)
                await self._passage.done_writing()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        finally:
            self._passage.cancel()
            while not self._waiting.empty():
                if waiting := self._waiting.get_nowait():
                    waiting.leave()
        return not reading.cancelled()

    async def _take_all(self, calls: AsyncIterator[bytes]) -> None:
        async for message in calls:
            await self._room.acquire()
            waiting = Waiting()
            passed_by = None
            with waiting.told():
                passed_by = self._enter(waiting, message)
            if passed_by is None:
                self._waiting.put_nowait(waiting)
            else:
                self._room.release()
                await self._passage.send(passed_by, self._tasks)

    def _enter(self, waiting: Waiting, message: bytes) -> bytes | None:
        """Let a call in, or return it as it is to be passed by.

        Raises:
            Refusal: it gets no answer but that.
        """
        request = parse_call(message)
        waiting.id = request.id
        headers = with_deadline(self._headers, self._context.time_remaining())
        passed_by = self._decoupled.passes_by(request, headers)
        if passed_by is None:
            waiting.hand_in(self._plane, request, headers)
        return passed_by

    async def _answer_all(self) -> None:
        while waiting := await self._waiting.get():
            answer = await waiting.answer(write_streamed)
            if isinstance(answer, Refusal):
                answer = write_streamed_refusal(answer.message, waiting.id)
            await self._write(answer)
            self._room.release()

    async def _write(self, answer: bytes) -> None:
        async with self._writing:
            with suppress(asyncio.InvalidStateError):  # the client has gone
                await self._context.write(answer)
