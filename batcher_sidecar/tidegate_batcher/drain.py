"""How fast a queue drains: rows that leave in a second while others wait behind them."""

from typing import Final

MEMORY: Final = 0.98
"""What a batch still counts when one more has left."""


class Drain:
    """What is known of one queue. Times are seconds of any one steady clock."""

    __slots__ = ("_at", "_rows", "_seconds")

    def __init__(self) -> None:
        self._rows = 0.0
        self._seconds = 0.0
        self._at: float | None = None

    def left(self, rows: int, now: float, *, waiting: bool) -> None:
        """Take note that a batch has left, and whether anything waits."""
        if waiting and self._at is not None:
            self._rows = self._rows * MEMORY + rows
            self._seconds = self._seconds * MEMORY + (now - self._at)
        self._at = now if waiting else None

    def rate(self, now: float) -> float | None:
        """Rows a second; None: nothing ever waited while a batch left."""
        if self._seconds <= 0.0:
            return None
        since = now if self._at is None else self._at
        return self._rows / (self._seconds + now - since)
