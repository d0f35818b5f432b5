"""How long each lane's batches take, so that lanes beside the main ones keep to their bounds.

Nobody knows how a device divides its time: it may work off one batch after the other or all at
once. So three accounts are kept, each of which is wrong somewhere, and a lane counts as slower only
where those that may be right agree.
"""

from collections import deque
from typing import Final, NamedTuple

WINDOW: Final = 10.0
"""Seconds over which lanes' batches are compared."""


class _Took(NamedTuple):
    """How long a batch took, in seconds.

    ``in_flight``: from sent to finished, with what it waited for. ``in_turn``: since another
    batch finished, if that was later; right on a device that works off one after the other.
    ``in_part``: time divided among all that are in flight; right on one that works on all at once.
    """

    in_flight: float
    in_turn: float
    in_part: float


class _Sum:
    """Batches of one lane within the window, by the same accounts."""

    __slots__ = ("batches", "in_flight", "in_part", "in_turn")

    def __init__(self) -> None:
        self.batches = 0
        self.in_flight = 0.0
        self.in_turn = 0.0
        self.in_part = 0.0

    def add(self, took: _Took, times: int) -> None:
        """Count a batch, or with -1 forget it."""
        self.batches += times
        self.in_flight += times * took.in_flight
        self.in_turn += times * took.in_turn
        self.in_part += times * took.in_part


class DeviceTime:
    """What each lane's batches took, the last one and those within the window."""

    def __init__(self) -> None:
        self._in_flight = 0
        self._parts = 0.0
        self._parts_at = 0.0
        self._last_end = float("-inf")
        self._finished: deque[tuple[float, int, _Took]] = deque()
        self._sums: dict[int, _Sum] = {}
        self._newest: dict[int, tuple[float, float]] = {}

    def sent(self, now: float) -> float:
        """A batch is in flight from now on; returns what ``finished`` needs as ``begun``."""
        self._divide(now)
        self._in_flight += 1
        return self._parts

    def finished(self, lane: int, sent_at: float, begun: float, now: float) -> float:
        """A batch is in flight no more; returns its part of the time, divided among all."""
        self._divide(now)
        self._in_flight -= 1
        took = _Took(now - sent_at, now - max(sent_at, self._last_end), self._parts - begun)
        self._last_end = now
        self._newest[lane] = now, took.in_flight
        self._finished.append((now, lane, took))
        total = self._sums.get(lane)
        if total is None:
            total = self._sums[lane] = _Sum()
        total.add(took, 1)
        self._forget(now)
        return took.in_part

    def pause(self, lane: int, share: float) -> float:
        """Until when a lane pauses, for its last batch to have been a share of the time."""
        ended, seconds = self._newest.get(lane, (float("-inf"), 0.0))
        return ended + seconds * (1 / share - 1)

    def slower(self, lane: int, than: int, now: float) -> bool:
        """Whether a lane's batches take longer than another's, whatever the device is like.

        By both accounts of which one is right; or more than twice as long in flight: no more than
        that is explained by waiting for a batch of the other, or by sharing with one.
        """
        self._forget(now)
        mine, other = self._sums.get(lane), self._sums.get(than)
        if not mine or not other:
            return False
        mean = 1 / mine.batches, 1 / other.batches
        longer = (
            mine.in_turn * mean[0] > other.in_turn * mean[1]
            and mine.in_part * mean[0] > other.in_part * mean[1]
        )
        return longer or mine.in_flight * mean[0] > 2 * other.in_flight * mean[1]

    def _forget(self, now: float) -> None:
        finished = self._finished
        while finished and finished[0][0] + WINDOW <= now:
            _, lane, took = finished.popleft()
            self._sums[lane].add(took, -1)
            if not self._sums[lane].batches:
                del self._sums[lane]  # and with it what rounding left

    def _divide(self, now: float) -> None:
        """Divide the time since the last change among the batches in flight."""
        if self._in_flight:
            self._parts += (now - self._parts_at) / self._in_flight
        self._parts_at = now
