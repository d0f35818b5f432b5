"""The scheduler in virtual time: hours of traffic against a cost model in seconds.

Everything that decides is the code that runs before a server; here only clients and the device are
made up. The device takes a + b n seconds for a batch of n rows, times noise, and works off batches
one after the other (Serial) or divides itself among those in flight (Shared). Open loads come
whether or not anything is answered; clients of a closed one come back when they were.

What is drawn is drawn from a generator that is handed in: equal seeds have equal outcomes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.device import Device
from tidegate_batcher.item import Item
from tidegate_batcher.scheduler import Batch, Full, Late, Scheduler
from tidegate_batcher.strategy import Strategy
from tidegate_contract.table import BatchSettings

WINDOW: Final = 10.0
"""Seconds of arrivals that are drawn at a time."""
PER_DECADE: Final = 100
"""Bins of a histogram: quantiles are right within 2.4%."""
SHORTEST: Final = 1e-6
BINS: Final = 9 * PER_DECADE
"""From a microsecond to a thousand seconds."""
AGAIN: Final = 0.001
"""Seconds after which a client that was not answered asks again, besides its time to think."""
_FLUSH: Final = 50_000
_LANE: Final = 1

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class Arrivals(NamedTuple):
    """Requests that come, as equally long arrays. ``deadlines``: seconds after arrival, or inf."""

    times: Floats
    levels: Counts
    rows: Counts
    deadlines: Floats

    def pick(self, which: Counts | slice) -> "Arrivals":
        """Some of them, in the order asked for."""
        return Arrivals(
            self.times[which], self.levels[which], self.rows[which], self.deadlines[which]
        )


class Load(Protocol):
    """Requests to one model that come whatever becomes of them."""

    @property
    def model(self) -> str:
        """Whom they ask."""

    def within(self, begin: float, end: float, rng: np.random.Generator) -> Arrivals:
        """Those that come from ``begin`` to before ``end``, in order."""


@dataclass(frozen=True, kw_only=True)
class Poisson:
    """Requests that come independently of each other.

    ``rates``: a second, each with the time from which it holds, the first from 0: a spike is three
    of them. ``levels``: each level's share. ``deadlines``: by level, seconds.
    """

    model: str
    rates: Sequence[tuple[float, float]]
    levels: Mapping[int, float]
    rows: int = 1
    deadlines: Mapping[int, float] = field(default_factory=dict)

    def within(self, begin: float, end: float, rng: np.random.Generator) -> Arrivals:
        """Those that come from ``begin`` to before ``end``, in order."""
        parts = []
        until = [since for since, _ in self.rates[1:]] + [inf]
        for (since, rate), ends in zip(self.rates, until, strict=True):
            low, high = max(begin, since), min(end, ends)
            if low < high:
                parts.append(rng.uniform(low, high, rng.poisson(rate * (high - low))))
        times = np.sort(np.concatenate(parts))
        names = np.array(list(self.levels))
        shares = np.array(list(self.levels.values()))
        levels = names[rng.choice(len(names), len(times), p=shares / shares.sum())]
        longest = np.full(names.max() + 1, inf)
        for level, seconds in self.deadlines.items():
            longest[level] = seconds
        rows = np.full(len(times), self.rows, np.int64)
        return Arrivals(times, levels, rows, longest[levels])


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Requests that came once, and come again."""

    model: str
    arrivals: Arrivals

    def within(self, begin: float, end: float, rng: np.random.Generator) -> Arrivals:  # noqa: ARG002 - nothing is drawn
        """Those that come from ``begin`` to before ``end``, in order."""
        low, high = np.searchsorted(self.arrivals.times, (begin, end))
        return self.arrivals.pick(slice(int(low), int(high)))


@dataclass(frozen=True, kw_only=True)
class Clients:
    """So many who ask, wait for the answer, ``think``, and ask again."""

    model: str
    number: int
    level: int = 3
    rows: int = 1
    think: float = 0.0
    deadline: float = inf


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model, its cost and its policy. ``noise``: sigma of the logarithm of a batch's time."""

    fixed: float
    per_row: float
    noise: float = 0.0
    slots: int = 1
    most: int = 32
    settings: BatchSettings = field(default_factory=BatchSettings)
    strategy: Strategy = field(default_factory=Adaptive)


