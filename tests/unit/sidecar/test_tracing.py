"""Spans of batches: what they are linked to, what they say, and what no collector can hold up."""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode

from tidegate_contract.table import BatchSettings, Deduplication
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.refusal import lost
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.trace_context import TraceContext, sampled
from tidegate_sidecar.shell.tracing import BatchSpans, exported
from tidegate_sidecar.shell.upstream import infer_request

NOW = 100.0


class Traced:
    """A model whose batches are traced, and the spans that have ended."""

    def __init__(self, make: Any, settings: BatchSettings | None = None, **provider: Any) -> None:
        self._make = make
        self._exporter = InMemorySpanExporter()
        self._provider = TracerProvider(shutdown_on_exit=False, **provider)
        self._provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.spans = BatchSpans(self._provider, clock=lambda: NOW)
        self.runtime: ModelRuntime = make.runtime(
            make.table(batch=settings or BatchSettings(strategy="Fixed", max_wait=0.0)),
            make.version(max_batch_size=512),
        )

    def submit(self, *numbers: int | None, state: str = "", **request: Any) -> None:
        """Requests, each in the span of a number, or in none."""
        for number in numbers:
            pending = self._make.submit(self.runtime, now=NOW, **request)
            if number is not None:
                pending.trace = TraceContext(number, number + 1, 1, state)

    def send(self) -> tuple[Batch, str]:
        """The batch that goes now, and what Triton is told of its span."""
        (batch,) = self.runtime.poll(NOW + 0.5)
        fields = self.spans.begin("m", batch)
        self.runtime.encode(batch)
        return batch, fields

    def answer(self, batch: Batch, failure: Any = None, status: int | None = 200) -> None:
        batch.answered_at = NOW + 0.75
        self.spans.end("m", batch, status, failure)
        self.runtime.finish(
            batch, self.runtime.complete(batch, 200, *reversed(self._make.reply(batch.rows))), NOW
        )

    @property
    def ended(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())


def linked(span: ReadableSpan) -> list[int]:
    """The traces that a span is linked to; the numbers of ``Traced.submit``."""
    return [link.context.trace_id for link in span.links]


def test_the_span_of_a_batch_is_linked_to_each_request_that_is_traced(make: Any) -> None:
    traced = Traced(make)
    traced.submit(7, None, 9)
    batch, fields = traced.send()
    traced.answer(batch)
    (span,) = traced.ended
    assert linked(span) == [7, 9]
    assert all(link.context.is_remote for link in span.links)
    assert span.parent is None
    assert (span.name, span.kind, span.status.status_code) == (
        "infer m",
        SpanKind.CLIENT,
        StatusCode.UNSET,
    )
    assert span.attributes == {
        "tidegate.model": "m",
        "tidegate.version": 1,
        "tidegate.arm": "stable",
        "tidegate.level": 3,
        "tidegate.batch.rows": 3,
        "tidegate.batch.requests": 3,
        "tidegate.batch.longest_wait": 0.5,
        "http.response.status_code": 200,
    }
    assert nanoseconds(span) == 250_000_000
    assert fields == f"traceparent: {traceparent(span)}\r\n"


def nanoseconds(span: ReadableSpan) -> int:
    assert span.start_time
    assert span.end_time
    return span.end_time - span.start_time


def traceparent(span: ReadableSpan) -> str:
    own = span.context
    return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"


def test_what_triton_is_told_is_all_that_is_new_in_its_request() -> None:
    plain, *_ = infer_request("t:1", "/p", b"{}", [b"ab"])
    assert plain == (
        b"POST /p HTTP/1.1\r\nHost: t:1\r\n"
        b"Inference-Header-Content-Length: 2\r\nContent-Length: 4\r\n\r\n"
    )
    told, *_ = infer_request("t:1", "/p", b"{}", [b"ab"], "traceparent: x\r\n")
    assert told == plain.replace(b"t:1\r\n", b"t:1\r\ntraceparent: x\r\n")


