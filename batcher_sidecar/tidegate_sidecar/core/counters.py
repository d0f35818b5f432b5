"""What happened, as plain integers that only grow; `shell.metrics` writes them for Prometheus."""

from bisect import bisect_left
from functools import cache
from typing import Final, Literal, NamedTuple

from tidegate_contract import names
from tidegate_contract.table import (
    Check,
    DisagreementCheck,
    ErrorCheck,
    RoutingTable,
    SlowCheck,
)

Outcome = Literal["ok", "client_error", "server_error", "rejected", "expired", "cancelled"]
PairOutcome = Literal["agreed", "disagreed", "failed", "dropped"]

SECONDS: Final[tuple[float, ...]] = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Stratum = tuple[str, str]
"""Labels ``priority`` and ``bucket`` of a check's series: where users are assigned, requests are
told apart by groups of users, else by level. Prometheus takes an empty label for none."""

BUCKET_STRATA: Final[tuple[Stratum, ...]] = tuple(("", str(i)) for i in range(names.BUCKETS))
NOBODY: Final[Stratum] = ("", "")
"""Requests without a key, where users are assigned."""


@cache
def level_stratum(level: int) -> Stratum:
    """What a check of requests of a level counts under, where no users are assigned."""
    return str(level), ""


class Histogram:
    """Counts by upper bound, in the bounds' unit; the last count is what lies beyond them all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def quantile(self, share: float) -> float | None:
        """The value that a share of those counted do not exceed, as far as the bounds tell.

        Between two bounds values are taken to lie evenly; beyond the last it is the last. None:
        nothing is counted.
        """
        rank = share * sum(self.counts)
        below, passed = 0.0, 0
        for bound, count in zip(self.bounds, self.counts, strict=False):
            if count and passed + count >= rank:
                return below + (bound - below) * (rank - passed) / count
            below, passed = bound, passed + count
        return below if passed or self.counts[-1] else None


class Series(NamedTuple):
    """The labels of one series of a check."""

    check: str
    arm: str
    version: int
    stratum: Stratum


class CheckCount:
    """One series of a check: requests concerned, and how many were bad.

    ``bound``: seconds within which a request is to be answered well; None: bad is not lateness.
    """

    __slots__ = ("bad", "bound", "requests")

    def __init__(self, bound: float | None = None) -> None:
        self.bound = bound
        self.requests = 0
        self.bad = 0

    def count(self, *, bad: bool) -> None:
        """Count one request, or one pair of answers."""
        self.requests += 1
        self.bad += bad


class Tally:
    """The requests of one arm, version and level.

    ``waiting`` and ``in_flight`` are as of now. ``checks``: what new requests count in, by
    stratum, as far as there were any.
    """

    __slots__ = ("checks", "duration", "in_flight", "outcomes", "queued", "waiting")

    def __init__(self, duration: Histogram) -> None:
        self.outcomes: dict[Outcome, int] = {}
        self.duration = duration
        self.queued = Histogram(SECONDS)
        self.waiting = 0
        self.in_flight = 0
        self.checks: dict[Stratum, tuple[CheckCount, ...]] = {}

    def count(self, outcome: Outcome) -> None:
        """Count one request's end."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Counters:
    """Everything counted for one model, by the labels that it is exported with."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, int, int], Tally] = {}
        self.durations: dict[tuple[str, int], Histogram] = {}
        self.checks: dict[Series, CheckCount] = {}
        self._followed: dict[tuple[str, str, int], Check] = {}
        self.fallbacks: dict[str, int] = {}
        self.batch_sizes: dict[int, Histogram] = {}
        self.mirror: dict[tuple[int, PairOutcome], int] = {}
        self.retries: dict[tuple[int, str], int] = {}
        """Batches sent again in parts, by version and outcome."""
        self.triton_restarts = 0

    def tally(self, arm: str, version: int, priority: int) -> Tally:
        """The tally of an arm, version and level; version 0 where none was chosen."""
        key = (arm, version, priority)
        found = self.tallies.get(key)
        if found is None:
            duration = self.durations.setdefault((arm, version), Histogram(SECONDS))
            found = self.tallies[key] = Tally(duration)
        return found

    def follow(self, table: RoutingTable) -> None:
        """Count for a table's checks from now on.

        One series of each check and arm exists from here, at 0: the anchor. A scrape that shows
        the anchor and not another series of the pair says that the other was 0 then, so that
        series may begin with their first request and nothing is lost; 64 buckets or 5 levels of
        each from the start would be many times as many. A check that both tables have goes on
        counting; one that only the old table had is dropped.
        """
        for tally in self.tallies.values():
            tally.checks = {}
        arms = {(arm.name, arm.version) for arm in table.split}
        if table.mirror:
            arms.add((names.ARM_SHADOW, table.mirror.version))
        self._followed = {
            (check.id, arm, version): check
            for check in table.checks
            for arm, version in arms
            if _concerns(check, arm)
        }
        self.checks = {
            series: count for series, count in self.checks.items() if series[:3] in self._followed
        }
        for (_, arm, version), check in self._followed.items():
            self._count_of(check, arm, version, _anchor(check, table))

    def concerning(
        self, arm: str, version: int, level: int, stratum: Stratum
    ) -> tuple[CheckCount, ...]:
        """What a request of an arm counts in: the table's checks of errors and of lateness."""
        strata = self.tally(arm, version, level).checks
        found = strata.get(stratum)
        if found is None:
            found = strata[stratum] = tuple(
                self._count_of(check, arm, version, stratum)
                for (_, *of), check in self._followed.items()
                if of == [arm, version]
                and not isinstance(check, DisagreementCheck)
                and (not (levels := _levels(check)) or level in levels)
            )
        return found

    def check(self, id_: str, arm: str, version: int, stratum: Stratum) -> CheckCount:
        """Where a mirrored pair is counted.

        ``arm``: ``shadow``, or ``stable`` for pairs of stable with itself. ``version``: the one
        that answered the copy. ``stratum``: ``Pending.stratum`` of the request that was copied.
        Usage::

            counters.check(check.id, names.ARM_SHADOW, 2, pending.stratum).count(bad=differs)

        What the table in force does not ask for (a pair may come back after the next table)
        counts nowhere.
        """
        check = self._followed.get((id_, arm, version))
        return self._count_of(check, arm, version, stratum) if check else CheckCount()

    def _count_of(self, check: Check, arm: str, version: int, stratum: Stratum) -> CheckCount:
        series = Series(check.id, arm, version, stratum)
        count = self.checks.get(series)
        if count is None:
            bound = check.bounds[arm] if isinstance(check, SlowCheck) else None
            count = self.checks[series] = CheckCount(bound)
        return count

    def waiting(self, arm: str, version: int) -> int:
        """Requests of an arm that wait for a version, of all levels."""
        return sum(
            tally.waiting
            for (its_arm, its_version, _), tally in self.tallies.items()
            if its_version == version and its_arm == arm
        )

    def retried(self, version: int, outcome: str) -> None:
        """Count a batch that was sent again in parts, or was not, by what came of it."""
        self.retries[version, outcome] = self.retries.get((version, outcome), 0) + 1

    def fell_back(self, arm: str) -> None:
        """Count a request that its own arm could not serve."""
        self.fallbacks[arm] = self.fallbacks.get(arm, 0) + 1

    def mirrored(self, version: int, outcome: PairOutcome) -> None:
        """Count a copy for a version by what became of it."""
        key = (version, outcome)
        self.mirror[key] = self.mirror.get(key, 0) + 1

    def batch(self, version: int, rows: int) -> None:
        """Count a batch that is sent."""
        sizes = self.batch_sizes.get(version)
        if sizes is None:
            sizes = self.batch_sizes[version] = Histogram(BATCH_SIZES)
        sizes.observe(rows)


def _concerns(check: Check, arm: str) -> bool:
    match check:
        case ErrorCheck():
            return arm in check.arms
        case SlowCheck():
            return arm in check.bounds
        case DisagreementCheck():
            return arm == names.ARM_SHADOW or (check.baseline and arm == names.ARM_STABLE)


def _levels(check: Check) -> list[int] | None:
    return check.priorities if isinstance(check, SlowCheck) else None


def _anchor(check: Check, table: RoutingTable) -> Stratum:
    if table.assignment:
        return BUCKET_STRATA[0]
    levels = _levels(check)
    level = table.batch.default_level
    return level_stratum(level if not levels or level in levels else levels[0])