class Outcome:
    """What became of one model's requests. Arrays have a row for each level, 0 for none.

    ``offered``: came. ``answered``, and of these ``in_time``: within their deadline. ``expired``:
    while they waited. ``refused``: as they would have been late. ``rejected``: no room for them, or
    thrown out. ``seconds``: a histogram from arrival to answer; ``worst``: the longest wait until
    sent. ``batches``, ``rows``: sent; ``busy``: seconds that the device worked for them.
    """

    def __init__(self, levels: int) -> None:
        size = levels + 1
        self.offered = [0] * size
        self.answered = [0] * size
        self.in_time = [0] * size
        self.expired = [0] * size
        self.refused = [0] * size
        self.rejected = [0] * size
        self.worst = [0.0] * size
        self.seconds = np.zeros((size, BINS), np.int64)
        self.batches = 0
        self.rows = 0
        self.busy = 0.0
        self._fresh: list[list[float]] = [[] for _ in range(size)]

    def quantile(self, q: float, level: int | None = None) -> float:
        """Seconds within which a share q was answered, of a level or of all; nan for none."""
        self.flush()
        counts = self.seconds.sum(axis=0) if level is None else self.seconds[level]
        total = counts.sum()
        if not total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(counts), q * total))
        return float(SHORTEST * 10 ** ((place + 0.5) / PER_DECADE))

    def end(self, batch: Batch, now: float) -> None:
        """Count the members of a batch as answered."""
        fresh, answered, in_time, worst = self._fresh, self.answered, self.in_time, self.worst
        sent_at = batch.sent_at
        for item in batch.members:
            level = item.level
            arrived = item.arrived
            fresh[level].append(now - arrived)
            answered[level] += 1
            if now <= item.answer_by:
                in_time[level] += 1
            if sent_at - arrived > worst[level]:  # noqa: PLR1730 - on every request's way
                worst[level] = sent_at - arrived
        if len(fresh[level]) > _FLUSH:
            self.flush()

    def flush(self) -> None:
        """Sort what was counted into the histograms."""
        for level, fresh in enumerate(self._fresh):
            if fresh:
                decades = np.log10(np.maximum(np.array(fresh) / SHORTEST, 1.0))
                bins = np.minimum((decades * PER_DECADE).astype(np.int64), BINS - 1)
                self.seconds[level] += np.bincount(bins, minlength=BINS)
                fresh.clear()


class _Served:
    """One model: its scheduler, what it costs, and who comes back."""

    def __init__(self, model: Model, device: Device, rng: np.random.Generator) -> None:
        self.model = model
        self.scheduler = Scheduler(device)
        self.scheduler.configure(model.settings, model.strategy, {})
        self.scheduler.open(_LANE, slots=model.slots, most=model.most)
        self.lane = self.scheduler.lanes[_LANE]
        self.outcome = Outcome(len(model.settings.levels))
        self.clients: dict[Item, Clients] = {}
        self.wake = inf
        self._rng = rng
        self._noise: list[float] = []

    def takes(self, rows: int) -> float:
        """Draw how long a batch takes on a device that has nothing else to do."""
        model = self.model
        seconds = model.fixed + model.per_row * rows
        if not model.noise:
            return seconds
        if not self._noise:
            self._noise = self._rng.lognormal(0.0, model.noise, 4096).tolist()
        return seconds * self._noise.pop()


