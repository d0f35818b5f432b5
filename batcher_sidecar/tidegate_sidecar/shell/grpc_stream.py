"""A stream of inference calls, passed through to Triton with the versions that are meant.

Decoupled models answer a call many times, and sequences are many calls of one caller: neither can
be batched here. A sequence stays with the version of its first call until its last one. What the
protocol alone can judge of a call is judged here, as it is for requests that are batched: Triton
never sees a malformed one.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from grpc.aio import AioRpcError, StreamStreamCall
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelStreamInferResponse

from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Call, Decoder
from tidegate_sidecar.shell.grpc_messages import call_of, parse_call

_FINAL: Final = "triton_enable_empty_final_response"
"""The one reserved parameter that Triton takes from a client: it concerns streams alone."""

Choose = Callable[[Call, str, str, Mapping[str, str]], int]
"""The version for a call, by its model, the version that it names and the stream's
headers.

Raises Refusal where nothing can serve it."""


class Stream:
    """One client's stream. ``upstream``: the stream to Triton. ``context``: the client's. ``told``:
    headers that models are told of.

    Calls of one stream may concern many models and versions; Triton's answers come as they are
    ready, and errors of single calls among them do not end the stream.
    """

    def __init__(
        self,
        choose: Choose,
        headers: Mapping[str, str],
        upstream: StreamStreamCall[bytes, bytes],
        context: Any,
        decoder: Decoder,
        told: Mapping[str, str],
    ) -> None:
        self._choose = choose
        self._headers = headers
        self._upstream = upstream
        self._context = context
        self._decoder = decoder
        self._told = told
        self._writing = asyncio.Lock()

    async def run(self, calls: AsyncIterator[bytes]) -> None:
        """Pass messages both ways until both sides have ended.

        Raises:
            AioRpcError: Triton ended the stream with an error.
        """
        forwarding = asyncio.create_task(self._forward(calls))
        try:
            async for answer in self._upstream:
                await self._write(answer)
        finally:
            forwarding.cancel()
            self._upstream.cancel()

    async def _forward(self, calls: AsyncIterator[bytes]) -> None:
        try:
            async for message in calls:
                await self._pass_on(message)
            await self._upstream.done_writing()
        except (AioRpcError, asyncio.InvalidStateError):
            pass  # the stream to Triton has ended, which its reader tells
        except BaseException:
            self._upstream.cancel()
            raise

    async def _pass_on(self, message: bytes) -> None:
        request = None
        try:
            request = parse_call(message)
            version = self._choose(
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
        await self._upstream.write(request.SerializeToString())

    def _read(self, request: Any) -> Call:
        """Read a call, which holds it to the protocol.

        Raises:
            Refusal: the client's mistake, by field.
        """
        checked = ModelInferRequest()
        checked.CopyFrom(request)
        checked.parameters.pop(_FINAL, None)
        call = call_of(checked)
        decoded, _ = self._decoder.decode(call.body, call.json_length)
        return decoded.call

    async def _write(self, answer: bytes) -> None:
        async with self._writing:
            await self._context.write(answer)
