"""What the demo claims, and what shows it: from the cluster's objects and the clients' ledger.

Pure: everything that was seen is handed in, and each claim is worked out from it anew.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from tidegate_contract import names
from tidegate_demo.ledger import Ledger
from tidegate_demo.train import HeldOut
from tidegate_demo.view import Check

PLAN: Final = (10, 40, 70, 100)
TESTED: Final = {names.ARM_CONTROL: 1, names.ARM_TREATMENT: 2}
WARMUP_SECONDS: Final = 30.0
"""So long after its start a test counts nothing."""
NEVER: Final = "1970-01-01T00:00:00Z"
WIDE: Final = 4.0
"""Standard errors by which a measured accuracy may differ: by chance once in 16,000 runs."""


@dataclass(frozen=True)
class Ending:
    """How a rollout or a test ended. ``raw``: the object as the API server has it. ``began`` and
    ``ended``: epoch seconds, by the clients' clock. ``baseline``: version to basis points in the
    routing table afterwards.
    """

    raw: Mapping[str, Any]
    began: float
    ended: float
    baseline: Mapping[int, int]

    @property
    def status(self) -> Mapping[str, Any]:
        """The object's status."""
        status: Mapping[str, Any] = self.raw.get("status", {})
        return status

    def metric(self, name: str) -> Mapping[str, Any]:
        """One of its metrics; empty where it has none of the name."""
        rows = self.status.get("metrics", [])
        return next((row for row in rows if row["name"] == name), {})

    @property
    def weights(self) -> list[int]:
        """The weights that its history names, in order, each once."""
        weights: list[int] = []
        for entry in self.status.get("history", []):
            if entry["weight"] not in weights:
                weights.append(entry["weight"])
        return weights


@dataclass(frozen=True)
class Counted:
    """What the sidecars' own counters say. ``requests``: by arm; ``reports``: that were accepted;
    ``copies``: of requests, for version 2, by what became of them.
    """

    requests: Mapping[str, int]
    reports: int
    copies: Mapping[str, int]


@dataclass(frozen=True)
class Seen:
    """All that the demo saw. ``finished``: when the last request was answered."""

    test: Ending
    better: Ending
    broken: Ending
    other_shape: Ending
    counted: Counted
    finished: float


def checks(seen: Seen, ledger: Ledger, held_out: HeldOut) -> list[Check]:
    """Every claim of the demo."""
    return [
        _won(seen.test, seen.better.began, ledger),
        _measured(seen.test, ledger, held_out),
        _users_kept(ledger),
        _reported_once(seen.counted, ledger),
        _promoted(seen.better, seen.broken.began, ledger),
        _stepped(seen.better),
        _users_stayed(seen.better, ledger),
        _disagreed(seen.counted.copies, held_out),
        _decided_nothing(seen.better),
        _rolled_back(seen.broken, seen.finished, ledger),
        _refused(seen.other_shape, ledger),
        _answered_once(seen.counted.requests, ledger),
        _stable_unharmed(ledger),
        _answers_are_their_versions(ledger),
        *(_accuracy(version, ledger, held_out) for version in (1, 2)),
    ]


def _won(ending: Ending, until: float, ledger: Ledger) -> Check:
    status, row = ending.status, ending.metric("accuracy")
    afterwards = ledger.versions_between(ending.ended, until)
    held = (
        status.get("phase") == "Finished"
        and status.get("verdict") == "TreatmentWins"
        and row["interval"][0] > 0
        and ending.baseline == {1: 10_000}
        and afterwards <= {1}
    )
    shown = f"{status.get('verdict')}; answered afterwards: {_versions(afterwards)}"
    return Check("version 2 won its test, which moved nothing", held, shown)


def _measured(ending: Ending, ledger: Ledger, held_out: HeldOut) -> Check:
    """The test's accuracies against the reports that its users know were taken since warm-up."""
    row, started = ending.metric("accuracy"), ending.status.get("startedAt") or NEVER
    since = datetime.fromisoformat(started).timestamp() + WARMUP_SECONDS
    claim, near = "the test measured what its users know", True
    measured, reported = [], []
    for arm, version in TESTED.items():
        tested, booked = row.get(arm), ledger.reported_right(arm, since)
        if tested is None or booked is None:
            return Check(claim, False, "nothing was reported")
        share, reports = booked
        near = near and abs(tested - share) <= _noise(held_out.accuracy(version), reports)
        measured.append(f"{tested:.1%}")
        reported.append(f"{share:.1%}")
    shown = f"{', '.join(measured)}; by their own book {', '.join(reported)}"
    return Check(claim, near, shown)


def _users_kept(ledger: Ledger) -> Check:
    met = ledger.arms_of_users(TESTED)
    both = sum(len(arms) > 1 for arms in met.values())
    held = both == 0 and {arm for arms in met.values() for arm in arms} == set(TESTED)
    return Check("every user in it stayed on one version", held, f"{both} of {len(met):,} met both")


def _reported_once(counted: Counted, ledger: Ledger) -> Check:
    accepted = len(ledger.reports)
    return Check(
        "every report of theirs was counted once",
        0 < accepted == counted.reports,
        f"{accepted:,} taken, {counted.reports:,} counted",
    )


def _disagreed(copies: Mapping[str, int], held_out: HeldOut) -> Check:
    """Mirrored requests against what the two versions say about each held-out image."""
    disagreed = copies.get("disagreed", 0)
    compared = disagreed + copies.get("agreed", 0)
    known = float((held_out.predictions[1] != held_out.predictions[2]).mean())
    share = disagreed / max(compared, 1)
    return Check(
        "copies disagreed as often as the versions do",
        compared > 0 and abs(share - known) <= _noise(known, compared),
        f"{share:.1%} of {compared:,} copies, {known:.1%} of the images",
    )


def _decided_nothing(ending: Ending) -> Check:
    row, phase = ending.metric("disagreement"), ending.status.get("phase")
    held = row.get("dryRun") is True and row.get("verdict") == "Fail" and phase == "Succeeded"
    shown = f"{row.get('verdict')}, and the rollout {phase}"
    return Check("that was a dry run, and decided nothing", held, shown)


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
    return Check(
        f"version {version} is as accurate as trained",
        abs(share - trained) <= _noise(trained, answers),
        f"{share:.1%} of {answers:,}, trained {trained:.1%}",
    )


def _noise(share: float, count: int) -> float:
    """How far a share of so many may lie from the true one."""
    return WIDE * math.sqrt(share * (1 - share) / count)


def _versions(versions: set[int]) -> str:
    return ", ".join(f"version {version}" for version in sorted(versions)) or "nobody"
