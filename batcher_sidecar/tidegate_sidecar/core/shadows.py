"""Copies of requests that wait until the device has nothing better to do.

They lie outside the queues of real requests: they fill nobody's batch, have no level and do not
age. They are few and small by bounds, and what does not fit is not taken. One batch of them is in
flight at a time, and after it as much rest as keeps them within their part of the time.
"""

from collections import deque
from typing import Final

from tidegate_sidecar.core.compare import Tensors
from tidegate_sidecar.core.counters import CheckCount, Tally
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Plan

MOST_WAITING: Final = 256
"""Shadows of one model."""
MOST_BYTES: Final = 16 * 2**20
"""Held by one model's shadows, those in flight included: requests, and what stable answered."""
IDLE_SHARE: Final = 0.1
"""Of all time, where they find the device idle: who comes meanwhile waits for one batch at most.
Less, by the square of the ratio, where that takes longer than the one that its original was in."""
BUSY_SHARE: Final = 0.005
"""Of all time, where they go beside a real batch and slow it down: fewer real requests than the
worst hundredth notice it. Without it, a device that is never idle would compare nothing."""
IN_VAIN: Final = 1.0
"""Seconds that one waits for an idle device before it may go so."""
PATIENCE: Final = 30.0
"""Seconds after which a batch counts as failed though it may still be answered."""


class Shadow(Pending):
    """A copy of a request that stable answered; nobody waits for its own answer.

    ``arm``: ``shadow``, or ``stable`` where stable itself is asked again: what its pair is counted
    as. ``answered``: what stable answered. ``held``: bytes. ``together``, ``seconds``: rows of the
    batch in which the original was answered, and what it took. ``judged``: its pair is counted.
    """

    __slots__ = ("answered", "held", "judged", "seconds", "together")

    def __init__(
        self, original: Pending, answered: Tensors, rows: int, seconds: float, now: float
    ) -> None:
        super().__init__(None, original.decoded, b"", 0, original.level, now)
        self.cancelled = True
        self.stratum = original.stratum
        self.judged = False
        self.answered = answered
        self.together = rows
        self.seconds = seconds
        self.buffers = original.buffers
        # Buffers are parts of the body, except those that were made of JSON.
        own = [one for one in original.buffers if isinstance(one, bytes)]
        mine = sum(len(tensor.data) for tensor in answered.values())
        self.held = len(original.body) + sum(map(len, own)) + mine

    def direct(
        self, arm: str, version: int, plan: Plan, tally: Tally, checks: tuple[CheckCount, ...]
    ) -> None:
        """Say where the copy goes: its inputs lie there as they lay for the original."""
        self.arm = arm
        self.version = version
        self.plan = plan
        self.rows = plan.rows
        self.tally = tally
        self.checks = checks


class ShadowQueue:
    """One model's shadows, in the order in which their originals were answered.

    ``most_bytes``: that they may hold.
    """

    def __init__(self) -> None:
        self.most_bytes = MOST_BYTES
        self._waiting: deque[Shadow] = deque()
        self._held = 0
        self._sent_at = 0.0
        self._finished_at = float("-inf")
        self._took = 0.0
        self._slower = 1.0
        self.in_flight: list[Shadow] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def head(self) -> Shadow:
        """The next to go; there is one."""
        return self._waiting[0]

    def has_room(self, size: int = 0) -> bool:
        """Whether one more of so many bytes may wait."""
        return len(self._waiting) < MOST_WAITING and self._held + size <= self.most_bytes

    def push(self, shadow: Shadow) -> None:
        """Let a shadow wait; there is room."""
        self._waiting.append(shadow)
        self._held += shadow.held

    def drop(self, version: int | None = None) -> list[Shadow]:
        """Give up all that wait, or all that wait for one version."""
        waiting, self._waiting = self._waiting, deque()
        dropped: list[Shadow] = []
        for one in waiting:
            (dropped if version in (None, one.version) else self._waiting).append(one)
        self._held -= sum(one.held for one in dropped)
        return dropped

    def not_before(self, *, idle: bool) -> float:
        """When the next batch may go, once none is in flight."""
        rested = self._finished_at + self._took * (1 / BUSY_SHARE - 1)
        if idle:
            share = IDLE_SHARE / max(self._slower, 1.0) ** 2
            return min(rested, self._finished_at + self._took * (1 / share - 1))
        return max(rested, self.head.arrived + IN_VAIN)

    def pop_batch(self, limit: int, now: float) -> list[Shadow]:
        """Take the next batch: those of one group that stand at the front, at most ``limit`` rows.

        It is no larger than the batch in which its first one's original was answered: who comes
        behind it waits as for a batch of real requests.
        """
        head = self.head
        limit = min(limit, head.together)
        batch: list[Shadow] = []
        rows = 0
        while self._waiting:
            shadow = self._waiting[0]
            rows += shadow.rows
            same = (shadow.version, shadow.plan.group) == (head.version, head.plan.group)
            if batch and (not same or rows > limit or head.plan.group.alone):
                break
            batch.append(self._waiting.popleft())
        self.in_flight = batch
        self._sent_at = now
        return batch

    def finished(self, now: float) -> None:
        """Take note that the batch in flight was answered, or lost."""
        original = self.in_flight[0].seconds
        self._held -= sum(one.held for one in self.in_flight)
        self.in_flight = []
        self._finished_at = now
        self._took = now - self._sent_at
        self._slower = self._took / original if original else 1.0

    def overdue(self, now: float) -> list[Shadow]:
        """Those in flight that nobody waits for any longer; they stay in flight."""
        return self.in_flight if now - self._sent_at > PATIENCE else []
