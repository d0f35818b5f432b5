"""Sequences: requests that one instance of one version must get, in their order.

Theory of operation. The request that starts a sequence is routed like any other, and that decision
is the sequence's pin: until its end, or until nothing came for a while, its requests go to that
version. Besides, each sequence id has a line: one request of it is with the queue or with Triton at
a time, the others wait for their turn in the order in which they came. Over several connections
Triton would see them in any order.

A start while the id is in use begins anew, in the same line. A request that continues what is not
open has no pin: Triton itself answers it.
"""

from math import inf
from typing import Final, NamedTuple

import msgspec

from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import unavailable
from tidegate_sidecar.core.request import Call

MOST: Final = 16_384
"""Sequences of one model in one pod."""


class Step(NamedTuple):
    """What a request says of its sequence. Ids 1 and "1" are two sequences, as to Triton."""

    id: int | str
    starts: bool
    ends: bool


class Pin(NamedTuple):
    """What the start of a sequence decided for all of it.

    ``evidence``: the split decided it, so its requests count for and against the arm. ``bucket``,
    ``mark``: see ``Router.route``. ``idle``: seconds without a request after which it is over.
    """

    version: int
    arm: str
    idle: float
    evidence: bool = False
    bucket: int | None = None
    mark: int = 0


class _Line:
    """One id. ``going``: the request whose turn it is. ``used_at``: when it was last heard of."""

    __slots__ = ("going", "id", "pin", "used_at")

    def __init__(self, id_: int | str) -> None:
        self.id = id_
        self.pin: Pin | None = None
        self.going: Pending | None = None
        self.used_at = 0.0

    @property
    def busy(self) -> bool:
        """Whether a request of it is with the queue or with Triton."""
        return self.going is not None

    def open(self, now: float) -> bool:
        """Whether requests may still come."""
        return self.pin is not None and (self.busy or now - self.used_at < self.pin.idle)


def step_of(call: Call) -> Step:
    """Read the parameters of a request that is part of a sequence."""
    given = msgspec.json.decode(call.parameters)
    return Step(
        given["sequence_id"], given.get("sequence_start", False), given.get("sequence_end", False)
    )


class Sequences:
    """One model's sequences in one pod. Times are seconds of any one steady clock.

    ``held``: requests that wait for their turn, in the order in which they came, and are counted as
    waiting. ``going``: those that have it.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self.held: dict[Pending, _Line] = {}
        self.going: dict[Pending, _Line] = {}
        self._lines: dict[int | str, _Line] = {}
        self._full_until = -inf

    def __len__(self) -> int:
        return len(self._lines)

    def find(self, step: Step, now: float) -> Pin | None:
        """The pin of the sequence that a request continues, if that is open."""
        line = self._lines.get(step.id)
        if step.starts or line is None or not line.open(now):
            return None
        return line.pin

    def pin(self, step: Step, pin: Pin, now: float) -> None:
        """Open a sequence, or note that it was used; ``step`` may be its end as well.

        Raises:
            Refusal: too many are open.
        """
        line = self._line(step, now)
        line.pin = None if step.ends else pin
        line.used_at = now
        self._tidy(line)

    def enter(self, step: Step, pending: Pending, now: float) -> bool:
        """Let a request into its line; whether its turn has come.

        Raises:
            Refusal: too many sequences are open.
        """
        line = self._line(step, now)
        if line.busy or line in self.held.values():
            self.held[pending] = line
            pending.tally.waiting += 1
            return False
        self._go(pending, line)
        return True

    def turns(self) -> list[Pending]:
        """Those whose turn has come since last asked."""
        found = []
        for pending, line in list(self.held.items()):
            if not line.busy:
                self._go(pending, line)
                self.leave(pending)
                found.append(pending)
        return found

    def over(self, pending: Pending, now: float) -> None:
        """Let those behind a request have their turn: it was answered, or left the queue."""
        line = self.going.pop(pending, None)
        if line is not None:
            line.going = None
            line.used_at = now
            self._tidy(line)

    def leave(self, pending: Pending) -> bool:
        """Take a request out that waits for its turn; False where it does not."""
        line = self.held.pop(pending, None)
        if line is None:
            return False
        pending.tally.waiting -= 1
        self._tidy(line)
        return True

    def late(self, now: float) -> list[Pending]:
        """Take out those that are too late."""
        found = [one for one in self.held if min(one.send_by, one.answer_by) <= now]
        for pending in found:
            self.leave(pending)
        return found

    @property
    def due(self) -> float:
        """When the next is too late; infinity: never."""
        return min((min(one.send_by, one.answer_by) for one in self.held), default=inf)

    def holds(self, version: int, now: float) -> bool:
        """Whether a version has open sequences, or requests that wait for their turn."""
        return any(one.version == version for one in self.held) or any(
            line.pin and line.pin.version == version and line.open(now)
            for line in self._lines.values()
        )

    def forget(self, version: int) -> list[Pending]:
        """End a version's sequences, as it has gone; returns those that waited for their turn."""
        found = [one for one in self.held if one.version == version]
        for pending in found:
            self.leave(pending)
        for line in list(self._lines.values()):
            if line.pin and line.pin.version == version:
                line.pin = None
                self._tidy(line)
        return found

    def _line(self, step: Step, now: float) -> _Line:
        line = self._lines.get(step.id)
        if line is None:
            if len(self._lines) >= self._most:
                self._sweep(now)
            line = self._lines[step.id] = _Line(step.id)
        return line

    def _sweep(self, now: float) -> None:
        """Drop what is idle. A sweep that finds nothing is not repeated before one may.

        Raises:
            Refusal: all are in use.
        """
        if now >= self._full_until:
            awaited = set(self.held.values())
            for line in list(self._lines.values()):
                if not line.busy and not line.open(now) and line not in awaited:
                    del self._lines[line.id]
            ends = (line.used_at + line.pin.idle for line in self._lines.values() if line.pin)
            self._full_until = min(ends, default=now)
        if len(self._lines) >= self._most:
            raise unavailable(f"parameters.sequence_id: {self._most} sequences are open")

    def _go(self, pending: Pending, line: _Line) -> None:
        line.going = pending
        self.going[pending] = line

    def _tidy(self, line: _Line) -> None:
        if line.pin is None and not line.busy and line not in self.held.values():
            del self._lines[line.id]
