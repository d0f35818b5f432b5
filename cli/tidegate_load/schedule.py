"""When requests go and whose they are: Poisson arrivals, bursts, floods, and replayed traces."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tidegate_cli.errors import CommandError
from tidegate_load.users import User

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """Arrivals in the order of their times.

    ``times``: seconds from the start, rising. ``users``: whose each is, as places in the list of
    users. ``rows``: of each request. ``seconds``: how long requests come.
    """

    times: Times
    users: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    seconds: float


@dataclass(frozen=True, slots=True)
class Burst:
    """From ``begin``, within the run, for ``seconds``, requests come ``factor`` times as often.

    ``flood``: what comes in addition is all of the user with the highest priority.
    """

    begin: float
    seconds: float
    factor: float
    flood: bool


def drawn(
    users: Sequence[User],
    rate: float,
    seconds: float,
    burst: Burst | None,
    draw: np.random.Generator,
) -> Schedule:
    """Poisson arrivals of ``rate`` requests a second, each of a user drawn by the shares."""
    shares = np.array([one.share for one in users], np.float64)
    shares /= shares.sum()
    times = _poisson(rate, 0, seconds, draw)
    who = draw.choice(len(users), times.size, p=shares)
    if burst is not None:
        end = min(burst.begin + burst.seconds, seconds)
        more = _poisson(rate * (burst.factor - 1), burst.begin, end, draw)
        highest = min(range(len(users)), key=lambda i: users[i].priority)
        whose = (
            np.full(more.size, highest)
            if burst.flood
            else draw.choice(len(users), more.size, p=shares)
        )
        times, who = np.concatenate((times, more)), np.concatenate((who, whose))
        order = np.argsort(times, kind="stable")
        times, who = times[order], who[order]
    rows = np.array([one.rows for one in users])[who]
    return Schedule(times, who, rows, seconds)


def _poisson(rate: float, begin: float, end: float, draw: np.random.Generator) -> Times:
    """A Poisson process: given how many arrivals there are, each is anywhere alike."""
    many = draw.poisson(rate * (end - begin))
    return np.sort(draw.uniform(begin, end, many))


def replayed(lines: Iterable[str], users: Sequence[User]) -> tuple[Schedule, tuple[User, ...]]:
    """A trace: CSV with a line ``at,level,rows`` for each request, under a line of these names.

    ``at``: seconds, from any moment; the first one is the start. A level is that user's who has
    this priority; where none has, a user named for the level is added, without a deadline.

    Raises:
        CommandError: a line is something else.
    """
    reader = csv.DictReader(lines)
    if set(reader.fieldnames or ()) != {"at", "level", "rows"}:
        raise CommandError("a trace begins with the line at,level,rows")
    try:
        read = [(float(one["at"]), int(one["level"]), int(one["rows"])) for one in reader]
    except (TypeError, ValueError) as error:
        raise CommandError(f"line {reader.line_num} of the trace: {error}") from error
    if not read:
        raise CommandError("the trace has no requests")
    at, levels, rows = (np.array(column) for column in zip(*read, strict=True))
    if not np.isfinite(at).all() or min(levels.min(), rows.min()) < 1:
        raise CommandError("a trace's times must be numbers, its levels and rows at least 1")
    by_level = {one.priority: i for i, one in reversed([*enumerate(users)])}
    added = sorted({int(level) for level in levels} - by_level.keys())
    by_level |= {level: place for place, level in enumerate(added, len(users))}
    order = np.argsort(at, kind="stable")
    who = np.array([by_level[int(level)] for level in levels])
    times = at[order] - at.min()
    everybody = (*users, *(User(name=f"level-{one}", share=0, priority=one) for one in added))
    return Schedule(times, who[order], rows[order], float(times[-1])), everybody
