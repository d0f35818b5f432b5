"""What happened, as plain integers that only grow; `shell.metrics` writes them for Prometheus."""

from bisect import bisect_left
from typing import Final, Literal

from tidegate_contract import names
from tidegate_contract.table import ErrorCheck, RoutingTable, SlowCheck

Outcome = Literal["ok", "client_error", "server_error", "rejected", "cancelled"]

SECONDS: Final = (
    *(0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1),
    *(0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LEVELS: Final = range(1, names.PRIORITY_LEVELS + 1)


class Histogram:
    """Counts by upper bound, in the bounds' unit; the last count is what lies beyond them all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class CheckCount:
    """One check of the table for one arm at one level: requests concerned, and how many were bad.

    ``bound``: seconds within which a request is to be answered well; None: bad is an error.
    """

    __slots__ = ("bad", "bound", "requests")

    def __init__(self, bound: float | None) -> None:
        self.bound = bound
        self.requests = 0
        self.bad = 0


class Tally:
    """The requests of one arm, version and level.

    ``waiting`` and ``in_flight`` are as of now. ``checks`` are those that concern new requests.
    """

    __slots__ = ("checks", "duration", "in_flight", "outcomes", "queued", "waiting")

    def __init__(self, duration: Histogram) -> None:
        self.outcomes: dict[Outcome, int] = {}
        self.duration = duration
        self.queued = Histogram(SECONDS)
        self.waiting = 0
        self.in_flight = 0
        self.checks: tuple[CheckCount, ...] = ()

    def count(self, outcome: Outcome) -> None:
        """Count one request's end."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


class Counters:
    """Everything counted for one model, by the labels that it is exported with."""

    def __init__(self) -> None:
        self.tallies: dict[tuple[str, int, int], Tally] = {}
        self.durations: dict[tuple[str, int], Histogram] = {}
        self.checks: dict[tuple[str, str, int, int], CheckCount] = {}
        self.fallbacks: dict[str, int] = {}
        self.batch_sizes: dict[int, Histogram] = {}
        self.triton_restarts = 0

    def tally(self, arm: str, version: int, priority: int) -> Tally:
        """The tally of an arm, version and level; version 0 where none was chosen."""
        key = (arm, version, priority)
        if key not in self.tallies:
            duration = self.durations.setdefault((arm, version), Histogram(SECONDS))
            self.tallies[key] = Tally(duration)
        return self.tallies[key]

    def follow(self, table: RoutingTable) -> None:
        """Count for a table's checks from now on.

        Every series exists from here: one that is first seen at 7 would lose its first seven. A
        check that both tables have goes on counting; one that only the old table had is dropped.
        """
        old, self.checks = self.checks, {}
        for tally in self.tallies.values():
            tally.checks = ()
        for arm in table.split:
            for level in LEVELS:
                concerned = []
                for check in table.checks:
                    if arm.name not in (arms := _bounds(check)):
                        continue
                    key = (check.id, arm.name, arm.version, level)
                    count = old.get(key) or CheckCount(arms[arm.name])
                    self.checks[key] = count
                    if isinstance(check, ErrorCheck) or level in (check.priorities or LEVELS):
                        concerned.append(count)
                self.tally(arm.name, arm.version, level).checks = tuple(concerned)

    def fell_back(self, arm: str) -> None:
        """Count a request that its own arm could not serve."""
        self.fallbacks[arm] = self.fallbacks.get(arm, 0) + 1

    def batch(self, version: int, rows: int) -> None:
        """Count a batch that is sent."""
        self.batch_sizes.setdefault(version, Histogram(BATCH_SIZES)).observe(rows)


def _bounds(check: ErrorCheck | SlowCheck) -> dict[str, float | None]:
    if isinstance(check, ErrorCheck):
        return dict.fromkeys(check.arms)
    return dict(check.bounds)
