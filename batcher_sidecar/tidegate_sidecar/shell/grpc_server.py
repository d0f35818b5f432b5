"""KServe v2 over gRPC: inference into the same queue as over HTTP, the rest to Triton's own gRPC.

An inference call is handed to the data plane as the HTTP request that says the same, so that its
rules, its batches and its counters are those of HTTP; so is each call of a stream. Questions pass
through, with the version that is meant written in.
"""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final

import grpc
import grpc.aio
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as messages

from tidegate_sidecar.core.endpoints import (
    RPC_SERVICE,
    Kind,
    check_region_key,
    not_offered,
    understand_rpc,
)
from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.refusal import Refusal, malformed, unavailable
from tidegate_sidecar.core.request import Decoder
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.grpc_call import (
    Plane,
    Waiting,
    headers_of,
    named_version,
    with_deadline,
)
from tidegate_sidecar.shell.grpc_decoupled import Decoupled, Upstream
from tidegate_sidecar.shell.grpc_messages import parse_call, write_answer
from tidegate_sidecar.shell.grpc_stream import Stream
from tidegate_sidecar.shell.http import MAX_BODY_BYTES, MAX_HEAD_BYTES

_FRAME_BYTES: Final = 2**20
"""What a message may hold beside its tensors."""
_OPTIONS: Final = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_metadata_size", MAX_HEAD_BYTES),
    ("grpc.server_handshake_timeout_ms", 30_000),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error
)
_CODES: Final[dict[int, grpc.StatusCode]] = {
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.TOO_MANY_REQUESTS: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.NOT_IMPLEMENTED: grpc.StatusCode.UNIMPLEMENTED,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_SHUTTING_DOWN: Final = unavailable("this pod is shutting down")
_REQUESTS: Final = {
    "ServerLive": messages.ServerLiveRequest,
    "ServerMetadata": messages.ServerMetadataRequest,
    "RepositoryIndex": messages.RepositoryIndexRequest,
    "ModelReady": messages.ModelReadyRequest,
    "ModelMetadata": messages.ModelMetadataRequest,
    "ModelConfig": messages.ModelConfigRequest,
    "ModelStatistics": messages.ModelStatisticsRequest,
    "SystemSharedMemoryStatus": messages.SystemSharedMemoryStatusRequest,
    "SystemSharedMemoryRegister": messages.SystemSharedMemoryRegisterRequest,
    "SystemSharedMemoryUnregister": messages.SystemSharedMemoryUnregisterRequest,
}
_DETAILS: Final = 400
"""Characters: clients take 8 KiB of metadata, and give up on a call that has more."""
_NOT_READY: Final = b""
"""``ModelReadyResponse`` of a model that is not here: no error, to Triton."""

Metadata = tuple[tuple[str, str], ...]


class GrpcServer:
    """The gRPC face of one pod.

    ``triton``: host:port of Triton's own. ``clock``, ``shared_memory``: the data plane's.
    ``forwarding``: the runtimes', here for streams.
    """

    def __init__(
        self,
        plane: Plane,
        runtimes: Mapping[str, ModelRuntime],
        triton: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        shared_memory: bool = False,
        forwarding: Forwarding | None = None,
    ) -> None:
        self._plane = plane
        self._decoupled = Decoupled(
            runtimes, Decoder(shared_memory=shared_memory), forwarding, clock
        )
        self._stopping = asyncio.Event()
        self._shared_memory = shared_memory
        self._runtimes = runtimes
        self._triton = triton
        self._server: grpc.aio.Server
        self._channel: grpc.aio.Channel

    async def start(self, host: str, port: int) -> None:
        """Listen; ``host`` empty: on every address.

        Raises:
            OSError: the address is taken.
        """
        self._channel = grpc.aio.insecure_channel(
            self._triton,
            options=(("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)),
        )
        most = min(MAX_BODY_BYTES, self._plane.room.largest) + _FRAME_BYTES
        options = (*_OPTIONS, ("grpc.max_receive_message_length", most))
        self._server = grpc.aio.server(handlers=[self], options=options)
        try:
            self._server.add_insecure_port(f"{host or '[::]'}:{port}")
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen on port {port}: {error}") from error
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Accept nothing more, answer what was accepted, for at most ``grace`` seconds.

        Streams end as soon as all that was taken from them is answered.
        """
        self._stopping.set()
        await self._server.stop(grace)
        await self._channel.close()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """Say who handles a method; messages stay bytes until then."""
        service, _, method = details.method.lstrip("/").partition("/")
        try:
            kind = understand_rpc(service, method)
            if kind is Kind.SHARED_MEMORY and not self._shared_memory:
                raise not_offered(f"{service}/{method}")
        except Refusal as refusal:
            return grpc.stream_stream_rpc_method_handler(_refusing(refusal))
        if kind is Kind.INFER:
            return grpc.unary_unary_rpc_method_handler(self._infer)
        if kind is Kind.STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        if kind is Kind.READY:
            return grpc.unary_unary_rpc_method_handler(self._ready)

        async def ask(message: bytes, context: Any) -> bytes:
            return await self._ask(method, message, context)

        return grpc.unary_unary_rpc_method_handler(ask)

    async def _infer(self, message: bytes, context: Any) -> bytes:
        waiting = Waiting()
        with waiting.told():
            request = parse_call(message)
            waiting.id = request.id
            headers = headers_of(context.invocation_metadata())
            waiting.hand_in(self._plane, request, with_deadline(headers, context.time_remaining()))
        answer = await waiting.answer(write_answer)
        context.set_trailing_metadata(_metadata(waiting.fields))
        return await _abort(context, answer) if isinstance(answer, Refusal) else answer

    async def _ready(self, message: bytes, context: Any) -> bytes:  # noqa: ARG002 - says nothing
        ready = self._plane.health_ready() and not self._plane.draining
        written: bytes = messages.ServerReadyResponse(ready=ready).SerializeToString()
        return written

    async def _ask(self, method: str, message: bytes, context: Any) -> bytes:
        """Answer what Triton itself is asked."""
        try:
            question = self._question(method, message)
        except Refusal as refusal:
            if method == "ModelReady" and refusal.status == HTTPStatus.NOT_FOUND:
                return _NOT_READY
            return await _abort(context, refusal)
        ask = self._channel.unary_unary(f"/{RPC_SERVICE}/{method}")
        try:
            answer: bytes = await ask(question, timeout=context.time_remaining())
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
            raise
        return answer

    def _question(self, method: str, message: bytes) -> bytes:
        """Write a question anew: what is not known of it stays here, and a version is named."""
        kind = _REQUESTS[method]
        try:
            question = kind.FromString(message)
        except DecodeError as error:
            raise malformed(f"the message is no {kind.DESCRIPTOR.name}") from error
        question.DiscardUnknownFields()
        if "version" in kind.DESCRIPTOR.fields_by_name and question.name:
            default = self._runtime(question.name).default_version
            question.version = str(named_version(question.version) or default)
        if isinstance(question, messages.SystemSharedMemoryRegisterRequest):
            check_region_key(question.key)
        written: bytes = question.SerializeToString()
        return written

    def _runtime(self, model: str) -> ModelRuntime:
        if runtime := self._runtimes.get(model):
            return runtime
        raise Refusal(HTTPStatus.NOT_FOUND, f"model {model!r} is not served here")

    async def _stream(self, calls: AsyncIterator[bytes], context: Any) -> None:
        def begin() -> Upstream:
            upstream = self._channel.stream_stream(f"/{RPC_SERVICE}/ModelStreamInfer")
            return upstream(timeout=context.time_remaining())

        headers = headers_of(context.invocation_metadata())
        stream = Stream(self._plane, self._decoupled, headers, begin, context)
        try:
            ended = await stream.run(calls, self._stopping)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "")
            raise
        if not ended:
            await _abort(context, _SHUTTING_DOWN)


def _refusing(refusal: Refusal) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[bytes]]:
    async def refuse(_: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        yield await _abort(context, refusal)

    return refuse


async def _abort(context: Any, refusal: Refusal) -> bytes:
    """End a call with an error; the trailing metadata stay as they were set.

    Raises:
        Exception: always, as gRPC wants it.
    """
    code = _CODES.get(refusal.status, grpc.StatusCode.INTERNAL)
    trailing = context.trailing_metadata() or ()
    if refusal.retry_after is not None:
        trailing = (*trailing, ("retry-after", str(max(1, math.ceil(refusal.retry_after)))))
    await context.abort(code, _details(refusal.message), trailing)
    raise refusal


def _details(message: str) -> str:
    """A message as it fits into metadata, where what is not ASCII takes up to 12 bytes."""
    return message if message.isascii() else message[:_DETAILS]


@lru_cache(maxsize=1024)
def _metadata(fields: bytes) -> Metadata:
    """The header lines of an answer that are ours, as metadata."""
    lines = (line.partition(": ") for line in fields.decode().splitlines())
    return tuple((name, value) for name, _, value in lines if name.startswith("tidegate-"))
