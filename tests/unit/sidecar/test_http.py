"""Heads of HTTP messages: what is not understood for certain is refused."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_sidecar.core.endpoints import Kind, Target
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.shell.http import (
    ChunkedBody,
    Memory,
    RequestHead,
    RequestMemory,
    read_request_head,
    read_response_head,
)

LINE = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: a\r\n"


def test_a_head() -> None:
    head = read_request_head(
        LINE + b"Content-Length: 12\r\nInference-Header-Content-Length:  8 \r\nX-User: a \t\r\n"
        b"x-user: b\r\nExpect: 100-Continue\r\n\r\n"
    )
    assert isinstance(head.target, Target)
    assert (head.target.kind, head.target.model) == (Kind.INFER, "m")
    assert (head.length, head.json_length, head.close, head.expects) == (12, 8, False, True)
    assert head.headers["x-user"] == "a, b"


@pytest.mark.parametrize(
    ("head", "closes"),
    [
        (LINE + b"\r\n", False),
        (LINE + b"Connection: close\r\n\r\n", True),
        (b"GET /v2 HTTP/1.0\r\n\r\n", True),
        (LINE + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", False),
    ],
)
def test_who_wants_no_further_answer(head: bytes, closes: bool) -> None:
    assert read_request_head(head).close == closes


@pytest.mark.parametrize(
    "head",
    [
        LINE + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n",
        LINE + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        LINE + b"Content-Length: 5, 5\r\n\r\n",
        LINE + b"Content-Length: -5\r\n\r\n",
        LINE + b"Content-Length: +5\r\n\r\n",
        LINE + b"Content-Length: 5x\r\n\r\n",
        LINE + b"Content-Length: 0x5\r\n\r\n",
        LINE + b"Content-Length:\r\n\r\n",
        LINE + b"Content-Length: 99999999999999999999999\r\n\r\n",
        LINE + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        LINE + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
        LINE + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        LINE + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        LINE + b"Transfer-Encoding: chunked, identity\r\n\r\n",
        LINE + b"Transfer-Encoding: xchunked\r\n\r\n",
        LINE + b"Transfer-Encoding: chunked\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        LINE + b"Content-Length : 5\r\n\r\n",
        LINE + b" Content-Length: 5\r\n\r\n",
        LINE + b"X: a\r\n Content-Length: 5\r\n\r\n",
        LINE + b"X\x00: a\r\n\r\n",
        LINE + b"X: a\rContent-Length: 5\r\n\r\n",
        LINE + b"X: a\nContent-Length: 5\n\nGET /v2 HTTP/1.1\r\nHost: a\r\n\r\n",
        LINE + b"Host: b\r\n\r\n",
        LINE + b"Inference-Header-Content-Length: x\r\n\r\n",
        LINE + b"Inference-Header-Content-Length: 1\r\nInference-Header-Content-Length: 1\r\n\r\n",
        LINE + b"Content-Encoding: br\r\n\r\n",
        LINE + b"Content-Encoding: gzip\r\nContent-Encoding: gzip\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.1\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v2/models/m/infer HTTP/2.0\r\nHost: a\r\n\r\n",
        b"POST /v2/models/m/infer\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"rubbish\r\n\r\n",
        b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_what_two_readers_could_see_differently_is_refused(head: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_request_head(head)
    assert caught.value.status in (400, 413, 415)


def test_an_old_client_expects_no_word_to_go_on() -> None:
    line, _, fields = LINE.replace(b"1.1", b"1.0").partition(b"\r\n")
    head = read_request_head(line + b"\r\nExpect: 100-continue\r\n" + fields + b"\r\n")
    assert not head.expects


def test_what_is_not_offered_is_known_with_the_head() -> None:
    head = read_request_head(b"POST /v2/repository/models/m/load HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(head.target, Refusal)
    assert head.target.status == 403
    assert head.target.__traceback__ is None  # else it would keep what it met, as it is kept


@pytest.mark.parametrize("field", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_tunnel_is_refused(field: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        read_request_head(b"CONNECT a HTTP/1.1\r\nHost: a\r\n" + field + b"\r\n")
    assert caught.value.status == 403


@given(st.binary(max_size=60), st.integers(0, 200))
@settings(max_examples=500)
def test_rubbish_in_a_head_is_refused_or_read(rubbish: bytes, at: int) -> None:
    head = LINE + b"Content-Length: 5\r\nX: y\r\n\r\n"
    head = head[:at] + rubbish + head[at:]
    head = head[: head.find(b"\r\n\r\n") + 4]
    refused = None
    try:
        read_request_head(head)
    except Refusal as refusal:
        refused = refusal
    assert refused is None or 400 <= refused.status < 500


def test_heads_are_remembered_within_bounds() -> None:
    read = Memory(read_request_head)
    one = LINE + b"X: 1\r\n\r\n"
    assert read(one) is read(one)
    long = LINE + b"X: " + b"a" * 3000 + b"\r\n\r\n"
    assert read(long) is not read(long)
    for i in range(3000):
        assert read(LINE + b"X: %d\r\n\r\n" % i).headers["x"] == str(i)
    assert len(read._remembered) <= 1024
    for _ in range(2):
        with pytest.raises(Refusal):
            read(b"rubbish\r\n\r\n")


CHUNKED = LINE + b"Transfer-Encoding: chunked\r\n\r\n"


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=5),
    st.lists(st.integers(1, 20), min_size=1),
    st.booleans(),
)
def test_chunks_are_put_together_however_they_come(
    parts: list[bytes], sizes: list[int], followed: bool
) -> None:
    data = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    data += b"GET /v2 HTTP/1.1\r\n" * followed
    body = ChunkedBody(CHUNKED)
    at = i = 0
    while at < len(data):
        step = sizes[i % len(sizes)]
        body.feed(data[at : at + step])
        at, i = at + step, i + 1
    assert body.done
    assert body.body == b"".join(parts)
    assert body.overrun == followed


@pytest.mark.parametrize("data", [b"x\r\n", b"5\r\nabcdefg", b"-1\r\n", b"5;\x00\r\nabcde\r\n"])
def test_what_are_no_chunks_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        ChunkedBody(CHUNKED).feed(data)
    assert caught.value.status == 400


def test_tritons_heads() -> None:
    head = read_response_head(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
        b"Inference-Header-Content-Length: 7\r\nContent-Length: 10\r\n\r\n"
    )
    assert (head.status, head.length, head.json_length, head.close) == (200, 10, 7, False)
    for wrong in (b"HTTP/1.1 200 OK\r\n\r\n", b"nonsense\r\n\r\n"):
        with pytest.raises(Refusal):
            read_response_head(wrong)


TRACED = LINE + b"Content-Length: 5\r\nTraceParent: %b\r\nX-User: a\r\nx-request-id: %b\r\n\r\n"


def test_what_is_another_in_each_request_is_not_remembered() -> None:
    read = RequestMemory()
    for i in range(3000):
        head = read(TRACED % (b"00-%d" % i, b"r%d" % i))
        assert head.headers == {
            "host": "a",
            "content-length": "5",
            "traceparent": f"00-{i}",
            "x-user": "a",
            "x-request-id": f"r{i}",
        }
        assert head.length == 5
    assert len(read._remembered) == 1
    plain = read(LINE + b"Content-Length: 5\r\nX-User: a\r\n\r\n")
    assert plain.headers.keys() == {"host", "content-length", "x-user"}
    assert len(read._remembered) == 1


def test_a_head_without_such_headers_is_found_at_the_first_look() -> None:
    read = RequestMemory()
    one = LINE + b"X: 1\r\n\r\n"
    assert read(one) is read(one)


def outcome(read: Callable[[bytes], RequestHead], head: bytes) -> Any:
    try:
        found = read(head)
    except Refusal as refusal:
        return refusal.status
    if isinstance(found.target, Refusal):
        return str(found.target)
    bare = {name: re.sub(r"[ \t]", "", value) for name, value in found.headers.items()}
    return replace(found, headers=bare)


LINES = st.sampled_from(
    [
        b"traceparent: 1",
        b"TRACEPARENT:2 ",
        b"tracestate: a=1,  b=2",
        b"tracestate:\tc=3",
        b"x-request-id:",
        b"X-Request-Id: \xe4",
        b"traceparent: \x01",
        b"traceparent : 1",
        b"traceparent:1\n",
        b" traceparent: folded",
        b"\ttraceparent: folded",
        b"traceparent: 1\r",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"X: y",
        b"X:",
        b"",
        b"POST /v2/models/m/infer HTTP/1.1",
    ]
)


@given(st.lists(LINES, max_size=8), st.binary(max_size=3), st.integers(0, 200))
@settings(max_examples=500)
def test_it_reads_what_is_read_without_it(lines: list[bytes], rubbish: bytes, at: int) -> None:
    head = b"\r\n".join((*lines[:1], LINE[:-2], *lines[1:], b"", b""))
    head = head[:at] + rubbish + head[at:]
    head = head[: head.find(b"\r\n\r\n") + 4]
    read = RequestMemory()
    expected = outcome(read_request_head, head)
    assert outcome(read, head) == expected
    assert outcome(read, head) == expected  # remembered, where it is
