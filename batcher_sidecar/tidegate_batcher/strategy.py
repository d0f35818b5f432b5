"""How large the next batch is to be, and whether to wait for it: decided by a strategy.

A strategy is asked whenever a slot is free and requests wait, and gives its reason with its
decision, for people to read. It is pure: equal views have equal decisions.
"""

from math import inf
from typing import Literal, NamedTuple, Protocol


class Cost(Protocol):
    """What batches of a group have been found to take."""

    @property
    def batches(self) -> int:
        """How many finished batches this rests on."""

    @property
    def fixed(self) -> float:
        """Seconds that a batch takes whatever its size: a of a + b n."""

    @property
    def per_row(self) -> float:
        """Seconds that each row adds: b of a + b n."""

    @property
    def telling(self) -> int:
        """Rows of a batch from which something is learned of that: smaller ones keep it a guess."""

    def seconds(self, rows: int) -> float:
        """What a batch of so many rows takes, on the average."""

    def at_most(self, rows: int) -> float:
        """What 99 of 100 batches of so many rows take no longer than."""


class View(NamedTuple):
    """What a strategy sees: the group whose turn it is, in one lane with a slot free.

    ``rows``, ``requests``: that wait in the group. ``oldest``: when the first of them arrived.
    ``level``: of the request whose turn it is. ``answer_by``: the earliest deadline among those
    that would go. ``least``, ``most``: rows that a batch may have, by policy, model, memory, and
    the slice allowed now. ``max_wait``: seconds, its level's multiplier included. ``target``:
    seconds from arrival to answer that 99% are to be within. ``arrivals``: rows a second that
    are expected for the group next, and ``coming_until``, until when; then as lately on the whole.
    ``slots``, ``in_flight``: batches that may be, and are, in flight.
    ``free_since``: when the lane last got a slot free, having had none.
    """

    now: float
    rows: int
    requests: int
    oldest: float
    level: int
    answer_by: float
    least: int
    most: int
    max_wait: float
    target: float | None
    optimize: Literal["Throughput", "Latency"]
    arrivals: float
    coming_until: float
    cost: Cost
    slots: int
    in_flight: int
    free_since: float = -inf


class Decision(NamedTuple):
    """``rows`` above 0: send at most so many now. 0: ask again at ``until``, or when more come.

    Where a deadline does not allow to wait so long, what is there goes sooner.

    ``at_rows``: ask again only once so many rows wait, if not for another reason.
    """

    rows: int
    reason: str
    until: float = inf
    at_rows: int = 0


class Strategy(Protocol):
    """A way to choose batches."""

    def decide(self, view: View) -> Decision:
        """Say what to do now."""
