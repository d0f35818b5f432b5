"""What pods keep a decision waiting: those that do not apply it, and those nobody hears of."""

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from tidegate_operator.api.canaryrollout import Revision
from tidegate_operator.api.quantity import duration, timestamp
from tidegate_operator.evidence import counters
from tidegate_operator.rollout.observation import Observation, Pod, Reading

_TOLERATED = 0.1
"""Share of pods that may fail to acknowledge a weight and are left out of the evidence."""


class Silence(NamedTuple):
    """Pods that Prometheus has no samples of: what is so, and until when. ``everybody``: none that
    counts is left.
    """

    what: str
    until: str
    everybody: bool

    @property
    def message(self) -> str:
        """Both as one sentence."""
        return f"{self.what}; {self.until}"


def acknowledged(seen: Observation) -> tuple[Revision, list[Pod]]:
    """Who applies the split in force, and the pods that do not yet."""
    wanted = seen.table.split_revision if seen.table else 0
    lagging = [pod for pod in seen.asked if not seen.acknowledges(pod, wanted)]
    total = len(seen.asked)
    revision = Revision(wanted=wanted, acknowledged_pods=total - len(lagging), total_pods=total)
    return revision, lagging


def too_many(pods: Sequence[Pod], seen: Observation) -> bool:
    """Whether so many pods are late that those which are not cannot stand for all."""
    return len(pods) > _TOLERATED * len(seen.asked)


def late(pods: Sequence[Pod], timeout: float) -> str:
    """The sentence about pods that do not acknowledge a weight."""
    names = ", ".join(pod.name for pod in pods)
    return f"{names} did not apply the weight within {duration(timeout)}; goes on when they do"


def silent(
    seen: Observation,
    reading: Reading,
    since: float,
    left_out: Collection[Pod],
    counted_until: Mapping[str, float],
) -> Silence | None:
    """Pods whose counters Prometheus has not seen for two scrapes. ``since``: when the split was
    live (epoch seconds). ``counted_until``: by pod, the time of the last sample that counted, on
    Prometheus' clock: a reading does not reach back for ever.
    """
    patience = 2 * seen.scrape_interval
    if seen.now - since <= patience:
        return None
    newest = counters.newest_sample(reading.series)
    excused = {pod.name for pod in left_out}
    counted = [
        pod.name
        for pod in seen.asked
        if pod.name not in excused and seen.now - pod.ready_since > patience
    ]
    unheard = [name for name in counted if reading.at - newest.get(name, 0.0) > patience + 1.0]
    if not unheard:
        return None
    last = max(newest.get(unheard[0], 0.0), counted_until.get(unheard[0], 0.0))
    when = f"since {_clock(last)}" if last else "lately"
    what = f"Prometheus has no samples of pod {unheard[0]} {when}"
    return Silence(what, "resumes when it scrapes it again", len(unheard) == len(counted))


def _clock(at: float) -> str:
    """The time of day (UTC): unlike an age it stays the same, and so does the message."""
    return timestamp(at)[11:19] + "Z"
