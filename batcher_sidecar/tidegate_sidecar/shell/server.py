"""The data plane: KServe v2 over HTTP in, batches to Triton out.

Decisions are the core's. This room hands requests in, sends the batches that it is told to send,
and writes the answers that it is given.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from http import HTTPStatus
from math import inf
from typing import Any, Final, Protocol, TypeVar

import msgspec

from tidegate_contract import names
from tidegate_sidecar.core.batcher import Batch
from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.delivery import Result, error
from tidegate_sidecar.core.endpoints import Kind, Target, check_region_key, not_offered
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, malformed, too_large, unavailable
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.room import Room
from tidegate_sidecar.core.runtime import ModelRuntime, Pair
from tidegate_sidecar.core.trace_context import sampled
from tidegate_sidecar.core.wire import IndexQueryJson, RegionJson
from tidegate_sidecar.shell import upstream
from tidegate_sidecar.shell.connection import Caller, Connection, Watch
from tidegate_sidecar.shell.http import RequestHead, RequestMemory
from tidegate_sidecar.shell.lender import Lender, Loan

_log = logging.getLogger(__name__)

_JSON: Final = b"Content-Type: application/json\r\n"
_TOKEN_FIELD: Final = f"{names.HEADER_FEEDBACK}: %b\r\n".encode()
_BINARY: Final = b"Content-Type: application/octet-stream\r\n"
_OK: Final = HTTPStatus.OK.value
_DRAIN_STEP: Final = 0.05
_CLEARING_SECONDS: Final = 0.05
"""How long what is under way is waited for before a load; what is slower takes its chance."""
_CLEARING_STEP: Final = 0.002
_TAKING_SECONDS: Final = 0.02
"""Within this Triton has taken a call from its socket."""
_HEAVY: Final = 2**20
"""Bytes of a body from which on reading it may make very many objects, if it is JSON."""
_LARGE: Final = 64 * 2**10
"""Bytes of pairs that are judged together; fewer are compared within a few milliseconds."""
_JSON_PART: Final = 4
"""Numbers take 12 times as much memory as their JSON, texts up to 50 times, while they are read."""
_TELL_SECONDS: Final = 60.0
_Read = TypeVar("_Read")
"""What a member of a batch gets of its answer."""
_MISTAKE: Final = Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "a mistake of the sidecar")


class Spans(Protocol):
    """Who tells of batches by spans, of those with requests that are traced."""

    def begin(self, model: str, batch: Batch) -> str:
        """Take note that a batch is sent; returns header lines for the model server."""

    def end(self, model: str, batch: Batch, status: int | None, failure: Refusal | None) -> None:
        """Take note that it was answered, before those are forgotten whom its carriers stood for.

        ``status``: HTTP's; None: no answer came. ``failure``: what all of its members get.
        """

    async def close(self, seconds: float) -> None:
        """Hand out what was noted, for so long at most."""


class DataPlane:
    """Serves every model of one pod.

    ``triton_url``: host:port. ``clock``: seconds, steady; the one that ``metrics.render`` is given.
    ``epoch``: seconds since 1970. ``health_ready``: what ``/v2/health/ready`` answers; the control
    side sets it. ``shared_memory``: clients may register regions of it. ``lender``: of memory for
    large tensors, without which all go over HTTP. ``spans``: None: nothing is traced. ``room``:
    for requests, None: as much as they like.
    """

    def __init__(
        self,
        runtimes: Mapping[str, ModelRuntime],
        triton_url: str,
        clock: Callable[[], float] = time.monotonic,
        epoch: Callable[[], float] = time.time,
        *,
        shared_memory: bool = False,
        lender: Lender | None = None,
        spans: Spans | None = None,
        room: Room | None = None,
    ) -> None:
        self.room = room or Room(sys.maxsize)
        self._told_at = -inf
        self._shared_memory = shared_memory
        self.health_ready: Callable[[], bool] = lambda: False
        self.draining = False
        self.connections: set[Connection] = set()
        self.read_head: Callable[[bytes], RequestHead] = RequestMemory()
        self._clock = clock
        self._epoch = epoch
        self._triton: upstream.Upstream = upstream.Pool(triton_url)
        self._models: dict[str, _Model] = {}
        for name, runtime in runtimes.items():
            pod = self._models.values()
            self._models[name] = _Model(runtime, self._triton, clock, pod, lender, spans)
        self._server: asyncio.Server | None = None
        self._watch = Watch(self.connections)
        self._asking: set[asyncio.Task[None]] = set()
        self._clearing = asyncio.Lock()

    async def start(self, host: str, port: int) -> None:
        """Listen.

        Raises:
            OSError: the address is taken.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), host, port, backlog=1024)
        self._watch.start()

    def table_changed(self, model: str) -> None:
        """Re-plan what waits, after a table or the readiness of a version changed."""
        self._models[model].replan()

    async def drain(self, grace: float) -> None:
        """Accept nothing more, answer what was accepted, close; at most ``grace`` seconds.

        What came in part counts as accepted. Idle connections are closed at the end, so that a
        request that is on its way meanwhile is still answered.
        """
        self.draining = True
        for model in self._models.values():
            model.runtime.mirror.stop()
        if self._server:
            self._server.close()
        deadline = self._clock() + grace
        await asyncio.sleep(_DRAIN_STEP)  # what the kernel has already is read
        while self._under_way() and self._clock() < deadline:  # noqa: ASYNC110 - changes all over
            await asyncio.sleep(_DRAIN_STEP)
        for connection in list(self.connections):
            connection.shut(unavailable("this pod is shutting down"))
        self._watch.stop()
        self._triton.close()

    async def clear_of(self, call: Coroutine[Any, Any, None]) -> None:
        """Await a call that occupies Triton's control interface, out of its way.

        Triton gives every HTTP connection to one of its threads for good, and a load occupies its
        thread until the version is up: batches on that thread's other connections wait as long
        (seen on 2.51: 9 of 16 connections stood still for the 2 s of a load). New connections go to
        threads that are free. So nothing is sent while the call finds its thread, and what is sent
        after that goes over new connections.
        """
        async with self._clearing:
            self._set_held(held=True)
            try:
                deadline = self._clock() + _CLEARING_SECONDS
                while self._triton.busy and self._clock() < deadline:  # noqa: ASYNC110 - brief
                    await asyncio.sleep(_CLEARING_STEP)
                task = asyncio.ensure_future(call)
                await asyncio.sleep(_TAKING_SECONDS)
                self._triton.renew()
            finally:
                self._set_held(held=False)
        await task

    def _set_held(self, *, held: bool) -> None:
        for model in self._models.values():
            model.hold(held=held)

    def admit(self, head: RequestHead, size: int, begun: int = 0) -> None:
        """Take ``size`` bytes more of a body from ``room``; see ``Room.take``.

        Raises:
            Refusal: there is no room, which is counted.
        """
        try:
            self.room.take(size, begun)
        except Refusal as refusal:
            self._turn_away(head, refusal)
            raise

    def _turn_away(self, head: RequestHead, refusal: Refusal) -> None:
        """Count a request whose body is not looked at, and say now and then that there are some."""
        target = head.target
        if (
            isinstance(target, Target)
            and target.kind is Kind.INFER
            and target.model in self._models
        ):
            self._models[target.model].runtime.turn_away(refusal)
        now = self._clock()
        if now - self._told_at >= _TELL_SECONDS:
            self._told_at = now
            _log.warning("requests are refused for their size: %s", refusal.message)

    def handle(self, connection: Caller, head: RequestHead, body: Buffer) -> None:
        """Answer a request, now or later.

        Raises:
            Refusal: it is not offered here, or is malformed, or cannot be served.
        """
        target = head.target
        if isinstance(target, Refusal):  # not raised: whatever was is kept in it, and it is kept
            connection.refuse(target)
        elif target.kind is Kind.INFER:
            model = self._model(target.model)
            if len(body) < _HEAVY:
                model.infer(connection, head, target.version, body)
            else:
                self._check_json(head, body)
                with _uncollected():
                    model.infer(connection, head, target.version, body)
        elif target.kind is Kind.FEEDBACK:
            receipt = self._model(target.model).runtime.feedback.take(body, self._epoch())
            connection.respond(HTTPStatus.OK, _JSON, [msgspec.json.encode(receipt)])
        elif target.kind is Kind.READY:
            ready = self.health_ready() and not self.draining
            status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
            connection.respond(status, b"", [])
        elif target.kind is Kind.SHARED_MEMORY and not self._shared_memory:
            raise not_offered(f"{target.method} {target.path}")
        else:
            task = asyncio.get_running_loop().create_task(self._ask(connection, target, body))
            connection.cancel = partial(_stop, task)
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    def _check_json(self, head: RequestHead, body: Buffer) -> None:
        """Refuse JSON that would take too much memory while it is read."""
        size = len(body) if head.json_length is None else head.json_length
        most = self.room.largest // _JSON_PART
        if size > most:
            refusal = too_large(
                f"more than {most} bytes of JSON, which is what this pod's memory is"
                " enough for: send tensors as binary data"
            )
            self._turn_away(head, refusal)
            raise refusal

    def _under_way(self) -> bool:
        return any(connection.under_way for connection in self.connections)

    def _model(self, name: str) -> "_Model":
        if model := self._models.get(name):
            return model
        raise Refusal(HTTPStatus.NOT_FOUND, f"model {name!r} is not served here")

    async def _ask(self, connection: Caller, target: Target, body: Buffer) -> None:
        """Answer what Triton itself is asked."""
        try:
            response = await self._triton.request(self._plain_request(target, body))
        except Refusal as refusal:
            connection.refuse(refusal)
            return
        except Exception:  # noqa: BLE001 - whatever it is, this client gets an answer
            _log.exception("a question met a mistake of ours")
            connection.refuse(_MISTAKE)
            return
        fields = f"Content-Type: {response.content_type}\r\n".encode()
        connection.respond(response.status, fields, [response.body])

    def _plain_request(self, target: Target, body: Buffer) -> list[Buffer]:
        default = 0
        if target.kind is Kind.TRITON_MODEL:
            runtime = self._model(target.model).runtime
            default = target.version or runtime.default_version
        body = _written_anew(target.path, body) if target.method == "POST" else b""
        path = target.triton_path(default)
        return upstream.plain_request(self._triton.url, target.method, path, body)


