"""Whether lanes take turns on their device, learned from what their batches took.

A device that divides itself among the batches in flight (the processes of two versions on one core,
the kernels of two on one GPU) ends neither of two equal ones before both would have ended one after
the other. One at a time, the first ends in half of that and the second no later. And a lane with
little traffic, whose batches are small, otherwise gets half of the device for them: it looks twice
as fast as an equal lane with the rest of the traffic, and a slow canary looks sound.

So lanes take turns, unless the device does more while it has two batches: it has more cores, or the
way there and back of one is hidden behind the other.
"""

from typing import Final

from tidegate_batcher.latency import Latency

LEARNT: Final = 20
"""Batches that were alone on the device before others of their group are compared with them."""
ENOUGH: Final = 32
"""Batches that shared the device before it is judged; later ones still count by half after them."""
PAYS: Final = 1.2
"""Work done in a time when shared, to that when not, from which on lanes do not take turns."""
KEPT: Final = 60.0
"""Seconds for which they do until the device is judged anew."""
LESSON: Final = 1.0
"""Seconds for which they do where hardly any batch is ever alone."""
ALONE: Final = 0.95
SHARED: Final = 0.75
"""A batch's part of the device's time, to the time in flight, from and to which it counts so."""
_MEMORY: Final = 1.0 - 1.0 / ENOUGH
_CLIP: Final = 4.0


class Turns:
    """What is known of one device."""

    def __init__(self) -> None:
        self._until = float("-inf")
        self._seen = 0
        self._unknown = 0
        self._alone = 0.0
        self._shared = 0.0

    def kept(self, now: float) -> bool:
        """Whether lanes take turns."""
        return now < self._until

    def learn(
        self, alone: Latency, rows: int, in_flight: float, in_part: float, now: float
    ) -> None:
        """Take note of a finished batch.

        ``alone``: what batches of its group take when alone, also to be learned. ``in_flight``:
        seconds that it was; ``in_part``: divided among all that were.
        """
        if in_part >= ALONE * in_flight:
            alone.learn(rows, in_flight)
        elif in_part <= SHARED * in_flight:
            if alone.batches < LEARNT:
                self._ask(now)
            else:
                self._compare(alone.seconds(rows), in_part, now)

    def _ask(self, now: float) -> None:
        """See to it that some batches are alone."""
        self._unknown += 1
        if self._unknown >= ENOUGH:
            self._unknown = 0
            self._until = max(self._until, now + LESSON)

    def _compare(self, alone: float, shared: float, now: float) -> None:
        self._alone = self._alone * _MEMORY + alone
        self._shared = self._shared * _MEMORY + max(alone / _CLIP, min(shared, alone * _CLIP))
        self._seen += 1
        if self._seen >= ENOUGH and self._alone < PAYS * self._shared:
            self._until = now + KEPT
            self._seen = 0
