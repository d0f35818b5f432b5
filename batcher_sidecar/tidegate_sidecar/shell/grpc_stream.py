"""A stream of inference calls, passed through to Triton with the versions that are meant.

Decoupled models answer a call many times, and sequences are many calls of one caller: neither can
be batched here. A sequence stays with the version of its first call until its last one. What the
protocol alone can judge of a call is judged here, as it is for requests that are batched: Triton
never sees a malformed one.

Calls of decoupled models go over a stream of their own. In one with others they end Triton 2.51, as
soon as both kinds have an answer at the same time; in two streams at once that is rare, but seen.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from grpc.aio import AioRpcError, StreamStreamCall
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from tidegate_sidecar.core.refusal import Refusal, malformed
from tidegate_sidecar.core.request import Call, Decoder
from tidegate_sidecar.shell.grpc_messages import call_of, parse_call

_ENDED: Final = (AioRpcError, asyncio.InvalidStateError)
"""What writing meets once the stream to Triton has ended, which its reader tells."""
_FINAL: Final = "triton_enable_empty_final_response"
"""The one reserved parameter that Triton takes from a client: it concerns streams alone."""

Choose = Callable[[Call, str, str, Mapping[str, str]], tuple[int, bool]]
"""The version for a call, and whether that is decoupled; by the call's model, the version that it
names and the stream's headers.

Raises Refusal where nothing can serve it."""


class Stream:
    """One client's stream. ``begin``: opens one to Triton. ``context``: the client's. ``told``:
    headers that models are told of.

    Calls of one stream may concern many models and versions; Triton's answers come as they are
    ready, and errors of single calls among them do not end the stream.
    """

    def __init__(
        self,
        choose: Choose,
        headers: Mapping[str, str],
        begin: Callable[[], StreamStreamCall[bytes, bytes]],
        context: Any,
        decoder: Decoder,
        told: Mapping[str, str],
    ) -> None:
        self._choose = choose
        self._headers = headers
        self._begin = begin
        self._upstreams: dict[bool, StreamStreamCall[bytes, bytes]] = {}
        self._reading = asyncio.TaskGroup()
        self._context = context
        self._decoder = decoder
        self._told = told
        self._writing = asyncio.Lock()

    async def run(self, calls: AsyncIterator[bytes]) -> None:
        """Pass messages both ways until both sides have ended.

        Raises:
            AioRpcError: Triton ended the stream with an error.
        """
        try:
            async with self._reading:
                async for message in calls:
                    await self._pass_on(message)
                for upstream in self._upstreams.values():
                    with suppress(*_ENDED):
                        await upstream.done_writing()
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed
        finally:
            for upstream in self._upstreams.values():
                upstream.cancel()

    async def _read_all(self, upstream: StreamStreamCall[bytes, bytes]) -> None:
        async for answer in upstream:
            await self._write(answer)

    async def _pass_on(self, message: bytes) -> None:
        request = None
        try:
            request = parse_call(message)
            version, decoupled = self._choose(
                self._read(request), request.model_name, request.model_version, self._headers
            )
            request.model_version = str(version)
            for name, value in self._told.items():
                request.parameters[name].string_param = value
        except Refusal as refusal:
            answer = ModelStreamInferResponse(error_message=refusal.message)
            answer.infer_response.id = request.id if request else ""
            with suppress(asyncio.InvalidStateError):
                await self._write(answer.SerializeToString())
            return
        upstream = self._upstreams.get(decoupled)
        if upstream is None:
            upstream = self._upstreams[decoupled] = self._begin()
            self._reading.create_task(self._read_all(upstream))
        with suppress(*_ENDED):
            await upstream.write(request.SerializeToString())

    def _read(self, request: Any) -> Call:
        """Read a call, which holds it to the protocol.

        Raises:
            Refusal: the client's mistake, by field.
        """
        checked = ModelInferRequest()
        checked.CopyFrom(request)
        if _FINAL in checked.parameters:
            final = checked.parameters.pop(_FINAL)
            if final.WhichOneof("parameter_choice") != "bool_param":  # Triton would hang
                raise malformed(f"parameters.{_FINAL}: must be true or false")
        call = call_of(checked)
        decoded, _ = self._decoder.decode(call.body, call.json_length)
        return decoded.call

    async def _write(self, answer: bytes) -> None:
        async with self._writing:
            await self._context.write(answer)
