"""Memory that the sidecar and Triton both see, lent in pieces.

A piece is free again once nobody holds a view of it. So who asks Triton to read or write there
holds one until Triton has answered: from then on it touches the request's tensors no more. Where no
answer came nobody knows that, and what is written late must not get into a neighbour's answer:
such a piece is kept (``keep``) and lent to nobody again.
"""

import mmap
import os
import secrets
import weakref
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

DIRECTORY: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is on Linux

_ALIGNMENT: Final = mmap.PAGESIZE


class Piece(NamedTuple):
    """``begin``: in the arena. ``view``: its bytes; whoever holds one, or a part, has the piece."""

    begin: int
    view: memoryview


class Arena:
    """``size`` bytes of memory in a file, which others open by its ``name`` until it is hidden.

    ``retired``: nothing more is to be lent.
    """

    def __init__(self, prefix: str, size: int, directory: Path = DIRECTORY) -> None:
        """Make the file, with all of its memory: what turned out missing later would be a SIGBUS.

        Files of the same prefix are what an earlier life has left, and go.

        Raises:
            OSError: there is no such memory, or not enough.
        """
        for left in directory.glob(f"{prefix}*"):
            left.unlink(missing_ok=True)
        self.name = f"{prefix}{secrets.token_hex(8)}"
        self.size = size
        self.retired = False
        self._path = directory / self.name
        self._free = [(0, size)]
        self._returned: deque[tuple[int, int]] = deque()  # the last view may end in any thread
        self._kept: list[memoryview] = []
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.fchmod(descriptor, 0o666)  # Triton may be another user; in a pod it is its alone
            os.posix_fallocate(descriptor, 0, size)
            self._memory = mmap.mmap(descriptor, size, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        except OSError:
            self.hide()
            raise
        finally:
            os.close(descriptor)

    def hide(self) -> None:
        """Take the file's name away: it ends with those who have opened it, killed or not."""
        with suppress(FileNotFoundError):
            self._path.unlink()

    def lend(self, size: int) -> Piece | None:
        """Lend so many bytes, more than none; None: there is no such piece."""
        while self._returned:
            self._take_back(self._returned.popleft())
        needed = -(-size // _ALIGNMENT) * _ALIGNMENT
        for i, (begin, end) in enumerate(self._free):
            if end - begin >= needed:
                self._free[i : i + 1] = [(begin + needed, end)] if end - begin > needed else []
                bytes_ = np.frombuffer(self._memory, np.uint8, size, begin)
                weakref.finalize(bytes_, self._returned.append, (begin, begin + needed))
                return Piece(begin, bytes_.data)
        return None

    def keep(self, piece: Piece) -> None:
        """Lend a piece to nobody any more."""
        self._kept.append(piece.view)

    def _take_back(self, span: tuple[int, int]) -> None:
        joined: list[tuple[int, int]] = []
        for begin, end in sorted((*self._free, span)):
            if joined and joined[-1][1] == begin:
                joined[-1] = joined[-1][0], end
            else:
                joined.append((begin, end))
        self._free = joined
