"""From raw counter samples to counts of requests and of outcomes.

Rates that Prometheus computes are extrapolated; a decision needs whole requests. So the samples
of each series are read as they were scraped and their rises are added up, series by series, with
a fall read as a restart from zero. Every sample of one pod has the same time in all its series
(one scrape), so requests and bad requests of both arms always cover the same span.

A sidecar begins a series with its first request; only one series of each check and arm is there
from the start. So what is missing from a scrape that shows a relative was zero then.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from tidegate_operator.evidence.tally import Tally

Part = Literal[
    "count",
    "pos",
    "neg",
    "squares",
    "covariate_pos",
    "covariate_neg",
    "covariate_squares",
    "cross_pos",
    "cross_neg",
]
"""The sums that users' feedback is told by."""
Counts = Literal["requests", "bad", "tokens", "restarts"] | Part

CHECKED: frozenset[Counts] = frozenset({"requests", "bad"})
PARTS: tuple[Part, ...] = Part.__args__  # type: ignore[attr-defined]


class Series(msgspec.Struct, frozen=True, gc=False):
    """One counter of one pod, as it was scraped.

    ``times``: epoch seconds, rising; ``values``: one for each. ``check``: of feedback, the
    outcome's name; "" where there is none. ``cell``: the bucket of users that is counted, else the
    priority; "" without.
    """

    pod: str
    arm: str
    check: str
    counts: Counts
    times: tuple[float, ...]
    values: tuple[float, ...]
    cell: str = ""

    def until(self, at: float) -> "Series":
        """Without the samples after a time."""
        kept = bisect_right(self.times, at)
        return msgspec.structs.replace(self, times=self.times[:kept], values=self.values[:kept])


@dataclass(frozen=True, slots=True)
class Stratum:
    """What one check counted in one pod and one cell since the last look, by arm; an arm that is
    not there had no requests. ``gap``: this part fell into a gap.
    """

    pod: str
    cell: str
    gap: bool
    arms: dict[str, Tally]


@dataclass(frozen=True, slots=True)
class Window:
    """What happened since the cursors: ``strata`` by check, without those in which nothing did.

    A gap is a time without a scrape for more than two intervals, or without anybody who judged;
    one with a restart inside is left out, as nobody knows what was lost. ``cursors``: by pod, the
    time up to which samples are now used.
    """

    strata: dict[str, list[Stratum]] = field(default_factory=dict)
    cursors: dict[str, float] = field(default_factory=dict)

    @property
    def watched(self) -> dict[str, dict[str, Tally]]:
        """By check and arm, without what fell into gaps."""
        return self._total(gaps=False)

    @property
    def all(self) -> dict[str, dict[str, Tally]]:
        """By check and arm, gaps included."""
        return self._total(gaps=True)

    def _total(self, *, gaps: bool) -> dict[str, dict[str, Tally]]:
        total: dict[str, dict[str, Tally]] = {}
        for check, strata in self.strata.items():
            arms = total[check] = {}
            for stratum in strata:
                if gaps or not stratum.gap:
                    for arm, tally in stratum.arms.items():
                        arms[arm] = arms.get(arm, Tally()) + tally
        return total


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over outcomes that users reported: how many, their values and squares; with a covariate
    the same of it, and of the products. What may be negative is told in two parts.
    """

    count: float = 0.0
    pos: float = 0.0
    neg: float = 0.0
    squares: float = 0.0
    covariate_pos: float = 0.0
    covariate_neg: float = 0.0
    covariate_squares: float = 0.0
    cross_pos: float = 0.0
    cross_neg: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What users reported since the cursors. ``sums``: by outcome's name, arm and bucket ("" where
    there is none). ``tokens``: answers that asked for feedback, by arm. ``cursors``: as of
    ``Window``.
    """

    sums: dict[tuple[str, str, str], Sums] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    cursors: dict[str, float] = field(default_factory=dict)


def window(
    series: Iterable[Series],
    cursors: Mapping[str, float],
    start: float,
    *,
    starts: Mapping[str, float] | None = None,
    longest_gap: float,
    attended: bool,
) -> Window:
    """Add up what the checks counted after each pod's cursor.

    A pod without a cursor begins at its time in ``starts``, by pod, else at ``start``; its value
    there is its last sample not after that, else its first one. ``attended`` False says that
    nobody judged while this happened: then all of it is gap.
    """
    result = Window(cursors=dict(cursors))
    for pod, mine in _by_pod(one for one in series if one.counts in CHECKED).items():
        cursor = cursors.get(pod, (starts or {}).get(pod, start))
        end = _complete_until(mine)
        if end <= cursor:
            continue
        result.cursors[pod] = end
        rises = [
            rise
            for group in _by_check(mine)
            for rise in _rises(group, cursor, end, longest_gap if attended else -1.0)
        ]
        lost = {rise.at for rise in rises if rise.gap and rise.restarted}
        _add_strata(result.strata, pod, (r for r in rises if not (r.gap and r.at in lost)))
    return result


