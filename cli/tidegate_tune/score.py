"""How good a policy was under a load: one number between 0 and 1.

Four parts, each between 0 and 1, are weighed and added:

* throughput: the share of the offered requests that were answered within their deadline;
* latency: by class, 1 where its 99th percentile is within its target, else target / p99; classes
  count by their share of the offered requests;
* utilisation: rows answered in a second of the device's time, to what it does at the largest batch;
* fairness: Jain's index over the classes' shares answered (Jain, Chiu, Hawe: A Quantitative Measure
  of Fairness and Discrimination, 1984): 1 where all classes had equal parts of what they asked for.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from tidegate_load import summary


@dataclass(frozen=True, slots=True)
class ClassOutcome:
    """One class of users. ``target``, ``p99``: seconds, from the scheduled arrival."""

    name: str
    offered: int
    answered: int
    p99: float
    target: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy came to. ``efficiency``: rows in a second of device time, to the best."""

    classes: Sequence[ClassOutcome]
    efficiency: float


@dataclass(frozen=True, slots=True)
class Weights:
    """What the parts count for; their sum is taken for 1."""

    throughput: float = 0.4
    latency: float = 0.3
    utilisation: float = 0.2
    fairness: float = 0.1


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a score, each from 0 to 1."""

    throughput: float
    latency: float
    utilisation: float
    fairness: float

    def weigh(self, weights: Weights) -> float:
        """The score."""
        pairs = zip(astuple(self), astuple(weights), strict=True)
        return float(sum(part * weight for part, weight in pairs) / sum(astuple(weights)))


def parts(outcome: Outcome) -> Parts:
    """Score the parts; a load without any request scores 0."""
    offered = sum(one.offered for one in outcome.classes)
    asked = [one for one in outcome.classes if one.offered]
    if not offered:
        return Parts(0.0, 0.0, 0.0, 0.0)
    within = sum(_latency(one) * one.offered for one in asked) / offered
    return Parts(
        throughput=sum(one.answered for one in asked) / offered,
        latency=within,
        utilisation=min(max(outcome.efficiency, 0.0), 1.0),
        fairness=jain([one.answered / one.offered for one in asked]),
    )


def jain(shares: Sequence[float]) -> float:
    """Jain's index of fairness, from 1/n to 1; 0 where all are 0."""
    return summary.jain(shares) or 0.0


def _latency(one: ClassOutcome) -> float:
    if not one.answered:
        return 0.0
    return min(1.0, one.target / one.p99) if one.p99 > 0 else 1.0
