"""What the demo claims, and what shows it: from the cluster's objects and the clients' ledger.

Pure: everything that was seen is handed in, and each claim is worked out from it anew.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tidegate_contract import names
from tidegate_demo.ledger import Ledger
from tidegate_demo.train import HeldOut
from tidegate_demo.view import Check

PLAN: Final = (10, 40, 70, 100)
WIDE: Final = 4.0
"""Standard errors by which a measured accuracy may differ: by chance once in 16,000 runs."""


@dataclass(frozen=True)
class Ending:
    """How a rollout ended. ``began`` and ``ended``: epoch seconds, by the clients' clock.
    ``baseline``: version to basis points in the routing table afterwards.
    """

    rollout: Mapping[str, Any]
    began: float
    ended: float
    baseline: Mapping[int, int]

    @property
    def status(self) -> Mapping[str, Any]:
        """The rollout's status."""
        status: Mapping[str, Any] = self.rollout.get("status", {})
        return status

    @property
    def weights(self) -> list[int]:
        """The weights that its history names, in order, each once."""
        weights: list[int] = []
        for entry in self.status.get("history", []):
            if entry["weight"] not in weights:
                weights.append(entry["weight"])
        return weights


@dataclass(frozen=True)
class Seen:
    """All that the demo saw. ``counted``: requests by arm, as the sidecars' own counters have
    them. ``finished``: when the last request was answered.
    """

    better: Ending
    broken: Ending
    other_shape: Ending
    counted: Mapping[str, int]
    finished: float


def checks(seen: Seen, ledger: Ledger, held_out: HeldOut) -> list[Check]:
    """Every claim of the demo."""
    return [
        _promoted(seen.better, seen.broken.began, ledger),
        _stepped(seen.better),
        _users_stayed(seen.better, ledger),
        _rolled_back(seen.broken, seen.finished, ledger),
        _refused(seen.other_shape, ledger),
        _answered_once(seen.counted, ledger),
        _stable_unharmed(ledger),
        _answers_are_their_versions(ledger),
        *(_accuracy(version, ledger, held_out) for version in (1, 2)),
    ]


def _promoted(ending: Ending, until: float, ledger: Ledger) -> Check:
    versions = ledger.versions_between(ending.ended, until)
    phase = ending.status.get("phase")
    held = phase == "Succeeded" and ending.baseline == {2: 10_000} and versions <= {2}
    return Check(
        "version 2 was promoted",
        held,
        f"{phase}; answered afterwards: {_versions(versions)}",
    )


def _stepped(ending: Ending) -> Check:
    rising = tuple(weight for weight in ending.weights if weight)
    shown = " → ".join(f"{weight}%" for weight in ending.weights)
    return Check("its share grew step by step, as planned", rising == PLAN, shown)


def _users_stayed(ending: Ending, ledger: Ledger) -> Check:
    moved, back = ledger.users_moved(ending.began, ending.ended, old=1, new=2)
    return Check(
        "no sticky user was sent back while it grew",
        moved > 0 and back == 0,
        f"{back} of {moved} users",
    )


def _rolled_back(ending: Ending, finished: float, ledger: Ledger) -> Check:
    given = ledger.answers_of(3)
    late = ledger.versions_between(ending.ended, finished) - {2}
    phase = ending.status.get("phase")
    held = phase == "RolledBack" and bool(given) and not late and ending.baseline == {2: 10_000}
    failed = sum(not answer.ok for answer in given)
    return Check(
        "version 3 was rolled back",
        held,
        f"{phase} after {len(given)} requests, {failed} of them failed",
    )


def _refused(ending: Ending, ledger: Ledger) -> Check:
    status, given = ending.status, len(ledger.answers_of(4))
    held = (
        status.get("phase") == "Failed"
        and status.get("reason") == "Incompatible"
        and "image" in status.get("message", "")
        and not any(ending.weights)
        and given == 0
    )
    shown = f"{status.get('phase')}, {status.get('reason')}; it got {given} requests"
    return Check("version 4 was refused before any weight", held, shown)


def _answered_once(counted: Mapping[str, int], ledger: Ledger) -> Check:
    by_arm = ledger.answers_by_arm()
    held = (
        ledger.sent == ledger.closed
        and ledger.lost == ledger.strangers == 0
        and dict(by_arm) == dict(counted)
    )
    answered, total = ledger.closed - ledger.lost, sum(counted.values())
    shown = f"{ledger.sent:,} sent, {answered:,} answered, {total:,} counted"
    return Check("every request was answered exactly once", held, shown)


def _stable_unharmed(ledger: Ledger) -> Check:
    failed = ledger.failed_by_arm[names.ARM_STABLE]
    answered = ledger.answers_by_arm()[names.ARM_STABLE]
    return Check("the stable arm never failed", failed == 0, f"{failed} of {answered:,}")


def _answers_are_their_versions(ledger: Ledger) -> Check:
    wrong = ledger.unlike_their_version()
    return Check("each answer is what its version says", wrong == 0, f"{wrong} differ")


def _accuracy(version: int, ledger: Ledger, held_out: HeldOut) -> Check:
    trained, measured = held_out.accuracy(version), ledger.accuracy(version)
    if measured is None:
        return Check(f"version {version} is as accurate as trained", False, "no answers")
    share, answers = measured
    noise = WIDE * math.sqrt(trained * (1 - trained) / answers)
    return Check(
        f"version {version} is as accurate as trained",
        abs(share - trained) <= noise,
        f"{share:.1%} of {answers:,}, trained {trained:.1%}",
    )


def _versions(versions: set[int]) -> str:
    return ", ".join(f"version {version}" for version in sorted(versions)) or "nobody"