def sums(
    series: Iterable[Series],
    cursors: Mapping[str, float],
    start: float,
    *,
    starts: Mapping[str, float] | None = None,
) -> Outcomes:
    """Add up what users reported after each pod's cursor; pods begin as in ``window``."""
    result = Outcomes(cursors=dict(cursors))
    found: defaultdict[tuple[str, str, str], dict[str, float]] = defaultdict(dict)
    for pod, mine in _by_pod(one for one in series if one.counts not in CHECKED).items():
        cursor = cursors.get(pod, (starts or {}).get(pod, start))
        end = _complete_until(mine)
        if end <= cursor:
            continue
        result.cursors[pod] = end
        for rise in _rises(mine, cursor, end):
            one = rise.series
            if one.counts in PARTS:
                parts = found[one.check, one.arm, one.cell]
                parts[one.counts] = parts.get(one.counts, 0.0) + rise.amount
            elif one.counts == "tokens":
                result.tokens[one.arm] = result.tokens.get(one.arm, 0.0) + rise.amount
    result.sums.update({key: Sums(**parts) for key, parts in found.items()})
    return result


def restarts(
    series: Iterable[Series], since: Mapping[str, float], until: Mapping[str, float]
) -> int:
    """How often the pods' Tritons were found restarted, after ``since`` and up to ``until``."""
    found = 0.0
    for pod, mine in _by_pod(one for one in series if one.counts == "restarts").items():
        if pod in since and pod in until:
            found += sum(rise.amount for rise in _rises(mine, since[pod], until[pod]))
    return round(found)


def newest_sample(series: Iterable[Series]) -> dict[str, float]:
    """By pod, the time of its newest sample."""
    newest: dict[str, float] = {}
    for one in series:
        if one.times:
            newest[one.pod] = max(newest.get(one.pod, 0.0), one.times[-1])
    return newest


class _Rise(NamedTuple):
    """What a counter rose by between two scrapes; ``at`` is the time of the second."""

    series: Series
    at: float
    amount: float
    gap: bool
    restarted: bool


def _rises(
    group: Sequence[Series], cursor: float, end: float, longest_gap: float | None = None
) -> Iterator[_Rise]:
    """Every rise of relatives after the cursor: what one of them lacks at a time was zero."""
    times, rows = _aligned(group)
    pairs = [(i, t0, t1) for i, (t0, t1) in enumerate(pairwise(times)) if cursor < t1 <= end]
    for one, values in zip(group, rows, strict=True):
        for i, t0, t1 in pairs:
            before, after = values[i], values[i + 1]
            restarted = after < before
            amount = after if restarted else after - before
            if amount or restarted:
                gap = longest_gap is not None and t1 - max(t0, cursor) > longest_gap
                yield _Rise(one, t1, amount, gap, restarted)


def _aligned(group: Sequence[Series]) -> tuple[Sequence[float], list[Sequence[float]]]:
    """The times of all of them together, and each one's values at these."""
    first = group[0].times
    if all(one.times is first or one.times == first for one in group):
        return first, [one.values for one in group]
    times = sorted({at for one in group for at in one.times})
    rows: list[Sequence[float]] = []
    for one in group:
        known = dict(zip(one.times, one.values, strict=True))
        rows.append([known.get(at, 0.0) for at in times])
    return times, rows


def _complete_until(mine: Sequence[Series]) -> float:
    """Up to when a pod's samples are all there.

    Requests and bad requests come by two queries, and a scrape may be stored between them; and not
    every store shows a scrape as a whole. So the newest scrape waits for the next one if it lacks
    what the one before it had.
    """
    newest: dict[str, float] = {}
    for one in mine:
        if one.times:
            newest[one.counts] = max(newest.get(one.counts, 0.0), one.times[-1])
    if not newest:
        return 0.0
    shared = {kind: at for kind, at in newest.items() if kind in CHECKED} or newest
    end = min(shared.values())
    if all(not one.times or one.times[-1] >= end for one in mine):
        return end
    before = max((at for one in mine for at in one.times if at < end), default=0.0)
    ended = any(one.times and one.times[-1] == before for one in mine)
    return before if ended else end


def _by_pod(series: Iterable[Series]) -> dict[str, list[Series]]:
    found: defaultdict[str, list[Series]] = defaultdict(list)
    for one in series:
        found[one.pod].append(one)
    return found


def _by_check(series: Iterable[Series]) -> Iterable[list[Series]]:
    found: defaultdict[str, list[Series]] = defaultdict(list)
    for one in series:
        found[one.check].append(one)
    return found.values()


def _add_strata(into: dict[str, list[Stratum]], pod: str, rises: Iterable[_Rise]) -> None:
    found: defaultdict[tuple[str, str, bool], dict[str, list[float]]] = defaultdict(dict)
    for rise in rises:
        one = rise.series
        pair = found[one.check, one.cell, rise.gap].setdefault(one.arm, [0.0, 0.0])
        pair[one.counts == "bad"] += rise.amount
    for (check, cell, gap), arms in found.items():
        tallies = {
            arm: Tally(requests=round(requests), bad=round(bad))
            for arm, (requests, bad) in arms.items()
        }
        into.setdefault(check, []).append(Stratum(pod, cell, gap, tallies))
