"""What a batch takes, learned from those that have finished: a + b n seconds for n rows.

Least squares over batches that are forgotten exponentially, with two guards. A residual counts up
to three times the usual one (Huber, Robust Estimation of a Location Parameter, 1964): a pause of
the server moves the line little, and a lasting change still wins, as the usual residual grows with
what it is fed. Only upwards, though: nothing takes less time than it needs. And the slope holds on
to its last value with the weight of a fraction of one batch: while all batches are of one size
nothing can be said about it, so nothing is.

Beside the line, the quantile of the ratio of what a batch took to what the line said, by stochastic
approximation (Robbins and Monro, 1951).
"""

from statistics import median
from typing import Final

FIRST: Final = 8
"""Batches before a line is drawn; until then the median speaks, as a model's first batches are
often slow by orders of magnitude."""
MEMORY: Final = 0.99
"""What a batch still counts when one more has finished."""
CLIP: Final = 3.0
"""Usual residuals that a residual counts at most."""
FOLLOW: Final = 0.05
"""How fast the usual residual follows."""
HOLD: Final = 0.1
"""Weight of the slope so far: that of so many batches one mean size off the mean size."""
QUANTILE: Final = 0.99
MOST_ROWS: Final = 2**31
"""Stands for no bound."""
STEP: Final = 0.05
"""How far, of itself, the quantile moves when it is exceeded."""


class Latency:
    """The learned cost of the batches of one group in one lane; see ``strategy.Cost``."""

    __slots__ = (
        "_first",
        "_mean_rows",
        "_mean_seconds",
        "_reach",
        "_rows_rows",
        "_rows_seconds",
        "_usual",
        "_weight",
        "batches",
        "fixed",
        "per_row",
        "ratio",
    )

    def __init__(self) -> None:
        self.batches = 0
        self.fixed = 0.0
        self.per_row = 0.0
        self.ratio = 1.0
        """Of the 99% quantile to the mean."""
        self._first: list[tuple[int, float]] = []
        self._weight = 0.0
        self._mean_rows = 0.0
        self._mean_seconds = 0.0
        self._rows_rows = 0.0
        self._rows_seconds = 0.0
        self._usual = 0.0
        self._reach = 0.0

    def seconds(self, rows: int) -> float:
        """What a batch of so many rows takes, on the average."""
        return self.fixed + self.per_row * rows

    def at_most(self, rows: int) -> float:
        """What 99 of 100 batches of so many rows take no longer than."""
        return (self.fixed + self.per_row * rows) * self.ratio

    @property
    def telling(self) -> int:
        """Rows of a batch from which something is learned: 2 while all had 1 lately, else 1.

        What a row adds is a guess then. Who keeps to a bound by it might never send the second row,
        however little that really adds.
        """
        mean = self._mean_rows
        return 2 if mean < 2.0 and self._rows_rows < HOLD * mean * mean else 1  # noqa: PLR2004

    def rows_within(self, seconds: float) -> int:
        """The most rows whose batch takes at most so long, on the average; at least ``telling``.

        At most twice as many as were seen lately: farther off, what a row adds may be all noise.
        """
        return max(self.telling, min(self._rows(seconds - self.fixed), int(2.0 * self._reach)))

    def rows_at_most(self, seconds: float) -> int:
        """The most rows of which 99 of 100 batches take at most so long; maybe none."""
        return self._rows(seconds / self.ratio - self.fixed)

    def _rows(self, seconds: float) -> int:
        if seconds <= 0.0:
            return 0
        return int(seconds / self.per_row) if self.per_row * MOST_ROWS > seconds else MOST_ROWS

    def learn(self, rows: int, seconds: float) -> None:
        """Take note of a finished batch."""
        self.batches += 1
        self._reach = max(rows, self._reach * MEMORY)
        if self.batches <= FIRST:
            self._begin(rows, seconds)
            return
        expected = self.fixed + self.per_row * rows
        self._rank(seconds, expected)
        residual = seconds - expected
        clipped = min(residual, CLIP * self._usual)
        self._usual += FOLLOW * (abs(clipped) - self._usual)
        self._fold(rows, expected + clipped)
        self._draw()

    def _begin(self, rows: int, seconds: float) -> None:
        """Speak by medians, as if half of a batch's time were fixed and half by row."""
        self._first.append((rows, seconds))
        mean = sum(n for n, _ in self._first) / len(self._first)
        unit = median(took / (mean + n) for n, took in self._first)
        self.fixed = unit * mean
        self.per_row = unit
        ratios = [took / (unit * (mean + n)) if unit else 1.0 for n, took in self._first]
        if len(self._first) < FIRST:
            self.ratio = max(1.0, *ratios)
            return
        ratios.sort()
        self.ratio = max(1.0, min(ratios[-1], CLIP))
        usual = [abs(took - unit * (mean + n)) for n, took in self._first]
        self._usual = max(median(usual), unit * mean * FOLLOW)
        for n, took in self._first:
            expected = unit * (mean + n)
            most = CLIP * self._usual
            self._fold(n, expected + max(-most, min(took - expected, most)))
        self._draw()
        self._first = []

    def _fold(self, rows: int, seconds: float) -> None:
        """Update the decayed means and centred moments (Welford, 1962, with weights)."""
        kept = self._weight * MEMORY
        self._weight = weight = kept + 1.0
        off = rows - self._mean_rows
        self._mean_rows += off / weight
        self._mean_seconds += (seconds - self._mean_seconds) / weight
        self._rows_rows = self._rows_rows * MEMORY + off * (rows - self._mean_rows)
        self._rows_seconds = self._rows_seconds * MEMORY + off * (seconds - self._mean_seconds)

    def _draw(self) -> None:
        """Draw the line; neither part of a cost is below 0."""
        hold = HOLD * self._mean_rows * self._mean_rows
        slope = (self._rows_seconds + hold * self.per_row) / (self._rows_rows + hold)
        most = self._mean_seconds / self._mean_rows
        self.per_row = max(0.0, min(slope, most))
        self.fixed = max(0.0, self._mean_seconds - self.per_row * self._mean_rows)

    def _rank(self, seconds: float, expected: float) -> None:
        if seconds > self.ratio * expected:
            self.ratio *= 1.0 + STEP * QUANTILE
        else:
            self.ratio = max(1.0, self.ratio * (1.0 - STEP * (1.0 - QUANTILE)))
