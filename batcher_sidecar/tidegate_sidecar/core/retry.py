"""A batch that Triton answered with an error is cut in halves and sent again, within a budget.

One poisoned request then fails alone: halving finds it among n in 2 log2(n) batches. A version
that fails them all would take 2 n - 2 for nothing, so each version has a budget: a tenth of the
time that its batches took in the last 10 s. A version with few requests would never have saved
enough to find one, so once in that time a batch may cost what finding one takes, whatever that is.

Never sent again is what may have been run and be lost, or would only meet the same bound again:
Triton's own refusals to take it, and everything that no answer came to. What is stateful goes
alone (`core.request`), so there is nothing to cut.
"""

from collections import deque
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, NamedTuple

from tidegate_sidecar.core.batcher import Batch

WINDOW: Final = 10.0
"""Seconds."""
SHARE: Final = 0.1
"""Of the time that a version's batches took within the window, for those that are sent again."""

_NOT_THE_MEMBERS: Final = frozenset(
    {
        HTTPStatus.OK,
        HTTPStatus.NOT_FOUND,  # the version has gone
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,  # full, shutting down, or Triton's own timeout
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)


class Ended(NamedTuple):
    """``root``: the batch that holds the slot. ``after``: goes next in it; None: it is free."""

    root: Batch
    after: Batch | None


@dataclass(slots=True, eq=False)
class _Search:
    """What is left of one batch to be sent again. ``free``: batches that need no budget."""

    root: Batch
    free: int
    waiting: list[Batch] = field(default_factory=list)


class _Spent:
    """Seconds that one version's batches took within the window."""

    def __init__(self) -> None:
        self._ended: deque[tuple[float, float, bool]] = deque()
        self._total = 0.0
        self._again = 0.0
        self.free_at = float("-inf")

    def add(self, seconds: float, now: float, *, again: bool) -> None:
        """Count a batch that has ended."""
        self._ended.append((now, seconds, again))
        self._total += seconds
        self._again += seconds * again
        self._forget(now)

    def allows(self, now: float) -> bool:
        """Whether budget is left."""
        self._forget(now)
        return self._again < SHARE * self._total

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0][0] + WINDOW <= now:
            _, seconds, again = self._ended.popleft()
            self._total -= seconds
            self._again -= seconds * again
        if not self._ended:
            self._total = self._again = 0.0  # and with it what rounding left


class Retries:
    """One model's batches that are sent again. Times are seconds of any one steady clock.

    Halves go one after the other, in the slot that their batch had. Usage, for every batch, whether
    it was answered or lost::

        again = retries.split(batch, status, now)  # where Triton answered with an error
        ...  # answer all members that are in none of these
        root, after = retries.ended(batch, now)  # send ``after``, else free the slot of ``root``
    """

    def __init__(self) -> None:
        self._spent: dict[int, _Spent] = {}
        self._searches: dict[Batch, _Search] = {}

    def concerns(self, batch: Batch) -> bool:
        """Whether a batch is part of one that is sent again."""
        return batch in self._searches

    def divisible(self, batch: Batch, status: int) -> bool:
        """Whether an error may be the fault of some of the members alone."""
        return len(batch.members) > 1 and status not in _NOT_THE_MEMBERS

    def split(self, batch: Batch, status: int, now: float) -> list[Batch] | None:
        """Cut a batch that was answered with an error; None where its members get that error.

        Without those whose deadline is over.
        """
        if not self.divisible(batch, status):
            return None
        members = [one for one in batch.members if one.answer_by > now]
        if not members or not self._pay(batch, now):
            return None
        middle = (len(members) + 1) // 2
        halves = [
            Batch(batch.served, half, sum(one.rows for one in half), now, batch.planned)
            for half in (members[:middle], members[middle:])
            if half
        ]
        search = self._searches[batch]
        search.waiting += reversed(halves)
        return halves

    def ended(self, batch: Batch, now: float) -> Ended:
        """Take note that a batch is in flight no more; says what goes next in its slot."""
        spent = self._of(batch.version)
        search = self._searches.pop(batch, None)
        if search is None:
            spent.add(now - batch.sent_at, now, again=False)
            return Ended(batch, None)
        spent.add(now - batch.sent_at, now, again=batch is not search.root)
        if not search.waiting:
            return Ended(search.root, None)
        after = search.waiting.pop()
        after.sent_at = now
        self._searches[after] = search
        return Ended(search.root, after)

    def _pay(self, batch: Batch, now: float) -> bool:
        """Take two batches out of what may be sent again."""
        spent = self._of(batch.version)
        search = self._searches.get(batch)
        if search is None:
            search = _Search(batch, free=0)
            if spent.free_at + WINDOW <= now:
                spent.free_at = now
                search.free = 2 * (len(batch.members) - 1).bit_length()
        if search.free:
            search.free -= 2
        elif not spent.allows(now):
            return False
        self._searches[batch] = search
        return True

    def _of(self, version: int) -> _Spent:
        spent = self._spent.get(version)
        if spent is None:
            spent = self._spent[version] = _Spent()
        return spent