class _Work:
    """The device: what is in flight and when the next of it ends."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._left: dict[Batch, float] = {}
        self._owner: dict[Batch, _Served] = {}
        self._at = 0.0
        self.ends_at = inf

    def begin(self, batch: Batch, owner: _Served, seconds: float, now: float) -> None:
        """Take a batch."""
        self._advance(now)
        self._left[batch] = seconds
        self._owner[batch] = owner
        self._next()

    def end(self) -> tuple[Batch, _Served]:
        """Let the batch go that has ended."""
        self._advance(self.ends_at)
        left = self._left
        batch = min(left, key=left.__getitem__) if self._shared else next(iter(left))
        del left[batch]
        self._next()
        return batch, self._owner.pop(batch)

    def _advance(self, now: float) -> None:
        passed, self._at = now - self._at, now
        left = self._left
        if not left:
            return
        if self._shared:
            passed /= len(left)
            for batch in left:
                left[batch] -= passed
        else:
            left[next(iter(left))] -= passed

    def _next(self) -> None:
        left = self._left
        if not left:
            self.ends_at = inf
        elif self._shared:
            self.ends_at = self._at + max(0.0, min(left.values())) * len(left)
        else:
            self.ends_at = self._at + max(0.0, next(iter(left.values())))


class Simulation:
    """Models on one device, and who asks them."""

    def __init__(
        self,
        models: Mapping[str, Model],
        loads: Sequence[Load],
        clients: Sequence[Clients],
        rng: np.random.Generator,
        *,
        device: Literal["Serial", "Shared"] = "Serial",
    ) -> None:
        shared = Device()
        self._served = {name: _Served(one, shared, rng) for name, one in models.items()}
        self._models = list(self._served.values())
        self._loads = loads
        self._rng = rng
        self._work = _Work(shared=device == "Shared")
        self._back: list[tuple[float, int, Clients]] = []
        self._serial = count()
        self._until = 0.0
        for group in clients:
            for _ in range(group.number):
                # Not all at once: as long a time as each takes to think, or a batch.
                fixed = models[group.model].fixed
                at = float(rng.uniform(0.0, max(group.think, fixed)))
                heappush(self._back, (at, next(self._serial), group))

    def run(self, seconds: float) -> dict[str, Outcome]:
        """Let requests come for so long, and what came end; returns the outcomes by model."""
        self._until = seconds
        for time, served, level, rows, answer_by in self._arrivals(seconds):
            if self._due() <= time:
                self._run_until(time)
            self._offer(served, Item(level, rows, None, time, answer_by=answer_by), time)
            if served.lane.in_flight < served.model.slots:
                self._poll(served, time)
        self._run_until(inf)
        for served in self._models:
            served.outcome.flush()
        return {name: served.outcome for name, served in self._served.items()}

    def _arrivals(self, seconds: float) -> Iterator[tuple[float, _Served, int, int, float]]:
        """Every request of the open loads, in order: model, time, level, rows, deadline."""
        begin = 0.0
        while begin < seconds:
            end = min(begin + WINDOW, seconds)
            drawn = [load.within(begin, end, self._rng) for load in self._loads]
            owners = [self._served[load.model] for load in self._loads]
            if len(drawn) == 1:
                yield from _rows(drawn[0], [owners[0]] * len(drawn[0].times))
            elif drawn:
                merged = Arrivals(
                    np.concatenate([one.times for one in drawn]),
                    np.concatenate([one.levels for one in drawn]),
                    np.concatenate([one.rows for one in drawn]),
                    np.concatenate([one.deadlines for one in drawn]),
                )
                order = np.argsort(merged.times, kind="stable")
                whose = np.repeat(np.arange(len(drawn)), [len(one.times) for one in drawn])[order]
                yield from _rows(merged.pick(order), [owners[i] for i in whose.tolist()])
            begin = end

    def _due(self) -> float:
        """When the next thing happens that is not an arrival of an open load."""
        due = self._work.ends_at
        for served in self._models:
            if served.wake < due:  # noqa: PLR1730 - on every request's way
                due = served.wake
        return min(due, self._back[0][0]) if self._back else due

    def _run_until(self, time: float) -> None:
        """Let everything happen that is due by a time."""
        while (now := self._due()) <= time and now < inf:
            if self._work.ends_at <= now:
                self._end(now)
            elif self._back and self._back[0][0] <= now:
                group = heappop(self._back)[2]
                if now >= self._until:
                    continue
                served = self._served[group.model]
                item = Item(group.level, group.rows, None, now, answer_by=now + group.deadline)
                served.clients[item] = group
                self._offer(served, item, now)
                if served.lane.free:
                    self._poll(served, now)
            else:
                for served in self._models:
                    if served.wake <= now:
                        self._poll(served, now)

    def _offer(self, served: _Served, item: Item, now: float) -> None:
        outcome, level = served.outcome, item.level
        outcome.offered[level] += 1
        try:
            for thrown in served.scheduler.offer(item, _LANE, now):
                outcome.rejected[thrown.level] += 1
                self._come_back(served, thrown, now + AGAIN)
        except Full as full:
            outcome.rejected[level] += 1
            self._come_back(served, item, now + full.retry_after)
        except Late:
            outcome.refused[level] += 1
            self._come_back(served, item, now + AGAIN)

    def _poll(self, served: _Served, now: float) -> None:
        scheduler, outcome = served.scheduler, served.outcome
        for batch in scheduler.poll(now):
            outcome.batches += 1
            outcome.rows += batch.rows
            seconds = served.takes(batch.rows)
            outcome.busy += seconds
            self._work.begin(batch, served, seconds, now)
        for item in scheduler.expired(now):
            outcome.expired[item.level] += 1
            self._come_back(served, item, now + AGAIN)
        wake = scheduler.next_wake()
        served.wake = inf if wake is None else max(wake, now)

    def _end(self, now: float) -> None:
        batch, served = self._work.end()
        served.scheduler.finished(batch, now)
        last = batch.members[0]
        if not batch.sliced or batch.begin + batch.rows == last.rows:
            served.outcome.end(batch, now)
            if served.clients:
                for item in batch.members:
                    self._come_back(served, item, now)
        for one in self._models:
            if one.scheduler.waiting or one is served:
                self._poll(one, now)

    def _come_back(self, served: _Served, item: Item, now: float) -> None:
        """Let a client of a closed load think, and ask again."""
        group = served.clients.pop(item, None)
        if group:
            heappush(self._back, (now + group.think, next(self._serial), group))


def _rows(arrivals: Arrivals, owners: list[_Served]) -> Iterator[tuple[Any, ...]]:
    times, levels, rows, deadlines = arrivals
    columns = levels.tolist(), rows.tolist(), (times + deadlines).tolist()
    return zip(times.tolist(), owners, *columns, strict=True)