def test_a_single_request_is_the_parent_too_and_its_state_goes_on(make: Any) -> None:
    traced = Traced(make)
    traced.submit(7, state="a=1,b=2")
    batch, fields = traced.send()
    traced.answer(batch)
    (span,) = traced.ended
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (7, 8)
    assert span.context.trace_id == 7
    assert linked(span) == [7]
    assert fields == f"traceparent: {traceparent(span)}\r\ntracestate: a=1,b=2\r\n"


def test_one_that_is_traced_among_others_is_no_parent(make: Any) -> None:
    traced = Traced(make)
    traced.submit(7, None)
    traced.answer(traced.send()[0])
    (span,) = traced.ended
    assert span.parent is None
    assert linked(span) == [7]


def test_without_traced_requests_there_is_no_span(make: Any) -> None:
    traced = Traced(make)
    traced.submit(None, None)
    batch, fields = traced.send()
    traced.answer(batch)
    assert (fields, traced.ended) == ("", [])


@pytest.mark.parametrize(("told", "most"), [(None, 128), ("3", 3)])
def test_links_are_bounded(
    make: Any, monkeypatch: pytest.MonkeyPatch, told: str | None, most: int
) -> None:
    if told:
        monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", told)
    traced = Traced(make)
    traced.submit(*range(1, 301))
    traced.answer(traced.send()[0])
    (span,) = traced.ended
    assert linked(span) == list(range(1, most + 1))
    assert span.attributes
    assert span.attributes["tidegate.batch.links_left_out"] == 300 - most
    assert span.attributes["tidegate.batch.requests"] == 300


DEDUPLICATED = BatchSettings(max_wait=0.0, deduplication=Deduplication())


def test_who_waits_for_the_answer_to_an_equal_request_belongs_to_its_batch(make: Any) -> None:
    traced = Traced(make, DEDUPLICATED)
    traced.submit(7, None, 9)
    batch, _ = traced.send()
    traced.submit(11)  # while it is under way
    traced.answer(batch)
    (span,) = traced.ended
    assert (batch.rows, linked(span), span.parent) == (1, [7, 9, 11], None)
    assert span.attributes
    assert span.attributes["tidegate.batch.requests"] == 4
    traced.submit(13)  # answered from what was kept
    assert len(traced.runtime.handed_out()) == 4 + 1
    assert len(traced.ended) == 1


def test_a_span_may_begin_in_hindsight(make: Any) -> None:
    traced = Traced(make, DEDUPLICATED)
    traced.submit(None)
    batch, fields = traced.send()
    traced.submit(11)
    traced.answer(batch)
    (span,) = traced.ended
    assert (fields, linked(span), span.parent) == ("", [11], None)
    assert nanoseconds(span) == 250_000_000


@pytest.mark.parametrize("status", [500, None])
def test_a_batch_that_failed_says_why(make: Any, status: int | None) -> None:
    traced = Traced(make)
    traced.submit(7, 9)
    traced.answer(traced.send()[0], lost("gone"), status)
    (span,) = traced.ended
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "gone")
    assert span.attributes
    assert span.attributes.get("http.response.status_code") == status


def test_a_batch_that_is_sent_once_more_keeps_its_span(make: Any) -> None:
    traced = Traced(make)
    traced.submit(7, 9)
    batch, fields = traced.send()
    assert traced.spans.begin("m", batch) == fields
    traced.answer(batch)
    assert len(traced.ended) == 1


def test_what_is_not_sampled_is_told_to_nobody(make: Any) -> None:
    traced = Traced(make, sampler=ALWAYS_OFF)
    traced.submit(7, 9)
    batch, fields = traced.send()
    traced.answer(batch)
    assert (fields, traced.ended) == ("", [])


def test_no_batch_is_kept_in_mind(make: Any) -> None:
    traced = Traced(make)
    for numbers in ((7, 9), (None,), (1,)):
        traced.submit(*numbers)
        traced.answer(traced.send()[0])
    assert not traced.spans._begun


