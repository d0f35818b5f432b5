"""Shadow traffic: which of stable's requests the canary gets too, and how their pairs count.

A pair begins when stable has answered well: a share of such requests, spread as arms are, is
copied and waits in `core.shadows`. It ends as one of

============  =====================================================================
agreed        the canary answered alike by every check of the table
disagreed     it answered otherwise by at least one of them
failed        it answered with an error, or not within ``PATIENCE``
dropped       it was not asked: no room, not ready, the table changed, Triton away
============  =====================================================================

For the table's checks the first three are pairs and the second and third are bad; what is dropped
counts nowhere. A tenth of the pairs also goes to stable once more, where a check wants to know how
often stable disagrees with itself; those are pairs of arm ``stable`` of that check alone.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from tidegate_contract import names
from tidegate_contract.table import WHOLE, Arm, DisagreementCheck, RoutingTable
from tidegate_sidecar.core.batcher import Batch, Batcher
from tidegate_sidecar.core.compare import Rule, Tensors, difference
from tidegate_sidecar.core.counters import Counters, Outcome, PairOutcome
from tidegate_sidecar.core.pairs import Pairs
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, Unserved, lost
from tidegate_sidecar.core.request import Plan
from tidegate_sidecar.core.routing import Spread
from tidegate_sidecar.core.shadows import PATIENCE, Shadow

AGAIN: Final = WHOLE // 10
"""Share of the pairs that stable is asked again, in basis points."""
UNCHECKED: Final = Rule(tolerance=0.001)
"""How pairs are compared that no check of the table asks for."""

Found = Mapping[Rule, str | None]
"""How two answers differ, by the rule that they were compared by; None: not at all."""

_OVERDUE: Final = lost(f"no answer within {PATIENCE:g} s")


class Mirror:
    """One model's shadow traffic in one pod."""

    def __init__(self, seed: str, batcher: Batcher, counters: Counters) -> None:
        self._seed = seed
        self._batcher = batcher
        self._shadows = batcher.shadows
        self._counters = counters
        self._version: int | None = None
        self._checks: list[DisagreementCheck] = []
        self._rules: list[Rule] = []
        self._spread = Spread(b"")
        self._again = Spread(b"")
        self.pairs = Pairs()

    @property
    def on(self) -> bool:
        """Whether anything is mirrored."""
        return self._version is not None

    def follow(self, table: RoutingTable) -> None:
        """Mirror as a table says from now on; copies for another version are given up."""
        mirror = table.mirror if table.mirror and table.mirror.weight else None
        version = mirror.version if mirror else None
        if version != self._version:
            self._drop(self._shadows.drop())
        self._version = version
        self._checks = [one for one in table.checks if isinstance(one, DisagreementCheck)]
        self._rules = list(dict.fromkeys(map(_rule, self._checks))) or [UNCHECKED]
        if mirror:
            seed = f"{self._seed}/{table.revision}"
            _share(self._spread, mirror.weight, f"{seed}/mirror")
            _share(self._again, AGAIN, f"{seed}/again")

    def stop(self) -> None:
        """Mirror nothing more: the pod is shutting down."""
        self._version = None
        self._drop(self._shadows.drop())

    def version_gone(self, version: int) -> None:
        """Give up what waits for a version."""
        self._drop(self._shadows.drop(version))

    def chooses(self, original: Pending) -> bool:
        """Whether a request that was answered well is to be copied."""
        if self._version is None or not original.evidence or original.cancelled:
            return False
        if original.decoded.call.unique:
            return False
        if original.arm != names.ARM_STABLE or not _falls(self._spread):
            return False
        if self._version in self._batcher.served and self._shadows.has_room():
            return True
        self._counters.mirrored(self._version, "dropped")
        return False

    def copy(self, original: Pending, answered: Tensors, batch: Batch, now: float) -> None:
        """Copy a request. ``batch``: the one in which it was answered."""
        assert self._version
        shadow = Shadow(original, answered, batch.rows, now - batch.sent_at, now)
        if not self._send(shadow, names.ARM_SHADOW, self._version, original, now):
            return
        if any(check.baseline for check in self._checks) and _falls(self._again):
            again = Shadow(original, answered, batch.rows, now - batch.sent_at, now)
            self._send(again, names.ARM_STABLE, original.version, original, now)

    def compare(self, shadow: Shadow, result: Tensors | Refusal) -> Found:
        """Compare as the table asks for; takes long for large answers, and changes nothing."""
        if isinstance(result, Refusal):
            return dict.fromkeys(
                self._rules, f"the canary failed: {result.status} {result.message}"
            )
        return {rule: difference(shadow.answered, result, rule) for rule in self._rules}

    def judge(
        self,
        shadow: Shadow,
        result: Tensors | Refusal,
        outcome: Outcome,
        found: Found,
        now: float,
    ) -> None:
        """Count what became of a copy, once. ``found``: what ``compare`` said of it."""
        if shadow.judged:
            return
        shadow.judged = True
        if isinstance(result, Unserved):
            shadow.end_unserved()
            self._drop([shadow])
            return
        shadow.end(outcome, now)
        for check in self._checks:
            rule = _rule(check)
            if rule in found and (check.baseline or shadow.arm == names.ARM_SHADOW):
                count = self._counters.check(check.id, shadow.arm, shadow.version, shadow.stratum)
                count.count(bad=found[rule] is not None)
        if shadow.arm != names.ARM_SHADOW:
            return
        told = next(filter(None, found.values()), None)
        if told and self.pairs.wanted:
            self.pairs.keep(shadow, result, told, now)
        ended: PairOutcome = "disagreed" if told else "agreed"
        self._counters.mirrored(shadow.version, "failed" if isinstance(result, Refusal) else ended)

    def look(self, now: float) -> None:
        """Count what has hung for too long."""
        for shadow in self._shadows.overdue(now):
            self.judge(shadow, _OVERDUE, "server_error", self.compare(shadow, _OVERDUE), now)

    def _send(self, shadow: Shadow, arm: str, version: int, original: Pending, now: float) -> bool:
        """Let a copy wait for a version; whether it does."""
        served = self._batcher.served.get(version)
        too_large = served and original.rows > served.interface.max_rows
        if not served or too_large or not self._shadows.has_room(shadow.held):
            shadow.arm, shadow.version = arm, version
            self._drop([shadow])
            return False
        tally = self._counters.tally(names.ARM_SHADOW, version, original.level)
        checks = self._counters.concerning(
            names.ARM_SHADOW, version, original.level, original.stratum
        )
        try:
            plan = Plan.of(original.plan.call, served.interface)
        except Refusal as refusal:
            shadow.direct(arm, version, original.plan, tally, checks)
            self.judge(shadow, refusal, "client_error", self.compare(shadow, refusal), now)
            return True
        shadow.direct(arm, version, plan, tally, checks)
        self._shadows.push(shadow)
        return True

    def _drop(self, shadows: Iterable[Shadow]) -> None:
        for shadow in shadows:
            if shadow.arm == names.ARM_SHADOW:
                self._counters.mirrored(shadow.version, "dropped")


def _rule(check: DisagreementCheck) -> Rule:
    return Rule(check.tolerance, check.compare == "Argmax")


def _share(spread: Spread, weight: int, seed: str) -> None:
    arms = [
        Arm(name=names.ARM_SHADOW, version=0, weight=weight),
        Arm(name=names.ARM_STABLE, version=0, weight=WHOLE - weight),
    ]
    spread.change(arms, seed.encode())


def _falls(spread: Spread) -> bool:
    """Whether the next request falls into the share."""
    return spread.next().name == names.ARM_SHADOW
