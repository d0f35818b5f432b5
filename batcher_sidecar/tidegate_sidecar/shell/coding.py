"""Content codings of HTTP: bodies that come compressed, and answers that are wanted so.

What is small is coded at once; what is large, aside, so that nobody's request stands still. Large
bodies are inflated one at a time, and none beyond what a body may hold: however many bombs come,
one is unpacked.
"""

import asyncio
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tidegate_sidecar.core.refusal import Refusal, malformed, too_large
from tidegate_sidecar.core.request import Buffer

AT_ONCE_BYTES: Final = 16 * 2**10
"""Up to here a coder takes less time than a thread would cost the others."""
WORTH_BYTES: Final = 1024
"""Below, an answer is as small as its head: it goes as it is."""
CODINGS: Final = ("gzip", "deflate")

_WINDOW: Final = {"gzip": 31, "deflate": 15}
"""zlib's name for the form of a stream."""
_LEVEL: Final = 1
"""The fastest: tensors compress badly at any level."""
_STEP_BYTES: Final = 2**16
_unpacking = ThreadPoolExecutor(1, "unpacking")


class Inflater:
    """Unpacks a body of at most ``most`` bytes, piece by piece."""

    def __init__(self, body: Buffer, coding: str, most: int) -> None:
        self._zlib = zlib.decompressobj(_WINDOW[coding])
        self._packed = memoryview(body)
        self._most = most
        self._coding = coding
        self._size = 0
        self._parts: list[bytes] = []

    def unpack(self, count: int) -> bool:
        """Unpack at least ``count`` bytes more, or all that is left; whether that was all.

        Raises:
            Refusal: the body is not what its coding says, or is larger than it may be.
        """
        enough = self._size + count
        while self._size < enough and not self._zlib.eof:
            self._step()
        if not self._zlib.eof:
            return False
        if self._packed or self._zlib.unused_data:
            raise malformed(f"header content-encoding: more follows the {self._coding}")
        return True

    def _step(self) -> None:
        piece: Buffer = self._zlib.unconsumed_tail
        if not piece:
            piece, self._packed = self._packed[:_STEP_BYTES], self._packed[_STEP_BYTES:]
        try:
            part = self._zlib.decompress(piece, _STEP_BYTES)
        except zlib.error as error:
            raise malformed(f"header content-encoding: no {self._coding}: {error}") from error
        if not (part or piece or self._zlib.eof):
            raise malformed(f"header content-encoding: the {self._coding} ends too early")
        self._size += len(part)
        self._parts.append(part)
        if self._size > self._most:
            raise too_large(f"more than {self._most} bytes of body, unpacked")

    @property
    def body(self) -> bytes:
        """What was unpacked."""
        return b"".join(self._parts)

    async def finish(self) -> bytes:
        """Unpack the rest aside; the body.

        Raises:
            Refusal: as ``unpack``.
        """
        return await asyncio.get_running_loop().run_in_executor(_unpacking, self._finish)

    def _finish(self) -> bytes:
        self.unpack(self._most + 1)
        return self.body


def compress(parts: Sequence[Buffer], coding: str) -> bytes:
    """Pack an answer."""
    packer = zlib.compressobj(_LEVEL, wbits=_WINDOW[coding])
    return b"".join((*map(packer.compress, parts), packer.flush()))


def coding_of(fields: Mapping[str, Sequence[str]]) -> str:
    """How a body is coded: one of ``CODINGS``, or empty.

    Raises:
        Refusal: 415 for a coding that is not known here, or for several.
    """
    named = ",".join(fields.get("content-encoding", ())).strip().lower()
    if named in ("", "identity"):
        return ""
    if named not in CODINGS:
        raise Refusal(415, "header content-encoding: send gzip, deflate or identity")
    return named


def wanted_coding(fields: Mapping[str, Sequence[str]]) -> str:
    """The coding of ``CODINGS`` that a client prefers for its answer; empty: none of them."""
    weights: dict[str, float] = {}
    for item in ",".join(fields.get("accept-encoding", ())).lower().split(","):
        name, _, parameter = item.partition(";")
        weights[name.strip()] = _quality(parameter.strip())
    best = max(CODINGS, key=lambda coding: weights.get(coding, 0.0))
    weight = weights.get(best, 0.0)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else ""


def _quality(parameter: str) -> float:
    """A weight; what is not understood as one means no."""
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    digits = value.strip().replace(".", "", 1)
    known = name.strip() == "q" and digits.isascii() and digits.isdecimal()
    return float(value) if known else 0.0
