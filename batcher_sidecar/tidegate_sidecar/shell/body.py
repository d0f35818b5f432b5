"""Large bodies, received straight into the one buffer that they are kept in.

In pieces, each byte would be copied twice more: out of the event loop's buffer into a piece, and
out of the pieces into the whole. For small bodies the two changes of protocol cost more than that.
"""

import asyncio
from abc import ABC, abstractmethod
from typing import Final

import numpy as np
from typing_extensions import override

LARGE_BYTES: Final = 256 * 2**10
"""Still missing of a body, from which on this pays; about what one read of a socket gives."""


class Owner(asyncio.Protocol, ABC):
    """Whose body it is: the transport's protocol before and afterwards."""

    @abstractmethod
    def body_received(self, body: memoryview) -> None:
        """Take the whole body."""


class Body(asyncio.BufferedProtocol):
    """Takes a transport's bytes until a body is whole. ``begun``: what has come of it before."""

    def __init__(
        self, transport: asyncio.Transport, owner: Owner, length: int, begun: bytes
    ) -> None:
        self._transport, self._owner = transport, owner
        # Not filled with zeros: only what has come takes memory, however much was announced.
        self._view = np.empty(length, np.uint8).data
        self._view[: len(begun)] = begun
        self._received = len(begun)
        self._change(self)

    @property
    def missing(self) -> int:
        """Bytes."""
        return len(self._view) - self._received

    @override
    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._received :]

    @override
    def buffer_updated(self, nbytes: int) -> None:
        self._received += nbytes
        if self._received == len(self._view):
            self._change(self._owner)
            self._owner.body_received(self._view.toreadonly())

    @override
    def eof_received(self) -> bool | None:
        return self._owner.eof_received()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        self._owner.pause_writing()

    @override
    def resume_writing(self) -> None:
        self._owner.resume_writing()

    def _change(self, protocol: asyncio.BaseProtocol) -> None:
        if self._transport.is_closing():
            return
        self._transport.pause_reading()  # how it reads is settled where it begins to
        self._transport.set_protocol(protocol)
        self._transport.resume_reading()
