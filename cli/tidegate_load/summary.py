"""What a run came to, by user and in all: the document that ``--json`` writes."""

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from tidegate_load.schedule import Times
from tidegate_load.sender import Record
from tidegate_load.users import User

FORMAT: Final = "tidegate.dev/load/v1"
"""Grows by one where a field changes its meaning or goes; new fields come without."""

LATE: Final = 1e-3
"""Seconds by which 1% of the requests may go too late before a run is doubted."""

_EXPIRED: Final = 504
_REJECTED: Final = (429, 503)


class Quantiles(msgspec.Struct, frozen=True):
    """Of times, in milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Requests of one user, or of all.

    ``scheduled``: were due; ``unsent`` of them never found a connection free. Of those ``sent``:
    ``ok`` (2xx; ``in_time`` of them within the deadline), ``expired`` (504), ``rejected`` (429,
    503), ``errors`` (any other status, or a lost connection), ``unanswered`` at the end.
    ``throughput``: answers 2xx a second. ``latency``: of these, from the scheduled time on.
    """

    scheduled: int
    unsent: int
    sent: int
    ok: int
    in_time: int
    expired: int
    rejected: int
    errors: int
    unanswered: int
    throughput: float
    latency: Quantiles | None


class UserFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One user's figures, with what was asked for."""

    name: str
    priority: int
    deadline: float | None
    figures: Figures


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run.

    ``seconds``: until the last answer. ``arrival_error``: how much later than scheduled requests
    went. ``delayed``: requests that found no connection free. ``fairness``: Jain's index over the
    users' shares of requests answered in time; None: nothing was answered in time. ``statuses``:
    how often each HTTP status came; "lost" where the connection ended first.
    """

    format: str = FORMAT
    target: str
    model: str
    pattern: str
    seed: int
    interrupted: bool
    seconds: float
    arrival_error: Quantiles | None
    delayed: int
    fairness: float | None
    statuses: dict[str, int]
    users: list[UserFigures]
    total: Figures


Mask = npt.NDArray[np.bool_]


class Outcomes:
    """A run's requests by what became of them, each a mask over those that were due."""

    def __init__(self, record: Record, deadlines: Times) -> None:
        """``deadlines``: of each user in seconds, infinite where there is none."""
        due = record.due
        self.at = record.schedule.times[:due]
        self.users = record.schedule.users[:due]
        self.status = record.status[:due].astype(np.int64)
        self.latency = record.done[:due] - self.at
        self.error = record.sent[:due] - self.at
        self.sent: Mask = ~np.isnan(record.sent[:due])
        self.done: Mask = ~np.isnan(record.done[:due])
        self.ok: Mask = self.done & (self.status // 100 == 2)  # noqa: PLR2004 - HTTP's success
        self.in_time: Mask = self.ok & (self.latency <= deadlines[self.users])
        self.expired: Mask = self.done & (self.status == _EXPIRED)
        self.rejected: Mask = self.done & np.isin(self.status, _REJECTED)
        self.errors: Mask = self.done & ~(self.ok | self.expired | self.rejected)

    def figures(self, which: Mask, seconds: float) -> Figures:
        """Count some of the requests."""
        ok = self.ok & which
        return Figures(
            scheduled=_count(which),
            unsent=_count(which & ~self.sent),
            sent=_count(which & self.sent),
            ok=_count(ok),
            in_time=_count(which & self.in_time),
            expired=_count(which & self.expired),
            rejected=_count(which & self.rejected),
            errors=_count(which & self.errors),
            unanswered=_count(which & self.sent & ~self.done),
            throughput=_count(ok) / seconds if seconds else 0.0,
            latency=quantiles(self.latency[ok]),
        )


def outcomes(record: Record, users: Sequence[User]) -> Outcomes:
    """What became of each request."""
    deadlines = [np.inf if one.deadline is None else one.deadline for one in users]
    return Outcomes(record, np.array(deadlines))


def summarise(
    record: Record, users: Sequence[User], *, target: str, model: str, pattern: str, seed: int
) -> Summary:
    """The figures of a run. Users to whom no request belonged are left out."""
    found = outcomes(record, users)
    rows = [
        UserFigures(
            name=one.name,
            priority=one.priority,
            deadline=one.deadline,
            figures=found.figures(found.users == i, record.elapsed),
        )
        for i, one in enumerate(users)
        if (found.users == i).any()
    ]
    statuses, counts = np.unique(found.status[found.done], return_counts=True)
    return Summary(
        target=target,
        model=model,
        pattern=pattern,
        seed=seed,
        interrupted=record.interrupted,
        seconds=record.elapsed,
        arrival_error=quantiles(found.error[found.sent]),
        delayed=record.delayed,
        fairness=jain([one.figures.in_time / one.figures.scheduled for one in rows]),
        statuses={
            str(status) if status else "lost": count
            for status, count in zip(statuses.tolist(), counts.tolist(), strict=True)
        },
        users=rows,
        total=found.figures(np.ones_like(found.done), record.elapsed),
    )


def jain(shares: Sequence[float]) -> float | None:
    """The fairness of an allocation: (sum x)^2 / (n sum x^2), from 1/n to 1, where all are equal.

    R. Jain, D. Chiu, W. Hawe: A quantitative measure of fairness and discrimination for resource
    allocation in shared computer systems. DEC Research Report TR-301, 1984. None: all got nothing.
    """
    squares = sum(one * one for one in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def quantiles(seconds: Times) -> Quantiles | None:
    """Of times in seconds; None where there are none."""
    if not seconds.size:
        return None
    return Quantiles(*(np.quantile(seconds, (0.5, 0.95, 0.99, 1)) * 1e3).tolist())


def _count(mask: Mask) -> int:
    return int(np.count_nonzero(mask))