class _Model:
    """Drives one model's runtime: polls it when something happened, and when it asks for it."""

    def __init__(
        self,
        runtime: ModelRuntime,
        triton: upstream.Upstream,
        clock: Callable[[], float],
        pod: "Collection[_Model]",
        lender: Lender | None,
        spans: Spans | None,
    ) -> None:
        self._lender = lender
        self._spans = spans
        self.runtime = runtime
        self._pod = pod
        self._triton = triton
        self._clock = clock
        self._scheduled = False
        self._held = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake_at = inf
        self._comparing: set[asyncio.Task[None]] = set()

    def infer(
        self, connection: Caller, head: RequestHead, version: int | None, body: Buffer
    ) -> None:
        """Let an inference request in.

        Raises:
            Refusal: it gets no inference.
        """
        now = self._clock()
        pending = self.runtime.submit(
            connection,
            body,
            json_length=head.json_length,
            version=version,
            headers=head.headers,
            now=now,
        )
        if self._spans is not None:
            pending.trace = sampled(head.headers)
        connection.cancel = partial(self._cancel, pending)
        # While a batch is in flight most requests change nothing, and a poll costs 3 us.
        if not self._scheduled and (
            pending.answer_by < self._wake_at
            or pending.send_by < self._wake_at
            or self.runtime.stirs(pending, now)
        ):
            self._schedule()

    def replan(self) -> None:
        """See to what waited for a version that has gone."""
        for pending, refusal in self.runtime.replan(self._clock()):
            self._answer(pending, refusal)
        self._schedule()

    def hold(self, *, held: bool) -> None:
        """Send nothing while held."""
        self._held = held
        if not held:
            self._schedule()

    def _cancel(self, pending: Pending) -> None:
        self.runtime.cancel(pending, self._clock())

    def _schedule(self) -> None:
        """Poll once, after all that this round of the event loop brings: batches are larger."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._poll)

    def _poll(self) -> None:
        self._scheduled = False
        if self._held:
            return
        now = self._clock()
        for batch in self.runtime.poll(now, quiet=self._is_quiet()):
            self._send(batch, self._lender)
        for pending, refusal in self.runtime.given_up(now):
            self._answer(pending, refusal)
        self._hand_out()
        self._wake(now)

    def _hand_out(self) -> None:
        """Answer those who were in no batch."""
        for pending, result in self.runtime.handed_out():
            self._answer(pending, result)

    def _wake(self, now: float) -> None:
        """See to it that the next poll comes in time; one too early costs less than a new timer."""
        wake = self.runtime.next_wake()
        if self._timer and (wake is None or wake < self._wake_at):
            self._timer.cancel()
            self._timer, self._wake_at = None, inf
        if wake is not None and not self._timer:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(wake - now, 0.0), self._woken)
            self._wake_at = wake

    def _woken(self) -> None:
        self._timer, self._wake_at = None, inf
        self._schedule()

    def _is_quiet(self) -> bool:
        """Whether no other model of the pod has requests waiting; asked for shadows alone."""
        return not self.runtime.mirror.on or not any(
            model.runtime.waiting for model in self._pod if model is not self
        )

    def _send(self, batch: Batch, lender: Lender | None) -> None:
        try:
            loan = lender.lend(*self.runtime.sizes(batch)) if lender else None
            json, tensors = self.runtime.encode(batch, loan.place if loan else None)
            buffers = loan.fill(tensors) if loan else tensors
        except Exception:  # noqa: BLE001 - whatever it is, everybody gets an answer
            _log.exception("a batch could not be written")
            self._done(batch, _MISTAKE)
            return
        path = f"/v2/models/{self.runtime.model}/versions/{batch.version}/infer"
        fields = ""
        if self._spans is not None and not batch.shadow:
            fields = self._spans.begin(self.runtime.model, batch)
        request = upstream.infer_request(self._triton.url, path, json, buffers, fields)
        done = partial(self._returned, batch, loan) if loan else partial(self._done, batch)
        self._triton.send(request, done)
        batch.written_at = self._clock()

    def _returned(self, batch: Batch, loan: Loan, response: upstream.Response | Refusal) -> None:
        """End a loan. What failed for the memory's sake alone goes again, over HTTP."""
        if isinstance(response, Refusal):
            loan.keep()
        elif response.status == _OK:
            response = loan.read(response)
        elif loan.unknown(response):
            loan.retire()
            self._send(batch, None)
            return
        elif loan.too_small(response):
            batch.served.distrust()
            self._send(batch, None)
            return
        self._done(batch, response)

    def _done(self, batch: Batch, response: upstream.Response | Refusal) -> None:
        """Answer every member, whatever it was that came.

        What waits is sent before that, so that the model server works while answers are written;
        where nothing waits, nobody's answer waits for the accounts.
        """
        batch.answered_at = self._clock()
        if batch.shadow:
            self._shadows_done(batch, response)
            return
        results = self._results(batch, response, self.runtime.complete, self.runtime.fail)
        others = self.runtime.waiting
        if others:
            self._free(batch, results)
        for pending, result in zip(batch.members, results, strict=True):
            if result is not None and not pending.cancelled:
                self._answer(pending, result)
        if not others:
            self._free(batch, results)
        if self.runtime.mirror.on and not isinstance(response, Refusal):
            self._reflect(batch, response, results)
        if self._spans is not None:
            status = None if isinstance(response, Refusal) else response.status
            self._spans.end(self.runtime.model, batch, status, _failure(response, results))
        self.runtime.count(batch, results, self._clock())
        self._hand_out()
        if self.runtime.waiting or self.runtime.mirror.on:
            self._schedule()
        if len(self._pod) > 1:
            self._wake_others()

    def _free(self, batch: Batch, results: Sequence[Result | None]) -> None:
        """Send what comes next in a batch's slot."""
        if after := self.runtime.free(batch, results, batch.answered_at):
            self._send(after, self._lender)
        elif self.runtime.waiting and not batch.flies_on:
            self._poll()

    def _wake_others(self) -> None:
        """Shadows and slices of other models may have waited for what this one had to do."""
        for model in self._pod:
            if model.runtime.waiting or model.runtime.mirror.on:
                model._schedule()  # noqa: SLF001 - of the same class

    def _reflect(
        self, batch: Batch, response: upstream.Response, results: Sequence[Result | None]
    ) -> None:
        """Mirror what has been answered."""
        _, json_length, _, body = response
        try:
            self.runtime.reflect(batch, json_length, body, results, self._clock())
        except Exception:  # noqa: BLE001 - it is answered, and must be finished
            _log.exception("a request could not be mirrored")

    def _shadows_done(self, batch: Batch, response: upstream.Response | Refusal) -> None:
        """Compare, in place of answering: nobody waits."""
        results = self._results(batch, response, self.runtime.complete_shadows, _all)
        pairs = self.runtime.finish_shadows(batch, results, self._clock())
        task = asyncio.get_running_loop().create_task(self._compare(pairs))
        self._comparing.add(task)
        task.add_done_callback(self._comparing.discard)
        self._schedule()

    async def _compare(self, pairs: Sequence[Pair]) -> None:
        """Judge pairs; large answers are compared aside, so that nobody's request stands still."""
        large = sum(shadow.held for shadow, _ in pairs) > _LARGE
        try:
            for pair in pairs:
                compare = partial(self.runtime.mirror.compare, *pair)
                found = await asyncio.to_thread(compare) if large else compare()
                self.runtime.judge(pair, found, self._clock())
        except Exception:  # noqa: BLE001 - real requests go on
            _log.exception("answers could not be compared")

    def _results(
        self,
        batch: Batch,
        response: upstream.Response | Refusal,
        read: Callable[[Batch, int, int | None, Buffer], Sequence[_Read]],
        fail: Callable[[Batch, Refusal], Sequence[_Read]],
    ) -> Sequence[_Read]:
        """What ``read`` makes of an answer, ``fail`` of none."""
        if isinstance(response, Refusal):
            return fail(batch, response)
        status, json_length, _, body = response
        try:
            return read(batch, status, json_length, body)
        except Exception:  # noqa: BLE001 - as above
            _log.exception("an answer could not be read")
            return fail(batch, _MISTAKE)

    def _answer(self, pending: Pending, result: Result) -> None:
        connection: Caller = pending.caller
        if isinstance(result, Refusal):
            labels = _labels(self.runtime.model, pending.version, pending.arm)
            connection.refuse(result, labels)
            return
        json_length = len(result.json) if result.binary else None
        fields = _fields(self.runtime.model, pending.version, pending.arm, json_length)
        if pending.subject and (token := self.runtime.feedback.token(pending.subject)):
            fields += _TOKEN_FIELD % token
        connection.respond(_OK, fields, (result.json, *result.data))


