"""What is expected to come next for a group: at once after a batch, and on the whole.

Clients that keep so many requests open send the next when they are answered, so after a batch of n
about n come back within a moment. That many, and when the last of them came, is learned from one
batch to the next. Who waits for them knows when all are back, and that nobody else will come.
"""

from typing import Final

FOLLOW: Final = 0.1
"""How far each batch moves what is learned of those who come after one."""
LATELY: Final = 0.5
"""Seconds over which arrivals count on the whole."""
LEAST: Final = 0.5
"""Rows still expected below which nobody is waited for."""
SLACK: Final = 1.5
"""Of the usual time until the last has come, how long they are waited for."""


class Arrivals:
    """The rows of one group as they come, counted by its queue.

    ``came``: since ever. ``gathered``: since the last batch has ended, until ``window_until``;
    ``gathered_at``: when the last of these came.
    """

    __slots__ = (
        "_counted",
        "_counted_at",
        "_ended_at",
        "_rate",
        "_returning",
        "_rows",
        "_spread",
        "came",
        "gathered",
        "gathered_at",
        "window_until",
    )

    def __init__(self, now: float) -> None:
        self.came = 0
        self.gathered = 0
        self.gathered_at = now
        self.window_until = now
        self._rows = 0
        self._ended_at = now
        self._returning = 0.0
        self._spread = 0.0
        self._rate = 0.0
        self._counted = 0
        self._counted_at = now

    def ended(self, rows: int, now: float, horizon: float) -> None:
        """A batch has ended; look for ``horizon`` seconds at who comes after it."""
        if self._rows and now >= self.window_until:
            returning = min(self.gathered / self._rows, 2.0)
            self._returning += FOLLOW * (returning - self._returning)
            if self.gathered:
                took = self.gathered_at - self._ended_at
                self._spread += FOLLOW * (took - self._spread)
        self._rows = rows
        self._ended_at = now
        self.gathered = 0
        self.window_until = now + horizon

    def rate(self, now: float) -> float:
        """Rows a second lately, on the whole."""
        passed = now - self._counted_at
        if passed > 0.0:
            rate = (self.came - self._counted) / passed
            self._rate += (rate - self._rate) * passed / (passed + LATELY)
            self._counted = self.came
            self._counted_at = now
        return self._rate

    def expected(self, now: float) -> tuple[float, float]:
        """Rows a second that come next, and until when."""
        missing = self._returning * self._rows - self.gathered
        until = min(self._ended_at + SLACK * self._spread, self.window_until)
        if missing >= LEAST and now < until:
            return missing / (until - now), until
        # Who comes back once answered does not come while a batch is waited for.
        return self.rate(now) * max(0.0, 1.0 - self._returning), float("inf")
