"""The open loop against small servers that answer late, in parts, wrongly, or not at all."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest

from tidegate_cli.errors import CommandError
from tidegate_load.schedule import Schedule
from tidegate_load.sender import Record, Sender
from tidegate_load.wire import Script
from tidegate_tools.addresses import free_port

MESSAGE = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
HOST = "127.0.0.1"

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[int]:
    """A server's port. ``serve`` is called for each request."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readexactly(len(MESSAGE)):
                await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, HOST, 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def at_once(count: int) -> Schedule:
    zeros = np.zeros(count, np.int64)
    return Schedule(np.zeros(count), zeros, zeros + 1, 0.0)


async def send(port: int, schedule: Schedule, *, connections: int, drain: float = 60.0) -> Record:
    script = Script([MESSAGE], [0] * schedule.times.size)
    sender = Sender((HOST, port), script, schedule, connections=connections)
    await sender.connect()
    return await sender.run(drain)


async def test_arrivals_do_not_wait_for_answers() -> None:
    come = 0
    all_there = asyncio.Event()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal come
        come += 1
        if come == 20:
            all_there.set()
        await all_there.wait()
        writer.write(OK)

    async with serving(serve) as port:
        record = await send(port, at_once(20), connections=20)

    assert (record.status == 200).all()
    assert record.delayed == 0
    assert sorted(record.answered.tolist()) == list(range(20))


async def test_who_finds_no_connection_free_waits_and_that_is_told_and_counted() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.01)
        writer.write(OK)

    async with serving(serve) as port:
        record = await send(port, at_once(5), connections=1)

    assert record.delayed == 4
    assert record.answered.tolist() == [0, 1, 2, 3, 4]
    # Each was due at 0, and went when the answer before it had come.
    assert (record.sent[1:] >= record.done[:-1]).all()
    assert (record.done - record.schedule.times >= 0.01 * np.arange(1, 6)).all()


async def test_nothing_goes_before_its_time() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)

    times = np.array([0.0, 0.001, 0.02, 0.0200001, 0.05])
    zeros = np.zeros(5, np.int64)
    async with serving(serve) as port:
        record = await send(port, Schedule(times, zeros, zeros, 0.06), connections=2)

    assert (record.sent >= times).all()
    assert record.elapsed >= 0.06


async def test_statuses_and_answers_in_parts() -> None:
    answers = [
        OK,
        b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 504 Gateway Timeout\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        OK,
    ]

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in answers.pop(0):
            writer.write(bytes([byte]))
            await writer.drain()

    async with serving(serve) as port:
        record = await send(port, at_once(4), connections=1)

    assert record.status.tolist() == [200, 429, 504, 200]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"", 0),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", 0),
        (b"SSH-2.0-tide\r\n\r\n", 0),
        (b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", 500),
    ],
)
async def test_a_lost_connection_is_an_error_and_replaced(answer: bytes, status: int) -> None:
    first = True

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        writer.write(answer if first else OK)
        if first:
            writer.close()
        first = False

    async with serving(serve) as port:
        record = await send(port, at_once(3), connections=1)

    assert record.status.tolist() == [status, 200, 200]
    assert not np.isnan(record.done).any()


async def test_what_is_not_answered_is_not_waited_for_longer_than_asked() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with serving(serve) as port:
        record = await send(port, at_once(3), connections=2, drain=0.05)

    assert np.isnan(record.done).all()
    assert np.isnan(record.sent).tolist() == [False, False, True]
    assert record.due == 3


async def test_a_large_request_goes_whole() -> None:
    large = MESSAGE[: MESSAGE.index(b"Content-Length")] + b"Content-Length: 8000000\r\n\r\n"
    got = 0

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        await reader.readuntil(b"\r\n\r\n")
        got = len(await reader.readexactly(8_000_000))
        writer.write(OK)

    server = await asyncio.start_server(connected, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    script = Script([large + bytes(8_000_000)], [0])
    sender = Sender((HOST, port), script, at_once(1), connections=1)
    await sender.connect()
    record = await sender.run(60.0)
    server.close()

    assert got == 8_000_000
    assert record.status.tolist() == [200]


async def test_an_interrupted_run_says_so() -> None:
    sender: Sender

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        sender.interrupt()

    times = np.array([0.0, 1e6])
    schedule = Schedule(times, np.zeros(2, np.int64), np.ones(2, np.int64), 1e6)
    async with serving(serve) as port:
        sender = Sender((HOST, port), Script([MESSAGE], [0, 0]), schedule, connections=1)
        await sender.connect()
        record = await sender.run(60.0)

    assert record.interrupted
    assert record.due == 1


async def test_a_server_that_does_not_listen() -> None:
    with pytest.raises(CommandError, match=HOST):
        await send(free_port(), at_once(1), connections=2)