def _written_anew(path: str, body: Buffer) -> bytes:
    """Keep of what is posted what is known of it."""
    registers = path.endswith("/register")
    try:
        query = msgspec.json.decode(body or b"{}", type=RegionJson if registers else IndexQueryJson)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(f"request: {error}") from error
    if isinstance(query, RegionJson):
        check_region_key(query.key)
    return msgspec.json.encode(query)


def _failure(
    response: upstream.Response | Refusal, results: Sequence[Result | None]
) -> Refusal | None:
    """Why a batch failed; None: it did not."""
    if isinstance(response, Refusal):
        return response
    if response.status != _OK:
        return error(response.status, response.body)
    refusals = [one for one in results if isinstance(one, Refusal)]
    return refusals[0] if len(refusals) == len(results) else None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Make many objects at once, most of them for a moment.

    Garbage would be looked for among them again and again, which is 9 of 10 parts of the time: a
    body of 56 MiB full of small inputs would hold up everybody for 6 s.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _stop(task: asyncio.Task[None]) -> None:
    """Let a question be whose caller has gone."""
    task.cancel()


def _all(batch: Batch, refusal: Refusal) -> list[Tensors | Refusal]:
    return [refusal] * len(batch.members)


@lru_cache(maxsize=1024)
def _labels(model: str, version: int, arm: str) -> bytes:
    """Header lines that say who gave an answer."""
    return (
        f"{names.HEADER_MODEL}: {model}\r\n"
        f"{names.HEADER_VERSION}: {version}\r\n{names.HEADER_ARM}: {arm}\r\n"
    ).encode()


@lru_cache(maxsize=1024)
def _fields(model: str, version: int, arm: str, json_length: int | None) -> bytes:
    """Header lines of an answer. ``json_length``: the rest of it is binary data; None: all."""
    form = _JSON
    if json_length is not None:
        form = b"%bInference-Header-Content-Length: %d\r\n" % (_BINARY, json_length)
    return form + _labels(model, version, arm)
