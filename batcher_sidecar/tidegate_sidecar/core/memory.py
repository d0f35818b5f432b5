"""How much memory batches may take: what a row of them takes, and less of it while it is short.

While more of the device's memory is used than the high mark, batches are halved again and again;
below the low mark they grow back by equal steps; in between they stay as they are. Halving and
growing by steps lets those that share a device without knowing of each other come to equal parts
of it (additive increase, multiplicative decrease: Chiu and Jain 1989, "Analysis of the increase
and decrease algorithms for congestion avoidance in computer networks", sec. 3).

Memory is not always what batches hold: frameworks keep what they once took, and some take all of
a GPU at their start. Where batches of an eighth still free nothing, cutting is in vain: they grow
back, and are cut again only once more is used than then. (Not earlier: of what needs more than
there is, the first cuts do not show.)
"""

from math import inf
from typing import Final, NamedTuple

HIGH: Final = 0.9
LOW: Final = 0.8
CUT: Final = 0.5
GROWTH: Final = 0.02
"""Of the usual size, a second: from nothing to all of it in 50 s."""
LEAST: Final = 1 / 64
IN_VAIN: Final = 1 / 8
"""The share at which it is judged whether cuts free anything."""
SETTLING: Final = 5.0
"""Seconds until a cut shows: Triton's metrics are 2 s old at most, and what is in flight ends."""
SEEN: Final = 0.01
"""Of all memory: by how much use must fall, or rise, to count."""
_KEPT: Final = 64


class Reading(NamedTuple):
    """How much of some memory is used. ``what``: "GPU memory", say; ``used``: 0 to 1."""

    what: str
    used: float


class Pressure:
    """What is used of the memory that batches need, and what follows. Times are seconds of any one
    steady clock, and do not fall.
    """

    def __init__(self) -> None:
        self.share = 1.0
        """Of the usual batch size, LEAST to 1."""
        self._mark = HIGH
        self._worst: Reading | None = None
        self._read_at = inf
        self._cut_at: float | None = None
        self._before = 0.0
        self._in_vain = False

    def read(self, readings: list[Reading], now: float) -> float:
        """Take what is used now; returns the share. The fullest counts; none: nothing is short."""
        self._worst = max(readings, key=_used, default=None)
        used = self._worst.used if self._worst else 0.0
        elapsed, self._read_at = max(0.0, now - self._read_at), now
        self._judge(used, now)
        self._mark = max(HIGH, min(self._mark, used + SEEN))
        if used > self._mark and self._cut_at is None:
            self._cut_at, self._before = now, used
            self._in_vain, self._mark = False, HIGH
            self.share = max(LEAST, self.share * CUT)
        elif used < LOW or self._in_vain:
            self.share = min(1.0, self.share + GROWTH * elapsed)
        return self.share

    def _judge(self, used: float, now: float) -> None:
        """See what came of the last cut, once that must show."""
        if self._cut_at is not None and now - self._cut_at >= SETTLING:
            self._cut_at = None
            frees_nothing = used > max(HIGH, self._before - SEEN)
            self._in_vain = frees_nothing and self.share <= IN_VAIN
            if self._in_vain:
                self._mark = used + SEEN

    @property
    def note(self) -> str | None:
        """Why batches are smaller than usual, for people; None where they are not."""
        if self.share == 1.0:
            return None
        why = self._sentence() or "memory was short"
        return f"batches are at {100 * self.share:.0f}% of their size: {why}"

    @property
    def short(self) -> str | None:
        """Why nothing more should be loaded; None where there is room."""
        return self._sentence() if self._worst and self._worst.used > HIGH else None

    def _sentence(self) -> str | None:
        """What is used of the fullest memory."""
        return self._worst and f"{self._worst.what} is {100 * self._worst.used:.0f}% used"


class Largest:
    """The largest of the last values: of at least 64, at most twice as many; ``least`` at least."""

    __slots__ = ("_before", "_count", "_least", "_since")

    def __init__(self, least: float = 0.0) -> None:
        self._least = self._before = self._since = least
        self._count = 0

    def add(self, value: float) -> float:
        """Take a value; returns the largest."""
        if self._count == _KEPT:
            self._before, self._since, self._count = self._since, self._least, 0
        self._count += 1
        self._since = max(self._since, value)
        return max(self._before, self._since)


def _used(reading: Reading) -> float:
    return reading.used
