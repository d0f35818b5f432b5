"""The clients' own book: every request that was sent, and what came back for it.

The demo's claims about traffic rest on this book and not on what the servers say of themselves.
Times are seconds since the epoch, as Prometheus and Kubernetes count them.
"""

import bisect
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from tidegate_contract import names
from tidegate_demo.train import HeldOut

OK = 200
SWAP_SECONDS = 1.0
"""Two pods may apply one table so far apart: a user may meet both for as long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and its end.

    ``pod``: the address that was asked, None where none took it. ``status`` 0: nothing came back.
    ``arm`` and ``version`` are what the answer's headers name; ``label`` is the digit that the
    model saw.
    """

    sent: float
    done: float
    image: int
    user: str | None
    pod: str | None
    status: int
    arm: str = names.ARM_NONE
    version: int | None = None
    label: int | None = None
    own: bool = True
    """Whether the answer carries this request's id, and not another's."""

    @property
    def ok(self) -> bool:
        """Whether the client got what it asked for."""
        return self.status == OK


@dataclass(frozen=True, slots=True)
class Report:
    """What a user said of an answer, once a sidecar had taken it."""

    time: float
    arm: str
    correct: bool


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """One arm over a stretch of time; ``p95`` in seconds; ``version``: that of the last answer;
    ``reports``: all so far, and ``correct`` the share of them that say so.
    """

    rate: float
    failed: int
    p95: float | None
    version: int | None
    reports: int = 0
    correct: float | None = None


class Ledger:
    """Append-only; written by the traffic's thread, read by the story's."""

    def __init__(self, held_out: HeldOut) -> None:
        self._held_out = held_out
        self._answers: list[Answer] = []
        self.sent = 0
        self.failed_by_arm: Counter[str] = Counter()
        self.reports: list[Report] = []

    def open(self) -> int:
        """Enter a request that is being sent; returns its number."""
        self.sent += 1
        return self.sent

    def close(self, answer: Answer) -> None:
        """Enter how a request ended."""
        self._answers.append(answer)
        if not answer.ok:
            self.failed_by_arm[answer.arm] += 1

    def correct(self, answer: Answer) -> bool:
        """Whether an answer is right about its image, as the client knows."""
        return bool(answer.label == self._held_out.labels[answer.image])

    def reported(self, report: Report) -> None:
        """Enter what a user said."""
        self.reports.append(report)

    @property
    def closed(self) -> int:
        """Requests whose end is known."""
        return len(self._answers)

    @property
    def lost(self) -> int:
        """Requests to which nothing came back."""
        return sum(answer.status == 0 for answer in self._answers)

    @property
    def strangers(self) -> int:
        """Answers that belong to somebody else's request."""
        return sum(not answer.own for answer in self._answers)

    def failures(self) -> list[Answer]:
        """The requests whose clients did not get what they asked for."""
        return [answer for answer in self._answers if not answer.ok]

    def since(self, time: float, until: float = float("inf")) -> list[Answer]:
        """The answers that came in a stretch of time."""
        first = bisect.bisect_left(self._answers, time, key=lambda answer: answer.done)
        last = bisect.bisect_right(self._answers, until, key=lambda answer: answer.done)
        return self._answers[first:last]

    def by_arm(self, now: float, window: float) -> dict[str, ArmFigures]:
        """Figures of each arm over the last ``window`` seconds."""
        arms: defaultdict[str, list[Answer]] = defaultdict(list)
        for answer in self.since(now - window, now):
            arms[answer.arm].append(answer)
        return {arm: self._figures(arm, answers, window) for arm, answers in arms.items()}

    def _figures(self, arm: str, answers: list[Answer], window: float) -> ArmFigures:
        share, reports = self.reported_right(arm) or (None, 0)
        return ArmFigures(
            rate=len(answers) / window,
            failed=sum(not answer.ok for answer in answers),
            p95=p95([answer.done - answer.sent for answer in answers]),
            version=answers[-1].version,
            reports=reports,
            correct=share,
        )

    def reported_right(self, arm: str, since: float = 0.0) -> tuple[float, int] | None:
        """The share of an arm's reports that say that it was right, and how many there are; None
        without any.
        """
        said = [one.correct for one in self.reports if one.arm == arm and one.time >= since]
        return (sum(said) / len(said), len(said)) if said else None

    def accuracy(self, version: int) -> tuple[float, int] | None:
        """A version's share of right answers and how many answers it gave; None without any."""
        read = [answer for answer in self._answers if answer.ok and answer.version == version]
        if not read:
            return None
        return sum(map(self.correct, read)) / len(read), len(read)

    def unlike_their_version(self) -> int:
        """Answers that are not what the named version says about the image that was sent."""
        return sum(answer.ok and not self._is_its_versions(answer) for answer in self._answers)

    def _is_its_versions(self, answer: Answer) -> bool:
        says = self._held_out.predictions.get(answer.version or 0)
        return says is not None and answer.label == says[answer.image]

    def versions_between(self, start: float, end: float) -> set[int]:
        """The versions that answered requests sent in a stretch of time."""
        return {
            answer.version
            for answer in self._answers
            if start <= answer.sent <= end and answer.version is not None
        }

    def answers_of(self, version: int) -> list[Answer]:
        """What a version answered, in the order of answering."""
        return [answer for answer in self._answers if answer.version == version]

    def answers_by_arm(self) -> Counter[str]:
        """How many requests each arm answered, failures included."""
        return Counter(answer.arm for answer in self._answers if answer.status)

    def arms_of_users(self, arms: Collection[str]) -> dict[str, set[str]]:
        """Which of these arms each user met that met any of them."""
        met: defaultdict[str, set[str]] = defaultdict(set)
        for answer in self._answers:
            if answer.user is not None and answer.arm in arms:
                met[answer.user].add(answer.arm)
        return met

    def users_moved(self, start: float, end: float, old: int, new: int) -> tuple[int, int]:
        """How many sticky users the new version answered, and how many then met the old one."""
        met: dict[str, float] = {}
        back: set[str] = set()
        stretch = [one for one in self._answers if start <= one.sent <= end]
        for answer in sorted(stretch, key=lambda one: one.sent):
            user = answer.user
            if user is None:
                continue
            if answer.version == new:
                met.setdefault(user, answer.done)
            elif answer.version == old and answer.sent > met.get(user, end) + SWAP_SECONDS:
                back.add(user)
        return len(met), len(back)


def p95(seconds: Iterable[float]) -> float | None:
    """The 95th percentile, None of nothing."""
    values = list(seconds)
    if len(values) < 2:  # noqa: PLR2004 - what a quantile is made of
        return values[0] if values else None
    return statistics.quantiles(values, n=20, method="inclusive")[-1]
