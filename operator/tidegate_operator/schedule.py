"""When models are looked at next."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from tidegate_operator.cache import ModelKey


@dataclass(slots=True)
class Schedule:
    """The times of the next looks, the soonest first; of each model one."""

    _at: dict[ModelKey, float] = field(default_factory=dict)
    _soonest: list[tuple[float, ModelKey]] = field(default_factory=list)

    def wake(self, key: ModelKey, at: float) -> bool:
        """Look at a model at a time, unless it is looked at before that; says whether nothing else
        comes before it.
        """
        if at >= self._at.get(key, math.inf):
            return False
        self._at[key] = at
        heapq.heappush(self._soonest, (at, key))
        return self._soonest[0] == (at, key)

    def next(self) -> float:
        """When something is due; infinite where nothing ever is."""
        self._skip()
        return self._soonest[0][0] if self._soonest else math.inf

    def due(self, until: float) -> Iterator[tuple[ModelKey, float]]:
        """Take out what is due by a time, and when it was."""
        while self.next() <= until:
            at, key = heapq.heappop(self._soonest)
            del self._at[key]
            yield key, at

    def _skip(self) -> None:
        """Drop the times of models that were, or will be, looked at sooner."""
        while self._soonest:
            at, key = self._soonest[0]
            if self._at.get(key) == at:
                return
            heapq.heappop(self._soonest)
