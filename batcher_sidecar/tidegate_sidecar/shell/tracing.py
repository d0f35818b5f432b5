"""Spans of batches by OpenTelemetry: which requests went together, and what became of them.

A batch with requests that are traced gets one span of kind CLIENT, linked to the spans that they
were sent in. With several requests it is the root of a trace of its own: it has no parent rather
than one of many. With a single one it is that one's child as well, as OpenTelemetry's conventions
for messaging allow where a batch is one message. Triton gets the span's own context, under which
its own spans come to lie.

This is the one module that knows OpenTelemetry, and it is imported only where that is wanted. The
SDK's own thread exports: what the collector does delays nobody's answer.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.delivery import requests
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.trace_context import TraceContext

_MOST_LINKS: Final = 128
"""Of one span, where the SDK is told of no bound: its own default."""
_SECONDS_BETWEEN_LINES: Final = 60.0
_SDK: Final = "opentelemetry"
_inject: Final = TraceContextTextMapPropagator().inject

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A batch at Triton. ``start``: nanoseconds since 1970. ``requests``: those it began with."""

    span: Span
    start: int
    requests: list[Pending]


class BatchSpans:
    """Makes the spans of one pod's batches. ``clock``: seconds, steady; the data plane's."""

    def __init__(
        self, provider: TracerProvider, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("tidegate_sidecar")
        self._clock = clock
        told = SpanLimits().max_links
        self._most = _MOST_LINKS if told is None else told
        self._begun: dict[Batch, _Begun] = {}

    def begin(self, model: str, batch: Batch) -> str:
        """Begin a batch's span, once; returns header lines that tell Triton of it."""
        begun = self._begun.get(batch) or self._begin(model, batch)
        if begun is None or not begun.span.is_recording():
            return ""
        fields: dict[str, str] = {}
        _inject(fields, set_span_in_context(begun.span, Context()))
        return "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    def end(self, model: str, batch: Batch, status: int | None, failure: Refusal | None) -> None:
        """End the span of a batch that was answered, or lost.

        Who came to wait for its answer meanwhile belongs to it, too; where they are the first that
        are traced, it begins in hindsight.
        """
        begun = self._begun.pop(batch, None) or self._begin(model, batch)
        self._begun.pop(batch, None)
        if begun is None or not begun.span.is_recording():
            return
        span = begun.span
        members = list(dict.fromkeys((*begun.requests, *requests(batch))))
        known = len(_traced(begun.requests))
        traced = _traced(members)
        for trace in traced[known : self._most]:
            span.add_link(_context(trace))
        span.set_attributes(_attributes(model, batch, members))
        if len(traced) > self._most:
            span.set_attribute("tidegate.batch.links_left_out", len(traced) - self._most)
        if status is not None:
            span.set_attribute("http.response.status_code", status)
        if failure is not None:
            span.set_status(StatusCode.ERROR, failure.message)
        span.end(begun.start + round((batch.answered_at - batch.sent_at) * 1e9))

    async def close(self, seconds: float) -> None:
        """Export what is left, for so long at most; then it is lost.

        The SDK itself waits for a collector for up to 30 s, whatever it is told.
        """
        loop = asyncio.get_running_loop()
        exported = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(exported.set)

        threading.Thread(target=flush, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(seconds):
                await exported.wait()
        except TimeoutError:
            _log.warning("the last spans were not exported within %.1f s", seconds)

    def _begin(self, model: str, batch: Batch) -> _Begun | None:
        members = requests(batch)
        traced = _traced(members)
        if not traced:
            return None
        context = Context()
        if len(members) == 1:
            context = set_span_in_context(NonRecordingSpan(_context(traced[0])), context)
        start = time.time_ns() - round((self._clock() - batch.sent_at) * 1e9)
        links = [Link(_context(trace)) for trace in traced[: self._most]]
        span = self._tracer.start_span(
            f"infer {model}", context, SpanKind.CLIENT, links=links, start_time=start
        )
        begun = self._begun[batch] = _Begun(span, start, members)
        return begun


def _traced(members: Sequence[Pending]) -> list[TraceContext]:
    return [one.trace for one in members if one.trace is not None]


def _context(trace: TraceContext) -> SpanContext:
    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(
        trace.trace_id,
        trace.span_id,
        is_remote=True,
        trace_flags=TraceFlags(trace.flags),
        trace_state=state,
    )


def _attributes(
    model: str, batch: Batch, members: Sequence[Pending]
) -> dict[str, str | int | float]:
    found: dict[str, str | int | float] = {
        "tidegate.model": model,
        "tidegate.version": batch.version,
        "tidegate.level": min(one.level for one in members),
        "tidegate.batch.rows": batch.rows,
        "tidegate.batch.requests": len(members),
        "tidegate.batch.longest_wait": batch.sent_at - min(one.arrived for one in members),
    }
    arms = {one.arm for one in members}
    if len(arms) == 1:
        found["tidegate.arm"] = arms.pop()
    return found


class _Seldom(logging.Handler):
    """Passes on what the SDK has to say: of each of its modules one line a minute at most."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._next: dict[str, float] = {}
        self._kept_back: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        """Log a line, or count it."""
        if record.created < self._next.get(record.name, 0.0):
            self._kept_back[record.name] += 1
            return
        self._next[record.name] = record.created + _SECONDS_BETWEEN_LINES
        error = f" {record.exc_info[1]!r}" if record.exc_info else ""
        kept_back = self._kept_back.pop(record.name, 0)
        more = f" ({kept_back} such lines before)" if kept_back else ""
        _log.log(record.levelno, "%s%s%s", record.getMessage(), error, more)


def exported(*, pod: str, pod_uid: str, namespace: str) -> BatchSpans:
    """Make spans that are exported as OpenTelemetry's variables say, from the pod of that name.

    Raises:
        ValueError: a variable cannot be used.
    """
    sdk = logging.getLogger(_SDK)
    sdk.propagate = False  # an absent collector is worth several lines to it, every few seconds
    sdk.handlers = [_Seldom()]
    own = {
        "service.name": "tidegate-sidecar",
        "k8s.pod.name": pod,
        "k8s.pod.uid": pod_uid,
        "k8s.namespace.name": namespace,
    }
    told = OTELResourceDetector().detect().attributes
    resource = Resource.create({name: own[name] for name in own.keys() - told.keys()})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _log.info("spans of batches are exported by OTLP over HTTP")
    return BatchSpans(provider)
