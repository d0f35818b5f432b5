"""A client's connection, without a socket: codings, who does not read, who is too slow."""

import asyncio
import gzip
import resource
import tracemalloc
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.shell.connection import Caller, Connection, Watch
from tidegate_sidecar.shell.http import MAX_BODY_BYTES, Memory, RequestHead, read_request_head

PATIENCE = 60.0
ROOM = 4 * MAX_BODY_BYTES
LINE = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written; the client reads it where it is told to. ``feed``: what it sends."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unread = 0
        self.closed = self.ended = self.aborted = self.paused = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        assert not self.ended
        self.written += bytes(data)
        self.unread += len(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        for data in list_of_data:
            self.write(data)

    def get_write_buffer_size(self) -> int:
        return self.unread

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def feed(self, data: bytes) -> None:
        """As an event loop would, whatever protocol it has at the time."""
        while data and isinstance(self.protocol, asyncio.BufferedProtocol):
            room = memoryview(self.protocol.get_buffer(-1))
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            self.protocol.buffer_updated(count)
        if data and isinstance(self.protocol, asyncio.Protocol):
            self.protocol.data_received(data)


class Handler:
    """Keeps what it is handed; or answers it with ``answer``."""

    def __init__(self) -> None:
        self.draining = False
        self.connections: set[Connection] = set()
        self.read_head: Callable[[bytes], RequestHead] = Memory(read_request_head)
        self.asked: list[Buffer] = []
        self.callers: list[Caller] = []
        self.answer: bytes | Refusal | None = b"ok"
        self.room = Room(ROOM)

    def admit(self, head: RequestHead, size: int, begun: int = 0) -> None:
        self.room.take(size, begun)

    def handle(self, connection: Caller, head: RequestHead, body: Buffer) -> None:
        self.asked.append(body)
        self.callers.append(connection)
        if isinstance(self.answer, Refusal):
            raise self.answer
        if self.answer is not None:
            connection.respond(200, b"", [self.answer])


class Talk:
    """A connection and both its ends."""

    def __init__(self) -> None:
        self.handler, self.transport = Handler(), Transport()
        self.connection = Connection(self.handler)
        self.transport.set_protocol(self.connection)
        self.connection.connection_made(self.transport)

    def send(self, body: bytes = b"", *fields: bytes) -> None:
        lines = b"".join(field + b"\r\n" for field in fields)
        self.raw(b"%bContent-Length: %d\r\n%b\r\n%b" % (LINE, len(body), lines, body))

    def raw(self, data: bytes) -> None:
        self.transport.feed(data)

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - looks from outside
                await asyncio.sleep(0.001)

    def answers(self) -> list[tuple[int, dict[str, str], bytes]]:
        """Status, headers and body of each answer."""
        found = []
        rest = self.transport.written
        while rest:
            head, _, rest = rest.partition(b"\r\n\r\n")
            line, *fields = head.decode().split("\r\n")
            headers = dict(field.lower().split(": ", 1) for field in fields)
            length = int(headers["content-length"])
            found.append((int(line.split()[1]), headers, rest[:length]))
            rest = rest[length:]
        return found


@pytest.fixture
async def talk() -> Talk:
    return Talk()


@pytest.mark.parametrize("size", [0, 10, 16 * 2**10, 2**20])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_packed_body_is_unpacked(talk: Talk, size: int, coding: str, chunked: bool) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    packed = gzip.compress(body) if coding == "gzip" else zlib.compress(body)
    field = b"Content-Encoding: " + coding.encode()
    if chunked:
        talk.raw(LINE + field + b"\r\nTransfer-Encoding: chunked\r\n\r\n")
        talk.raw(b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed))
    else:
        talk.send(packed, field)
    talk.send(b"next")
    await talk.until(lambda: len(talk.answers()) == 2)
    assert talk.handler.asked == [body, b"next"]


@pytest.mark.parametrize("body", [b"", b"rubbish", gzip.compress(bytes(2**20))[:-3]])
async def test_a_body_that_cannot_be_unpacked_costs_its_own_request_only(
    talk: Talk, body: bytes
) -> None:
    talk.send(body, b"Content-Encoding: gzip")
    talk.send(b"next")
    await talk.until(lambda: len(talk.answers()) == 2)
    assert [status for status, _, _ in talk.answers()] == [400, 200]
    assert talk.handler.asked == [b"next"]


