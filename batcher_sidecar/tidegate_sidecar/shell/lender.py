"""Large tensors in memory shared with Triton, so that their bytes cross no socket between the two.

An arena is made and registered once a large batch wants it, and anew in every life of Triton: who
restarted does not know the region, whose name is never used again, and says so. What finds no
arena, or none that has room, goes over HTTP.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from tidegate_sidecar.core.exchange import Place
from tidegate_sidecar.core.request import Buffer, octets
from tidegate_sidecar.shell.arena import Arena, Piece
from tidegate_sidecar.shell.body import LARGE_BYTES
from tidegate_sidecar.shell.triton import PROBE_TIMEOUT, Triton, TritonError, TritonGoneError
from tidegate_sidecar.shell.upstream import Response

_GONE_PAUSE: Final = 1.0
_REFUSED_PAUSE: Final = 600.0
"""Seconds until it is tried again; what is refused is so for as long as the pod, or Triton, is."""
_JSON_BYTES: Final = 4096
"""Room before the outputs for the JSON of most answers: so an answer is in one piece."""
_TOO_SMALL: Final = b"shared memory size specified with the request for output"

_log = logging.getLogger(__name__)


class Loan:
    """What one batch has of an arena while Triton has the batch, and its answer afterwards."""

    def __init__(
        self, arena: Arena, given: Piece | None, answer: Piece | None, sizes: Mapping[str, int]
    ) -> None:
        self._arena = arena
        self._given, self._answer = given, answer
        self.place = Place(
            region=arena.name,
            inputs=given.begin if given else None,
            outputs=answer.begin + _JSON_BYTES if answer else None,
            sizes=sizes,
        )

    def fill(self, buffers: Sequence[Buffer]) -> Sequence[Buffer]:
        """Lay the inputs out; returns what is still to be sent."""
        if not self._given:
            return buffers
        begin = 0
        for buffer in buffers:
            end = begin + len(buffer)
            self._given.view[begin:end] = buffer
            begin = end
        return ()

    def read(self, response: Response) -> Response:
        """An answer together with its outputs, as if they had come behind its JSON."""
        if not self._answer:
            return response
        json = octets(response.body, response.json_length)
        begin = _JSON_BYTES - len(json)
        if begin >= 0:
            self._answer.view[begin:_JSON_BYTES] = json
            body: Buffer = self._answer.view[begin:].toreadonly()
        else:
            body = b"".join((json, self._answer.view[_JSON_BYTES:]))
        return response._replace(json_length=len(json), body=body)

    def unknown(self, response: Response) -> bool:
        """Whether Triton says that it does not know the region."""
        return self.place.region.encode() in bytes(response.body)

    def too_small(self, response: Response) -> bool:
        """Whether Triton says that an output is larger than its metadata told."""
        return _TOO_SMALL in bytes(response.body)

    def keep(self) -> None:
        """No answer came: Triton may read and write there at any time."""
        for piece in filter(None, (self._given, self._answer)):
            self._arena.keep(piece)
        self.retire()

    def retire(self) -> None:
        """Lend no more of this arena: Triton may have another life than when it was made."""
        self._arena.retired = True


class Lender:
    """Keeps an arena of ``size`` bytes registered with the Triton at ``address``; 0: none."""

    def __init__(self, size: int, address: str) -> None:
        self._size = size
        self._prefix = f"tidegate-{address.replace(':', '-')}-"
        self._arena: Arena | None = None
        self._wanted = asyncio.Event()
        self._said = ""

    @property
    def lends(self) -> bool:
        """Whether there is an arena now."""
        return self._arena is not None and not self._arena.retired

    def lend(self, given: int, sizes: Mapping[str, int]) -> Loan | None:
        """Lend memory for a batch's tensors, the large ones; None: all of them go over HTTP.

        ``given``: bytes of all inputs. ``sizes``: of each output; without those that nobody knows.
        """
        answer = sum(sizes.values())
        if not self._size or max(given, answer) < LARGE_BYTES:
            return None
        arena = self._arena
        if arena is None or arena.retired:
            self._wanted.set()
            return None
        into = arena.lend(given) if given >= LARGE_BYTES else None
        out_of = arena.lend(_JSON_BYTES + answer) if answer >= LARGE_BYTES else None
        return Loan(arena, into, out_of, sizes) if into or out_of else None

    async def run(self, triton: Triton) -> None:
        """Make arenas for ever, as they are wanted."""
        while True:
            await self._wanted.wait()
            try:
                self._arena = await self._opened(triton)
                self._say("")
            except TritonGoneError:
                await asyncio.sleep(_GONE_PAUSE)
            except (OSError, TritonError) as error:
                self._say(str(error))
                await asyncio.sleep(_REFUSED_PAUSE)
            self._wanted.clear()

    async def close(self, triton: Triton) -> None:
        """Have Triton give the memory back, where it can be reached and uses none of it."""
        arena, self._arena = self._arena, None
        if arena:
            with suppress(TritonError, TritonGoneError, TimeoutError):
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await triton.unregister(arena.name)

    async def _opened(self, triton: Triton) -> Arena:
        for left in await triton.regions():
            if left.startswith(self._prefix):
                with suppress(TritonError):  # it refuses while it uses one
                    await triton.unregister(left)
        arena = await asyncio.to_thread(Arena, self._prefix, self._size)
        try:
            await triton.register(arena.name, arena.size)
        finally:
            arena.hide()
        return arena

    def _say(self, problem: str) -> None:
        """Log how large tensors go, and when that changes."""
        if problem and problem != self._said:
            _log.warning("large tensors go to Triton over HTTP: %s", problem)
        elif not problem:
            _log.info("large tensors are in %d MiB shared with Triton", self._size // 2**20)
        self._said = problem
