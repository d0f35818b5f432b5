"""The evidence of one look at a test: what came in, and what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from tidegate_operator.api.abtest import ABTest, Checkpoint
from tidegate_operator.api.quantity import epoch, seconds
from tidegate_operator.evidence import counters, gathered, guardrails
from tidegate_operator.evidence.queries import Answer, NoValue, QueryError
from tidegate_operator.rollout import gate, pods
from tidegate_operator.rollout.experiment_state import HoldReason, Run, Running
from tidegate_operator.rollout.observation import Observation, Pod, Reading, Unreadable

INTERVAL: Final = 10.0
"""Seconds between looks."""
ACK_TIMEOUT: Final = 60.0
"""Seconds after which a pod that does not apply the split is left out."""
WARMUP: Final = 30.0
"""Seconds for which a version that just got traffic is not judged."""


@dataclass(frozen=True, slots=True)
class Look:
    """The evidence of one look; ``left_out`` are the pods that did not acknowledge the split."""

    test: ABTest
    seen: Observation
    left_out: tuple[Pod, ...]

    @property
    def attended(self) -> bool:
        """Whether this process looked at most two intervals ago."""
        last = self.seen.last_look
        return last is not None and self.seen.now - last <= 2 * INTERVAL

    def absorb(self, run: Run) -> Run:
        """Add what came in since the last look; while suspended only what shows harm."""
        evidence, spec = run.evidence, self.test.spec
        assigned = spec.assignment is not None
        counting = not spec.suspend
        left_out = {pod.name for pod in self.left_out}
        if isinstance(self.seen.reading, Reading):
            names = {pod.name for pod in self.seen.pods} - left_out
            mine = [one for one in self.seen.reading.series if one.pod in names]
            reading = self.seen.reading
            window = self._window(mine, evidence, reading)
            heard = self._heard(mine, evidence, reading)
            evidence = guardrails.observe(evidence, window, self.test, self._planned_looks())
            if counting:
                ids = [one.id for one in guardrails.checks(self.test, evidence.pinned)]
                evidence = gathered.with_requests(evidence, window, ids, assigned=assigned)
                wanted = [one.name for one in spec.outcomes]
                evidence = gathered.with_outcomes(evidence, heard, wanted, assigned=assigned)
            evidence = msgspec.structs.replace(
                evidence, cursors=window.cursors, heard=heard.cursors
            )
        counting = counting and self._warmed_up(run)
        evidence = gathered.with_answers(evidence, self._answers(), counting=counting)
        if assigned:
            told = [
                pod.ack.users
                for pod in self.seen.pods
                if pod.ack and pod.ack.users and pod.name not in left_out
            ]
            users = gathered.united(evidence.users, told, self.test.metadata.uid)
            evidence = msgspec.structs.replace(evidence, users=users)
        return replace(run, evidence=evidence)

    def trouble(self, run: Run) -> tuple[HoldReason, str] | None:
        """What keeps the clock from running."""
        since = run.evidence.live_since or 0.0
        if not self.seen.asked:
            return "NoReadyPods", gate.no_ready_pods(self.seen)
        late = [pod for pod in self.left_out if pod.ready_since <= since]
        if pods.too_many(late, self.seen):
            return "NotAcknowledged", pods.late(late, ACK_TIMEOUT)
        match self.seen.reading:
            case Unreadable(why=why):
                return "Error", f"Prometheus cannot be read ({why}); resumes when it answers"
            case Reading() as reading:
                known = run.evidence.cursors
                silent = pods.silent(self.seen, reading, since, self.left_out, known)
                # After the end a test of the user's own queries has nothing counted any more.
                if silent is not None and (run.evidence.ended is None or self.test.spec.outcomes):
                    return "NoData", silent.message
            case None:
                pass
        return self._unanswered() if self._warmed_up(run) else None

    def run_clock(self, state: Running) -> Running:
        """Count the time since the last look if the clock was running then too, else start it."""
        last, evidence = self.seen.last_look, state.run.evidence
        if not self.attended or last is None or state.clock_since is None:
            return replace(state, clock_since=self.seen.now)
        elapsed = evidence.elapsed + self.seen.now - last
        counted = msgspec.structs.replace(evidence, elapsed=elapsed)
        return replace(state, run=replace(state.run, evidence=counted))

    def _window(
        self, mine: Sequence[counters.Series], evidence: Checkpoint, reading: Reading
    ) -> counters.Window:
        ids = {one.id for one in guardrails.checks(self.test, evidence.pinned)}
        start, starts = self._starts(evidence, reading)
        return counters.window(
            (one for one in mine if one.check in ids and one.counts in counters.CHECKED),
            evidence.cursors,
            start,
            starts=starts,
            longest_gap=2 * self.seen.scrape_interval,
            attended=self.attended,
        )

    def _heard(
        self, mine: Sequence[counters.Series], evidence: Checkpoint, reading: Reading
    ) -> counters.Outcomes:
        wanted = {one.name for one in self.test.spec.outcomes}
        start, starts = self._starts(evidence, reading)
        return counters.sums(
            (one for one in mine if one.check in wanted and one.counts in counters.PARTS),
            evidence.heard,
            start,
            starts=starts,
        )

    def _starts(self, evidence: Checkpoint, reading: Reading) -> tuple[float, dict[str, float]]:
        """When counting starts, on Prometheus' clock: for a pod that is not named, and by pod."""
        assert evidence.live_since is not None, "only live tests are looked at"
        warm = WARMUP + reading.at - self.seen.now
        since = evidence.live_since
        by_pod = {pod.name: max(since, pod.ready_since) + warm for pod in self.seen.pods}
        return since + warm, by_pod

    def _warmed_up(self, run: Run) -> bool:
        """Whether the warm-up is over: until then users' own counters may have nothing to tell."""
        return self.seen.now >= (run.evidence.live_since or self.seen.now) + WARMUP

    def _planned_looks(self) -> int:
        spec = self.test.spec
        if spec.duration is not None:
            length = seconds(spec.duration)
        else:
            assert spec.end_time is not None, "the CRD demands one of the two"
            length = epoch(spec.end_time) - epoch(
                spec.start_time or self.test.metadata.creation_timestamp
            )
        return max(1, round(length / INTERVAL))

    def _answers(self) -> dict[str, Answer]:
        """To the success metrics' own queries."""
        uid = self.test.metadata.uid
        return {name: one for (owner, name), one in self.seen.answers.items() if owner == uid}

    def _unanswered(self) -> tuple[HoldReason, str] | None:
        for name, answer in sorted(self._answers().items()):
            match answer:
                case NoValue(why=why):
                    return (
                        "NoData",
                        f"{name}: its query gives {why}; resumes when it gives a number",
                    )
                case QueryError(why=why):
                    return (
                        "Error",
                        f"{name}: its query fails: {why}; resumes when it gives a number",
                    )
                case _:
                    pass
        return None
