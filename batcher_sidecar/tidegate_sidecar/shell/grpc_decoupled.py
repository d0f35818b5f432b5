"""Calls of decoupled models in a stream: passed to Triton, with the versions that are meant.

A decoupled model answers a call many times, or never, so such calls cannot be batched here. What
the protocol alone can judge of one is judged here, as it is for requests that are batched: Triton
never sees a malformed one. Nor does it see any other calls in streams: where both kinds have an
answer at the same time Triton 2.51 ends, even if they came in different streams.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from grpc.aio import AioRpcError, StreamStreamCall
from tritonclient.grpc.service_pb2 import ModelInferRequest

from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.refusal import malformed
from tidegate_sidecar.core.request import Call, Decoder
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.grpc_call import named_version
from tidegate_sidecar.shell.grpc_messages import call_of

_ENDED: Final = (AioRpcError, asyncio.InvalidStateError)
"""What writing meets once the stream to Triton has ended, which its reader tells."""
_FINAL: Final = "triton_enable_empty_final_response"
"""The one reserved parameter that Triton takes from a client: it concerns streams alone."""

Upstream: TypeAlias = StreamStreamCall[bytes, bytes]


class Decoupled:
    """Says which calls pass by the queue, and as what. ``forwarding``: the runtimes'."""

    def __init__(
        self,
        runtimes: Mapping[str, ModelRuntime],
        decoder: Decoder,
        forwarding: Forwarding | None,
        clock: Callable[[], float],
    ) -> None:
        self._runtimes = runtimes
        self._decoder = decoder
        self._forwarding = forwarding
        self._clock = clock

    def passes_by(self, request: Any, headers: Mapping[str, str]) -> bytes | None:
        """Write a call as Triton is to get it; None: it is one for the queue.

        Where some versions of a model are decoupled and others are not, its version is decided
        here: a call for the queue names it then, and is no evidence for anybody.

        Raises:
            Refusal: the client's mistake, or nothing can serve it.
        """
        runtime = self._runtimes.get(request.model_name)
        if runtime is None or not runtime.decoupled:
            take_final(request)
            return None
        checked = ModelInferRequest()
        checked.CopyFrom(request)
        take_final(checked)
        version = named_version(request.model_version)
        chosen = runtime.choose(self._read(checked), version, headers, self._clock())
        request.model_version = str(chosen)
        if not runtime.ready[chosen].decoupled:
            take_final(request)
            return None
        for name, value in (self._forwarding.chosen(headers) if self._forwarding else {}).items():
            request.parameters[name].string_param = value
        written: bytes = request.SerializeToString()
        return written

    def _read(self, request: Any) -> Call:
        """Read a call, which holds it to the protocol. Raises as ``passes_by``."""
        call = call_of(request)
        decoded, _ = self._decoder.decode(call.body, call.json_length)
        return decoded.call


class Passage:
    """One stream to Triton, opened with its first call. ``begin``: opens it. ``write``: takes its
    answers as they come.
    """

    def __init__(
        self, begin: Callable[[], Upstream], write: Callable[[bytes], Awaitable[None]]
    ) -> None:
        self._begin = begin
        self._write = write
        self._upstream: Upstream | None = None

    async def send(self, message: bytes, reading: asyncio.TaskGroup) -> None:
        """Pass a call on; ``reading`` has the task that waits for answers.

        That task fails with an AioRpcError where Triton ends the stream with an error.
        """
        if self._upstream is None:
            self._upstream = self._begin()
            reading.create_task(self._read_all(self._upstream))
        with suppress(*_ENDED):
            await self._upstream.write(message)

    async def done_writing(self) -> None:
        """Tell Triton that no more calls come."""
        if self._upstream is not None:
            with suppress(*_ENDED):
                await self._upstream.done_writing()

    def cancel(self) -> None:
        """Want no more answers."""
        if self._upstream is not None:
            self._upstream.cancel()

    async def _read_all(self, upstream: Upstream) -> None:
        async for answer in upstream:
            await self._write(answer)


def take_final(request: Any) -> None:
    """Take the reserved parameter out of a request: it changes nothing where answers are single.

    Raises:
        Refusal: it is not what Triton takes; that would leave the call without an answer.
    """
    if _FINAL in request.parameters:
        final = request.parameters.pop(_FINAL)
        if final.WhichOneof("parameter_choice") != "bool_param":
            raise malformed(f"parameters.{_FINAL}: must be true or false")
