"""When Prometheus is asked for what, so that it is asked seldom however many models there are.

Models are judged in parts, each at a moment of its own within an interval, and raw samples are
asked for once for all that are judged at the same time; its clock once in an interval and a half;
rates once a minute; how models did before a rollout only of those that are about to start one, a
few at a time.
"""

import math
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from tidegate_operator.adapters.metrics import BEFORE_AT_ONCE, Metrics, ModelKey, Rates, Readings
from tidegate_operator.adapters.prometheus import WHOLE
from tidegate_operator.rollout.observation import Before, LiveMetrics, Unreadable

_RATES_EVERY: Final = 60.0
_FRESH: Final = 180.0
"""Seconds after which rates are not shown any more: they would pass for those of now."""
_BEFORE_RENEWED: Final = 15.0
_BEFORE_FRESH: Final = 60.0
"""Ages, in seconds, at which what was before a rollout is asked for anew, and is not used any more:
a model that waits for a person may be about to start for days.
"""
_PAUSE: Final = (1.0, 5.0)
"""Seconds between two questions of how models did before: after an answer, and after none."""
_BEFORE_EVERY: Final = 10.0
"""Seconds between two of them where one follows the other: as many models as there are by then
share the next one.
"""
_PARTS: Final = 4
"""Of all models: thousands at once would outgrow what Prometheus answers in time, and memory."""
_CLOCK_KEPT: Final = 1.5
"""Intervals for which Prometheus' clock is known."""
_SILENCE: Final = (5.0, 1 / 3)
"""How long samples may be in coming: seconds at least, and the part of an interval."""
_SPAN_LIMIT: Final = 3600.0
_MARGIN: Final = 2.0
_STILL: Final = 0.5
"""Seconds in which a live Prometheus' time goes on, too."""


def moment(key: ModelKey, interval: float) -> float:
    """When within an interval a model's part is judged, in seconds."""
    return zlib.crc32("/".join(key).encode()) % _PARTS * interval / _PARTS


@dataclass(slots=True, kw_only=True)
class Evidence:
    """All that is asked of Prometheus but for users' own queries. ``now``: the wall clock."""

    metrics: Metrics
    now: Callable[[], float]
    _skew: float | None = None
    _clock: tuple[float, float] = (-math.inf, -math.inf)
    _rates: Rates = field(default_factory=Rates)
    _rates_asked: float = 0.0
    _rates_known: float = 0.0
    _before: dict[ModelKey, tuple[float, Before]] = field(default_factory=dict)
    _starting: dict[ModelKey, None] = field(default_factory=dict)
    _hurried: dict[ModelKey, None] = field(default_factory=dict)
    _before_asked: float = -math.inf
    _before_next: float = 0.0
    _refreshing: bool = False
    _began: float = field(init=False)

    def __post_init__(self) -> None:
        self._began = self.now()

    @property
    def skew(self) -> float:
        """Seconds by which Prometheus' clock is ahead, as far as is known."""
        return self._skew or 0.0

    async def samples(
        self, models: Collection[ModelKey], since: float, interval: float
    ) -> Readings | Unreadable:
        """The raw samples of some models after a time on Prometheus' clock. ``interval``: seconds
        between two readings of a model, of the one that is read most seldom.
        """
        problem = await self._read_clock(interval)
        if problem is not None:
            return problem
        at = self.now() + self.skew
        span = max(_MARGIN, min(at - since + _MARGIN, _SPAN_LIMIT))
        silence = min(max(_SILENCE[0], _SILENCE[1] * interval), WHOLE)
        found = await self.metrics.samples(models, at, span, silence)
        if isinstance(found, Unreadable):
            self._clock = -math.inf, self._clock[1]  # it may come back with another one
        return found

    async def _read_clock(self, interval: float) -> Unreadable | None:
        """See what time it is there, now and then; says where that fails. Without a sample that is
        too old, answers of a cache would look like a Prometheus whose clock is behind.
        """
        asked, (last_asked, last_at) = self.now(), self._clock
        if self._skew is not None and asked - last_asked < _CLOCK_KEPT * interval:
            return None
        at = await self.metrics.time()
        if isinstance(at, Unreadable):
            return at
        if at == last_at and asked - last_asked >= _STILL:
            return Unreadable("its time stands still, as if a cache answered")
        self._clock = asked, at
        self._skew = at - asked
        return None

    def live(self, key: ModelKey) -> Mapping[int, LiveMetrics] | None:
        """How a model's versions do, by version; without those of which that is not known any more.

        None: nothing is known yet, so soon after the start.
        """
        if self.now() - self._rates_known <= _FRESH:
            return self._rates.live.get(key, {})
        never = not self._rates_known
        return None if never and self.now() - self._began <= _FRESH else {}

    def before(self, key: ModelKey) -> Before | None:
        """How a model did in the last ten minutes; None where that is not known yet. To be known
        it has to be asked for: this does.
        """
        at, found = self._before.get(key, (0.0, None))
        age = self.now() - at
        if age > _BEFORE_RENEWED:
            self._starting[key] = None
        if age <= _BEFORE_FRESH:
            return found
        self._before.pop(key, None)
        return None

    def hurry(self, key: ModelKey) -> None:
        """A model waits for nothing else than how it did before: it is asked for first."""
        if key in self._starting:
            self._hurried[key] = None

    def due(self, now: float) -> bool:
        """Whether there is something to be asked."""
        if self._refreshing:
            return False
        return now - self._rates_asked >= _RATES_EVERY or (
            bool(self._starting) and now >= self._before_next
        )

    async def refresh(self) -> list[ModelKey]:
        """Ask for what is due; gives the models of which it now is known how they did before."""
        self._refreshing = True
        try:
            now = self.now()
            stale = now - self._rates_known >= _RATES_EVERY
            if now - self._rates_asked >= _RATES_EVERY or (self._starting and stale):
                await self._ask_rates(now)
            return await self._ask_before(now)
        finally:
            self._refreshing = False

    async def _ask_rates(self, now: float) -> None:
        self._rates_asked = now
        found = await self.metrics.rates()
        if isinstance(found, Rates):
            self._rates, self._rates_known = found, now

    async def _ask_before(self, now: float) -> list[ModelKey]:
        asked = list(self._hurried | self._starting)[:BEFORE_AT_ONCE]
        known = now - self._rates_known < _RATES_EVERY
        if not asked or now < self._before_next or not known:
            self._before_next = max(self._before_next, now + _PAUSE[not known])
            return []
        found = await self.metrics.before(asked, self._rates)
        if isinstance(found, Unreadable):
            self._before_next = now + _PAUSE[1]
            return []
        often = now - self._before_asked <= _BEFORE_EVERY
        self._before_asked, self._before_next = now, now + (_BEFORE_EVERY if often else _PAUSE[0])
        for key in asked:
            del self._starting[key]
            self._hurried.pop(key, None)
        self._before.update({key: (now, one) for key, one in found.items()})
        return list(found)