async def test_a_bomb_is_refused(talk: Talk) -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(257)) + packer.flush()
    assert len(bomb) < 2**20
    talk.send(bomb, b"Content-Encoding: deflate")
    await talk.until(talk.answers)
    assert [status for status, _, _ in talk.answers()] == [413]
    assert not talk.handler.asked


@pytest.mark.parametrize("size", [1023, 1024, 16 * 2**10 + 1, 2**20])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_an_answer_is_packed_where_that_is_wanted(talk: Talk, size: int, coding: str) -> None:
    talk.handler.answer = bytes(size)
    talk.send(b"", b"Accept-Encoding: " + coding.encode())
    talk.handler.answer = b"small"
    talk.send(b"next", b"Accept-Encoding: gzip")
    await talk.until(lambda: len(talk.answers()) == 2)
    (_, headers, body), (_, _, following) = talk.answers()
    if size < 1024:
        assert "content-encoding" not in headers
    else:
        assert headers["content-encoding"] == coding
        assert len(body) < size // 10
        body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body)
    assert (body, following) == (bytes(size), b"small")


@pytest.mark.parametrize("shut", [True, False])
async def test_who_goes_while_his_body_is_unpacked(talk: Talk, shut: bool) -> None:
    talk.send(gzip.compress(bytes(2**24)), b"Content-Encoding: gzip")
    if shut:
        talk.connection.shut(Refusal(503, "down"))
        assert [status for status, _, _ in talk.answers()] == [503]
    else:
        talk.transport.closed = True
        talk.connection.connection_lost(None)
    other = Talk()
    other.send(gzip.compress(bytes(2**20)), b"Content-Encoding: gzip")
    await other.until(other.answers)  # bodies are unpacked one after the other
    assert not talk.handler.asked


async def test_who_goes_while_his_answer_is_packed(talk: Talk) -> None:
    talk.handler.answer = bytes(2**20)
    talk.send(b"", b"Accept-Encoding: gzip")
    assert talk.connection.under_way
    talk.transport.closed = True
    talk.connection.connection_lost(None)
    assert talk.connection._coding
    await asyncio.wait([talk.connection._coding], timeout=PATIENCE)
    assert not talk.answers()


async def test_who_does_not_read_is_not_answered_further(talk: Talk) -> None:
    talk.send(b"1")
    talk.connection.pause_writing()
    talk.send(b"2")
    talk.send(b"3")
    assert talk.handler.asked == [b"1"]
    talk.send(bytes(2**20))
    assert talk.transport.paused
    talk.connection.resume_writing()
    assert not talk.transport.paused
    assert talk.handler.asked == [b"1", b"2", b"3", bytes(2**20)]