@given(state=st.text(st.characters(min_codepoint=32, max_codepoint=255), max_size=80))
def test_no_state_breaks_a_head(make: Any, state: str) -> None:
    traced = Traced(make)
    traced.submit(7)
    (batch,) = traced.runtime.poll(NOW)
    headers = {"traceparent": f"00-{7:032x}-{8:016x}-01", "tracestate": state}
    batch.members[0].trace = sampled(headers)
    lines = traced.spans.begin("m", batch).encode("latin-1").splitlines()
    assert [line.partition(b":")[0] for line in lines] in (
        [b"traceparent"],
        [b"traceparent", b"tracestate"],
    )


class Hanging(SpanExporter):
    """A collector that never answers."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.let_go.wait()
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        pass


async def test_a_collector_that_hangs_holds_nothing_up(make: Any) -> None:
    exporter = Hanging()
    traced = Traced(make)
    traced._provider.add_span_processor(
        BatchSpanProcessor(exporter, max_queue_size=4, max_export_batch_size=1)
    )
    try:
        for _ in range(100):
            traced.submit(7, 9)
            traced.answer(traced.send()[0])
        assert await asyncio.to_thread(exporter.asked.wait, 60)
        await traced.spans.close(0.01)
        assert not exporter.let_go.is_set()
    finally:
        exporter.let_go.set()


async def test_what_is_left_is_exported_at_the_end(make: Any) -> None:
    traced = Traced(make)
    kept = InMemorySpanExporter()
    traced._provider.add_span_processor(BatchSpanProcessor(kept, schedule_delay_millis=600_000))
    traced.submit(7, 9)
    traced.answer(traced.send()[0])
    await traced.spans.close(60)
    assert [linked(span) for span in kept.get_finished_spans()] == [[7, 9]]


@pytest.fixture
def sdk() -> Iterator[logging.Logger]:
    """The SDK's logger, as it was before."""
    logger = logging.getLogger("opentelemetry")
    before = logger.handlers, logger.propagate
    yield logger
    logger.handlers, logger.propagate = before


async def test_who_and_where_it_was_stands_beside_the_spans(
    monkeypatch: pytest.MonkeyPatch, sdk: logging.Logger
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    for told, expected in (
        ("", "tidegate-sidecar"),
        ("service.name=mine,k8s.pod.uid=x,team=a", "mine"),
    ):
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", told)
        spans = exported(pod="p", pod_uid="u", namespace="n")
        found = spans._provider.resource.attributes
        assert (found["service.name"], found["k8s.pod.name"]) == (expected, "p")
        assert found["k8s.namespace.name"] == "n"
        assert found["k8s.pod.uid"] == ("x" if told else "u")
        await spans.close(60)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "named")
    spans = exported(pod="p", pod_uid="u", namespace="n")
    assert spans._provider.resource.attributes["service.name"] == "named"
    await spans.close(60)


def test_a_variable_that_cannot_be_used_is_said(
    monkeypatch: pytest.MonkeyPatch, sdk: logging.Logger
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(ValueError, match="max_queue_size"):
        exported(pod="p", pod_uid="u", namespace="n")


async def test_what_the_sdk_complains_of_is_said_seldom(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, sdk: logging.Logger
) -> None:
    spans = exported(pod="p", pod_uid="u", namespace="n")
    caplog.clear()
    for number in range(50):
        sdk.getChild("x.y").error("nobody is there: %d", number)
    sdk.getChild("z").error("something else")
    said = [record.getMessage() for record in caplog.records]
    assert said == ["nobody is there: 0", "something else"]
    (handler,) = sdk.handlers
    handler._next.clear()  # type: ignore[attr-defined]
    sdk.getChild("x.y").exception("again", exc_info=OSError("refused"))
    assert caplog.records[-1].getMessage() == ("again OSError('refused') (49 such lines before)")
    await spans.close(60)
