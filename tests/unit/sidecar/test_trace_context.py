"""What headers tell of a request's trace, and that nothing else of the request depends on it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tidegate_contract.table import BatchSettings, Deduplication
from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.trace_context import TraceContext, sampled

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEX = "0123456789abcdef"
GOOD = f"00-{TRACE}-{SPAN}-01"
KNOWN = TraceContext(int(TRACE, 16), int(SPAN, 16), 1, "")


def test_the_example_of_the_recommendation() -> None:
    headers = {"traceparent": GOOD, "tracestate": "congo=t61rcWkgMzE"}
    assert sampled(headers) == KNOWN._replace(state="congo=t61rcWkgMzE")


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f" {GOOD}\t",
        f"cc-{TRACE}-{SPAN}-01",  # later versions are read as this one
        f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like",
        f"01-{TRACE}-{SPAN}-01-",
    ],
)
def test_whose_trace_is_recorded(text: str) -> None:
    assert sampled({"traceparent": text}) == KNOWN


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"00-{TRACE}-{SPAN}-00",  # not sampled
        f"00-{TRACE}-{SPAN}-02",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN.upper()}-01",
        f"0X-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-0x1",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"cc-{TRACE}-{SPAN}-011",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0\u0661",
        f"{GOOD}, {GOOD}",  # the header stands there twice
        f"{GOOD}\n",
    ],
)
def test_what_is_wrong_or_not_recorded_is_not_there(text: str) -> None:
    assert sampled({"traceparent": text}) is None


def test_without_the_header_there_is_no_trace() -> None:
    assert sampled({"tracestate": "a=1"}) is None


def test_a_state_that_nobody_has_to_pass_on_is_left_out() -> None:
    for length, kept in ((512, True), (513, False)):
        state = "a=".ljust(length, "x")
        found = sampled({"traceparent": GOOD, "tracestate": state})
        assert found == KNOWN._replace(state=state if kept else "")


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_what_opentelemetry_writes_is_read(trace: int, span: int, flags: int) -> None:
    written: dict[str, str] = {}
    context = SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(flags))
    TraceContextTextMapPropagator().inject(written, set_span_in_context(NonRecordingSpan(context)))
    assert sampled(written) == (TraceContext(trace, span, flags, "") if flags % 2 else None)


@given(st.text(st.sampled_from("0123456789abcdefg-AF \n"), max_size=70) | st.text(max_size=70))
def test_nothing_is_read_into_rubbish(text: str) -> None:
    found = sampled({"traceparent": text})
    assert found is None or text.strip(" \t")[3:55].startswith(f"{found.trace_id:032x}-")


@given(st.integers(0, 54), st.characters() | st.sampled_from(HEX))
def test_one_other_character_is_seen(at: int, wrong: str) -> None:
    text = GOOD[:at] + wrong + GOOD[at + 1 :]
    found = sampled({"traceparent": text})
    assert found == _by_hand(text)


def _by_hand(text: str) -> TraceContext | None:
    """What the parts say, where none but one character is another."""
    parts = text.split("-")
    if list(map(len, parts)) != [2, 32, 16, 2] or not set("".join(parts)) <= set(HEX):
        return None
    version, trace, span, flags = (int(part, 16) for part in parts)
    return TraceContext(trace, span, flags, "") if version != 255 and flags % 2 else None


def headers(number: int) -> dict[str, str]:
    trace = {"traceparent": f"00-{number:032x}-{number:016x}-01", "tracestate": f"a={number}"}
    return trace | {"x-request-id": f"r{number}", "x-tenant": "a"}


@pytest.mark.parametrize("forwarding", [None, Forwarding(".")])
def test_traces_keep_nobody_out_of_a_batch(make: Any, forwarding: Forwarding | None) -> None:
    runtime = ModelRuntime("m", "pod-1", forwarding=forwarding)
    runtime.apply(make.table())
    runtime.version_ready(make.version())
    for number in (1, 2, 3):
        make.submit(runtime, headers=headers(number))
    (batch,) = runtime.poll(0.0)
    assert batch.rows == 3
    header, _ = runtime.encode(batch)
    assert b"x-tenant" in header if forwarding else b"x-tenant" not in header
    assert not any(name in header for name in (b"trace", b"x-request-id"))


def test_equal_requests_of_two_traces_are_equal(make: Any) -> None:
    batch_settings = BatchSettings(max_wait=0.0, deduplication=Deduplication())
    runtime = ModelRuntime("m", "pod-1", forwarding=Forwarding("."))
    runtime.apply(make.table(batch=batch_settings))
    runtime.version_ready(make.version())
    for number in (1, 2):
        make.submit(runtime, headers=headers(number))
    (batch,) = runtime.poll(0.0)
    assert (batch.rows, len(batch.members)) == (1, 1)
    runtime.finish(batch, runtime.complete(batch, 200, *reversed(make.reply(1))), 0.0)
    assert len(runtime.handed_out()) == 2
    make.submit(runtime, headers=headers(3))
    assert len(runtime.handed_out()) == 1  # what was answered before is its answer