async def test_who_asks_for_a_head_gets_no_body(talk: Talk) -> None:
    talk.raw(b"HEAD /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert talk.transport.written == b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


async def test_a_line_behind_a_body_is_no_request_that_begins(talk: Talk) -> None:
    talk.send(b"1")
    for byte in (b"\r", b"\n", b"\r\n"):
        talk.raw(byte)
        assert not talk.connection.under_way
    talk.send(b"2")
    assert talk.handler.asked == [b"1", b"2"]


async def test_a_tunnel_ends_the_connection(talk: Talk) -> None:
    talk.raw(b"CONNECT a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    ((status, headers, _),) = talk.answers()
    assert (status, headers["connection"]) == (403, "close")


async def test_the_last_answer_can_be_read_by_who_has_asked_for_more(talk: Talk) -> None:
    """To close with something unread would reset the connection, and take the answer away."""
    last = LINE + b"Connection: close\r\nContent-Length: 1\r\n\r\n1"
    talk.raw(last + last)
    assert talk.handler.asked == [b"1"]
    assert talk.transport.ended
    assert not talk.transport.closed


async def test_small_chunks_take_no_more_than_they_are(talk: Talk) -> None:
    talk.raw(LINE + b"Transfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    talk.raw(b"2\r\nab\r\n" * 100_000)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_000_000
    talk.raw(b"0\r\n\r\n")
    assert talk.handler.asked == [b"ab" * 100_000]


SLOW = [
    LINE[:10],
    LINE,
    LINE + b"Content-Length: 100000\r\n\r\n",
    LINE + b"Content-Length: 100000\r\n\r\n123",
    LINE + b"Transfer-Encoding: chunked\r\n\r\n",
    LINE + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab",
]


@pytest.mark.parametrize("begun", SLOW)
async def test_what_does_not_come_to_an_end_is_cut_off(talk: Talk, begun: bytes) -> None:
    talk.raw(begun)
    for _ in range(3):
        talk.connection.look()
        assert not talk.transport.written
    talk.connection.look()
    ((status, headers, _),) = talk.answers()
    assert (status, headers["connection"]) == (408, "close")
    assert talk.transport.ended
    for _ in range(10):
        talk.connection.look()


async def test_who_drips_is_cut_off_and_who_flows_is_not(talk: Talk) -> None:
    talk.raw(LINE + b"Content-Length: 1000000\r\n\r\n")
    for _ in range(20):
        talk.raw(bytes(2**14))
        talk.connection.look()
    assert not talk.transport.written
    for _ in range(4):
        talk.raw(bytes(1000))
        talk.connection.look()
    assert talk.answers()[0][0] == 408


@pytest.mark.parametrize("piece", [1000, 2**18, 10**7])
async def test_large_bodies_come_whole_and_what_follows_is_the_next_request(
    talk: Talk, piece: int
) -> None:
    talk.handler.answer = b"ok"
    bodies = [bytes([number]) * (2**20 + number) for number in range(3)]
    stream = b"".join(
        b"%bContent-Length: %d\r\n\r\n%b" % (LINE, len(body), body) for body in (*bodies, b"small")
    )
    for begin in range(0, len(stream), piece):
        talk.raw(stream[begin : begin + piece])
    assert [bytes(body) for body in talk.handler.asked] == [*bodies, b"small"]
    assert [status for status, _, _ in talk.answers()] == [200] * 4


async def test_what_was_announced_takes_no_memory_before_it_comes(talk: Talk) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    before = resident()
    talk.raw(LINE + b"Content-Length: %d\r\n\r\n" % MAX_BODY_BYTES)
    assert isinstance(talk.transport.protocol, asyncio.BufferedProtocol)
    assert resident() - before < MAX_BODY_BYTES / 4


async def test_a_large_body_that_does_not_come_is_cut_off(talk: Talk) -> None:
    talk.raw(LINE + b"Content-Length: 1000000\r\n\r\n")
    for _ in range(4):
        talk.connection.look()
    assert talk.answers()[0][0] == 408
    talk.raw(bytes(10**6))
    assert len(talk.answers()) == 1
    assert not talk.handler.asked


async def test_who_goes_in_the_middle_of_a_large_body_is_forgotten(talk: Talk) -> None:
    talk.raw(LINE + b"Content-Length: 1000000\r\n\r\n" + bytes(1000))
    assert isinstance(talk.transport.protocol, asyncio.BufferedProtocol)
    talk.transport.protocol.connection_lost(None)
    assert talk.connection not in talk.handler.connections


async def test_looks_are_of_one_request_each(talk: Talk) -> None:
    """Small requests, each caught halfway by a look, are no slow one."""
    talk.raw(LINE)
    for _ in range(10):
        talk.connection.look()
        talk.raw(b"Content-Length: 0\r\n\r\n" + LINE)
    assert [status for status, _, _ in talk.answers()] == [200] * 10


async def test_who_has_nothing_under_way_or_waits_for_us_is_left_alone(talk: Talk) -> None:
    for _ in range(10):
        talk.connection.look()
    talk.handler.answer = None
    talk.send(b"1")
    talk.send(b"2")
    for _ in range(10):
        talk.connection.look()
    assert not talk.transport.written
    assert not talk.transport.closed


async def test_who_does_not_read_is_cut_off_and_who_reads_is_not(talk: Talk) -> None:
    talk.handler.answer = bytes(2**20)
    talk.send(b"1")
    talk.connection.pause_writing()
    for _ in range(20):
        talk.transport.unread -= 2**15
        talk.connection.look()
    assert not talk.transport.closed
    for _ in range(4):
        talk.connection.look()
    assert talk.transport.aborted


@pytest.mark.parametrize("size", [1_000, 300_000])
async def test_room_is_held_from_the_head_to_the_answer(talk: Talk, size: int) -> None:
    talk.handler.answer = None
    head = LINE + b"Content-Length: %d\r\n\r\n" % size
    talk.raw(head + b"1")
    assert talk.handler.room.free == ROOM - size
    talk.raw(bytes(size - 1))
    assert talk.handler.room.free == ROOM - size
    talk.handler.callers[0].respond(200, b"", [b"ok"])
    assert talk.handler.room.free == ROOM
    talk.raw(head)
    talk.connection.connection_lost(None)
    assert talk.handler.room.free == ROOM


async def test_a_body_without_room_is_refused_before_it_comes(talk: Talk) -> None:
    talk.handler.room.give(4 * 2**20 - ROOM)
    talk.raw(LINE + b"Content-Length: %d\r\n\r\n" % (2**20 + 1))
    ((status, headers, why),) = talk.answers()
    assert (status, headers["connection"]) == (503, "close")
    assert int(headers["retry-after"]) >= 1
    assert b"memory" in why
    talk.raw(bytes(2**20 + 1))
    assert not talk.handler.asked


async def test_a_small_body_without_room_costs_no_connection(talk: Talk) -> None:
    talk.handler.room.give(4_000 - ROOM)
    talk.send(bytes(1_001))
    talk.send(bytes(1_000))
    assert [status for status, _, _ in talk.answers()] == [503, 200]
    assert talk.handler.asked == [bytes(1_000)]
    assert talk.handler.room.free == 4_000


@pytest.mark.parametrize("most", [1_000, MAX_BODY_BYTES])
async def test_chunks_hold_room_as_they_come(talk: Talk, most: int) -> None:
    talk.handler.room = Room(4 * most)
    talk.handler.answer = None
    talk.raw(LINE + b"Transfer-Encoding: chunked\r\n\r\n")
    for done in (500, 1_000):
        talk.raw(b"1f4\r\n%b\r\n" % bytes(500))
        assert talk.handler.room.free == 4 * most - done
    talk.raw(b"1\r\n1\r\n0\r\n\r\n")
    if most == 1_000:
        assert talk.answers()[0][0] == 413
    else:
        talk.handler.callers[0].respond(200, b"", [])
    assert talk.handler.room.free == 4 * most


async def test_an_unpacked_body_holds_what_it_is(talk: Talk) -> None:
    talk.handler.answer = None
    talk.send(gzip.compress(bytes(10**6)), b"Content-Encoding: gzip")
    await talk.until(lambda: talk.handler.callers)
    assert talk.handler.room.free == ROOM - 10**6
    talk.handler.room = Room(10**6)  # as if there had been less
    talk.handler.callers[0].respond(200, b"", [])
    talk.send(gzip.compress(bytes(10**6)), b"Content-Encoding: gzip")
    await talk.until(lambda: len(talk.answers()) == 2)
    assert talk.answers()[1][0] == 413


async def test_answers_that_are_not_read_hold_room(talk: Talk) -> None:
    talk.handler.answer = bytes(2**20)
    talk.send(b"1")
    talk.connection.pause_writing()
    assert ROOM - talk.handler.room.free == len(talk.transport.written)
    talk.connection.resume_writing()
    assert talk.handler.room.free == ROOM
    talk.connection.pause_writing()
    talk.connection.connection_lost(None)
    assert talk.handler.room.free == ROOM


async def test_all_connections_are_looked_at() -> None:
    talks = [Talk(), Talk()]
    for talk in talks:
        talk.raw(LINE)
    watch = Watch([talk.connection for talk in talks], seconds=0.001)
    watch.start()
    for talk in talks:
        await talk.until(talk.answers)
    watch.stop()
