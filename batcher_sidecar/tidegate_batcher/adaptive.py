"""The default strategy: as large as deadlines allow, and waiting only while that pays.

With a + b n seconds for n rows, n waiting and the next one due in d seconds:

* Throughput rises by waiting for it iff a > n d: it saves its own a, and holds n up by d each.
* The mean latency falls iff a > (n + 1) d + n b: in a batch of its own it would be answered after
  the others' a + n b and its own a + b, and now waits for nobody; the others wait d + b longer.

With a slot free the oldest waits no longer than the policy allows, and in all no longer than its
deadline leaves when the batch takes what 99 of 100 of its size do. A batch is cut to what the
earliest deadline leaves. Under a target it is cut so that two follow each other within it: who
comes right after one was sent waits for that and then for its own. What cannot be met by any size
is not cut for.
"""

from math import ceil, inf
from typing import Final

from tidegate_batcher.strategy import Cost, Decision, View

LEARNT: Final = 20
"""Finished batches of a group before its cost is believed; until then nothing waits."""

LEARNING: Final = "too few batches have finished to know the cost"
FULL: Final = "full"
CUT_FOR_DEADLINE: Final = "cut to meet the earliest deadline"
CUT_FOR_TARGET: Final = "cut to meet the target latency"
WAITED: Final = "the oldest has waited long enough"
NO_TIME: Final = "the deadline leaves no time to wait"
NO_TIME_FOR_TARGET: Final = "the target latency leaves no time to wait"
NO_GAIN: Final = "waiting would not pay"
TOO_FEW: Final = "fewer than the least"
PAYS: Final = "waiting pays"


class Adaptive:
    """Chooses by the learned cost and by what is expected to come."""

    def decide(self, view: View) -> Decision:
        """Say what to do now."""
        cost = view.cost
        if cost.batches < LEARNT:
            until = max(view.oldest, view.free_since) + view.max_wait
            if view.rows < view.least and view.now < until:
                return Decision(0, TOO_FEW, until)
            return Decision(view.most, LEARNING)
        most, reason = _size(view, min(view.rows, view.most))
        if view.rows >= most:
            return Decision(most, reason)
        until, reason = _latest(view)
        if view.now >= until:
            return Decision(most, reason)
        if view.rows < view.least:
            return Decision(0, TOO_FEW, until)
        worth = _worth(view, most)
        if view.rows >= worth:
            return Decision(most, NO_GAIN)
        until = min(until, view.coming_until)
        coming = max(1, int(view.arrivals * (until - view.now)))
        return Decision(0, PAYS, until, min(most, ceil(worth), view.rows + coming))


def _size(view: View, rows: int) -> tuple[int, str]:
    """The most rows to send, below ``view.most`` only where what waits must be cut."""
    most, reason = view.most, FULL
    if view.target is not None:
        fits = _within(view.cost, max(view.most, rows), view.target / 2)
        if 0 < fits < most:
            most, reason = max(fits, view.cost.telling, min(view.least, most)), CUT_FOR_TARGET
    fits = _within(view.cost, min(rows, most), view.answer_by - view.now)
    if 0 < fits < min(rows, most):
        most, reason = fits, CUT_FOR_DEADLINE
    return most, reason


def _within(cost: Cost, rows: int, seconds: float) -> int:
    """The most rows, up to so many, that take at most so long; 0 where not even one does."""
    if cost.at_most(rows) <= seconds:
        return rows
    low, high = 0, rows
    while high - low > 1:
        middle = (low + high) // 2
        if cost.at_most(middle) <= seconds:
            low = middle
        else:
            high = middle
    return low


def _latest(view: View) -> tuple[float, str]:
    """Until when a batch may wait for one more row, and what forbids it to wait longer."""
    until, reason = max(view.oldest, view.free_since) + view.max_wait, WAITED
    took = view.cost.at_most(view.rows + 1)
    if view.answer_by - took < until:
        until, reason = view.answer_by - took, NO_TIME
    if view.target is not None and view.oldest + view.target - took < until:
        until, reason = view.oldest + view.target - took, NO_TIME_FOR_TARGET
    return until, reason


def _worth(view: View, most: int) -> float:
    """As many rows as it pays to wait for: with fewer, it pays to wait for the next.

    Who comes back after a batch may come at the end of the time that they are given, so of a burst
    only those count that fit, over all of that time.
    """
    cost = view.cost
    due = view.arrivals
    if view.coming_until < inf:
        due = min(due, (most - view.rows) / (view.coming_until - view.now))
    if view.optimize == "Throughput":
        return cost.fixed * due
    return (cost.fixed * due - 1.0) / (1.0 + cost.per_row * due)
