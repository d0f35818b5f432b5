"""One look at a rollout whose canary has weight, or is on its way to all or none.

``advance`` takes what was seen and returns the next state; nothing is done here. At most one
change of weight happens in a look, and a step's clock runs only while its weight is live
everywhere, evidence comes in and somebody watches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_contract.table import RoutingTable
from tidegate_operator.api.canaryrollout import CanaryRollout, Checkpoint, Revision, Tally
from tidegate_operator.api.quantity import duration, seconds, timestamp
from tidegate_operator.evidence import counters
from tidegate_operator.evidence.checks import CompiledMetric, compile_metric
from tidegate_operator.evidence.verdict import Judgement, Verdict, judge, step_requests
from tidegate_operator.rollout import gate, steps
from tidegate_operator.rollout.observation import Observation, Pod, Reading, Unreadable
from tidegate_operator.rollout.state import (
    Finished,
    HoldReason,
    Promoting,
    RollingBack,
    Run,
    State,
    Stepping,
)

_TOLERATED = 0.1
"""Share of pods that may fail to acknowledge a weight and are left out of the evidence."""


def compiled_metrics(rollout: CanaryRollout) -> list[CompiledMetric]:
    """The rollout's metrics as checks."""
    return [compile_metric(one, rollout.metadata.uid) for one in rollout.spec.analysis.metrics]


def settle(rollout: CanaryRollout, state: Promoting | RollingBack, seen: Observation) -> State:
    """Finish once every ready pod applies the table that says so."""
    revision, lagging = _acknowledged(seen)
    run = replace(state.run, revision=revision)
    if not _says_so(rollout, state, seen.table) or lagging or not seen.asked:
        return replace(state, run=run)
    if isinstance(state, Promoting):
        message = (
            f"Version {rollout.spec.canary_version} has all the traffic of {seen.model}; "
            f"version {run.stable} stays loaded"
        )
        return Finished(phase="Succeeded", reason="Promoted", message=message, run=run)
    return Finished(phase="RolledBack", reason=state.reason, message=state.message, run=run)


def _says_so(
    rollout: CanaryRollout, state: Promoting | RollingBack, table: RoutingTable | None
) -> bool:
    """Whether the table in force is the decision's."""
    if table is None:
        return False
    if isinstance(state, Promoting):
        return [arm.version for arm in table.split] == [rollout.spec.canary_version]
    return table.latch is not None and table.latch.uid == rollout.metadata.uid


def rolling_back(run: Run, reason: str, why: str) -> RollingBack:
    """The decision to go back."""
    return RollingBack(
        run=run,
        reason=reason,
        message=f"Rolled back to version {run.stable} from {run.percent}%: {why}. "
        "Mend the canary and apply a new rollout",
    )


def advance(rollout: CanaryRollout, state: Stepping, seen: Observation) -> State:
    """One look at a step."""
    revision, lagging = _acknowledged(seen)
    state = replace(state, run=replace(state.run, revision=revision))
    if not _live(state.run, seen):
        return _hold(state, None, "waiting for the routing table to be written")
    if state.run.evidence.live_since is None:
        return _await_acknowledgement(rollout, state, seen, lagging)
    if seen.reading is None:
        return state
    look = _Look(rollout, compiled_metrics(rollout), seen, lagging)
    state = replace(state, run=look.absorb(state.run))
    judgements = look.judge(state.run, step_over=False)
    failed = next((one for one in judgements if one.verdict is Verdict.Fail), None)
    if failed is not None:
        run = _with_judgements(state.run, judgements)
        return rolling_back(run, "AnalysisFailed", f"{failed.status.name}: {failed.status.reason}")
    obstacle = look.obstacle(state.run)
    if obstacle is not None:
        reason, verdict, message = obstacle
        run = replace(state.run, verdict=verdict.name)
        return _hold(replace(state, run=run), reason, message)
    return _end_of_step(look, look.run_clock(state), judgements)


def _end_of_step(look: "_Look", state: Stepping, gathering: Sequence[Judgement]) -> State:
    """Go on, or judge the step as a whole where its time has come."""
    run, spec = state.run, look.rollout.spec
    evidence, step = run.evidence, run.plan[run.evidence.step]
    assert step.duration is not None, "the last step is never evaluated"
    requests = step_requests(look.metrics, evidence.watched)
    wanted = spec.analysis.min_requests
    run = _with_judgements(run, gathering)
    if evidence.elapsed < seconds(step.duration):
        return _gather(state, run, f"the next step comes after {step.duration} in all")
    if min(requests.values()) < wanted:
        few = min(requests, key=lambda arm: requests[arm])
        message = f"its time is over, but fewer than {wanted} requests reached {few} so far"
        return _gather(state, run, message)
    if evidence.judged is not None and requests[ARM_CANARY] < 2 * evidence.judged:
        message = (
            f"not within the success bounds at {evidence.judged} requests; judged again at "
            f"{2 * evidence.judged}"
        )
        return _hold(replace(state, run=run), "Inconclusive", message)
    judgements = look.judge(run, step_over=True)
    run = _with_judgements(run, judgements)
    missed = [one.status for one in judgements if one.verdict is not Verdict.Pass]
    if missed:
        judged = msgspec.structs.replace(run.evidence, judged=requests[ARM_CANARY])
        reasons = "; ".join(f"{one.name}: {one.reason}" for one in missed)
        message = f"{reasons}; judged again at {2 * requests[ARM_CANARY]} requests"
        return _hold(replace(state, run=replace(run, evidence=judged)), "Inconclusive", message)
    return _next_step(look, run)


def _next_step(look: "_Look", run: Run) -> State:
    plan = tuple(steps.replan(run.plan, run.evidence.step, look.rollout.spec))
    run = replace(run, plan=plan)
    if run.evidence.step + 2 < len(plan):
        return gate.enter_step(run, run.evidence.step + 1, look.seen.now)
    return Promoting(
        run=run,
        reason="AnalysisPassed",
        message=f"Promoting version {look.rollout.spec.canary_version}: all steps passed; waiting "
        "for the pods to apply it",
    )


def _await_acknowledgement(
    rollout: CanaryRollout, state: Stepping, seen: Observation, lagging: Sequence[Pod]
) -> Stepping:
    if not seen.asked:
        return _hold(state, "NoReadyPods", gate.no_ready_pods(seen))
    timeout = seconds(rollout.spec.analysis.ack_timeout)
    if lagging and seen.now - state.run.evidence.step_since <= timeout:
        return _hold(state, None, "waiting for the pods to apply the weight")
    if len(lagging) == len(seen.asked):
        return _hold(state, "NotAcknowledged", _late(lagging, timeout))
    # The weight is live on some pods: from here on it is judged, whoever else is late.
    evidence = msgspec.structs.replace(state.run.evidence, live_since=seen.now)
    live = replace(state, run=replace(state.run, evidence=evidence))
    if len(lagging) > _TOLERATED * len(seen.asked):
        return _hold(live, "NotAcknowledged", _late(lagging, timeout))
    message = f"live on {len(seen.asked) - len(lagging)} pods; warming up"
    if lagging:
        message += f"; left out: {', '.join(pod.name for pod in lagging)}"
    return replace(_hold(live, None, message), clock_since=seen.now)


def _late(pods: Sequence[Pod], timeout: float) -> str:
    names = ", ".join(pod.name for pod in pods)
    return f"{names} did not apply the weight within {duration(timeout)}; goes on when they do"


def _live(run: Run, seen: Observation) -> bool:
    """Whether the table in force gives the canary this step's weight."""
    weights = {arm.name: arm.weight for arm in seen.table.split} if seen.table else {}
    return weights.get(ARM_CANARY) == run.percent * 100


def _acknowledged(seen: Observation) -> tuple[Revision, list[Pod]]:
    wanted = seen.table.split_revision if seen.table else 0
    lagging = [pod for pod in seen.asked if not seen.acknowledges(pod, wanted)]
    total = len(seen.asked)
    revision = Revision(wanted=wanted, acknowledged_pods=total - len(lagging), total_pods=total)
    return revision, lagging


def _gather(state: Stepping, run: Run, message: str) -> Stepping:
    message = f"gathering evidence; {message}"
    return replace(_hold(replace(state, run=run), None, message), clock_since=state.clock_since)


def _hold(state: Stepping, hold: HoldReason | None, message: str) -> Stepping:
    """The same step, standing or going; the message says where it stands."""
    run = state.run
    where = f"{run.percent}% (step {run.evidence.step + 1}/{len(run.plan)})"
    return replace(
        state,
        hold=hold,
        clock_since=None,
        reason=hold or "Analysing",
        message=f"{'Holding at' if hold else 'At'} {where}: {message}",
    )


def _with_judgements(run: Run, judgements: Sequence[Judgement]) -> Run:
    worst = max(one.verdict for one in judgements)
    return replace(run, metrics=tuple(one.status for one in judgements), verdict=worst.name)


@dataclass(frozen=True, slots=True)
class _Look:
    """The evidence of one look at a live step."""

    rollout: CanaryRollout
    metrics: Sequence[CompiledMetric]
    seen: Observation
    left_out: Sequence[Pod]

    @property
    def _interval(self) -> float:
        return seconds(self.rollout.spec.analysis.interval)

    @property
    def _attended(self) -> bool:
        """Whether this process looked at most two intervals ago."""
        last = self.seen.last_look
        return last is not None and self.seen.now - last <= 2 * self._interval

    def absorb(self, run: Run) -> Run:
        """Add what the counters did since the last look. Counting starts after the warm-up."""
        if not isinstance(self.seen.reading, Reading):
            return run
        names = {pod.name for pod in self.seen.pods} - {pod.name for pod in self.left_out}
        ids = {bound.id for metric in self.metrics for bound in metric.bounds}
        window = counters.window(
            (s for s in self.seen.reading.series if s.pod in names and s.check in ids),
            run.evidence.cursors,
            self._start(run),
            longest_gap=2 * self.seen.scrape_interval,
            attended=self._attended,
        )
        return replace(run, evidence=_added(run.evidence, window))

    def judge(self, run: Run, *, step_over: bool) -> list[Judgement]:
        """Every metric's judgement. The level is shared by the tests that can roll back."""
        metrics = self.metrics
        tests = max(1, sum(metric.rollback is not None for metric in metrics))
        return [
            judge(
                metric,
                run.evidence,
                total_steps=len(run.plan),
                threshold=tests / self.rollout.spec.analysis.significance_level,
                step_over=step_over,
            )
            for metric in metrics
        ]

    def obstacle(self, run: Run) -> tuple[HoldReason, Verdict, str] | None:
        """What keeps the clock from running."""
        if not self.seen.asked:
            return "NoReadyPods", Verdict.NoData, gate.no_ready_pods(self.seen)
        late = [pod for pod in self.left_out if pod.ready_since <= self._live_since(run)]
        if len(late) > _TOLERATED * len(self.seen.asked):
            message = _late(late, seconds(self.rollout.spec.analysis.ack_timeout))
            return "NotAcknowledged", Verdict.Inconclusive, message
        match self.seen.reading:
            case Unreadable(why=why):
                message = f"Prometheus cannot be read ({why}); resumes when it answers"
                return "Error", Verdict.Error, message
            case Reading() as reading:
                return self._stale(run, reading)
            case None:
                return None

    def _stale(self, run: Run, reading: Reading) -> tuple[HoldReason, Verdict, str] | None:
        """Pods whose counters Prometheus has not seen for two scrapes."""
        patience = 2 * self.seen.scrape_interval
        if self.seen.now - self._live_since(run) <= patience:
            return None
        newest = counters.newest_sample(reading.series)
        excused = {pod.name for pod in self.left_out}
        for pod in self.seen.asked:
            if pod.name in excused or self.seen.now - pod.ready_since <= patience:
                continue
            age = reading.at - newest.get(pod.name, 0.0)
            if age > patience + 1.0:
                since = f"since {_clock(newest[pod.name])}" if pod.name in newest else "at all"
                message = f"Prometheus has no samples of pod {pod.name} {since}"
                return "NoData", Verdict.NoData, f"{message}; resumes when it scrapes it again"
        return None

    def run_clock(self, state: Stepping) -> Stepping:
        """Count the time since the last look if the clock was running then too, else start it."""
        evidence, last = state.run.evidence, self.seen.last_look
        if last is None or not self._attended or state.clock_since is None:
            return replace(state, clock_since=self.seen.now)
        elapsed = evidence.elapsed + (self.seen.now - last)
        counted = msgspec.structs.replace(evidence, elapsed=elapsed)
        return replace(state, run=replace(state.run, evidence=counted))

    def _start(self, run: Run) -> float:
        """When counting starts, on Prometheus' clock."""
        assert isinstance(self.seen.reading, Reading)
        warm = self._live_since(run) + seconds(self.rollout.spec.analysis.warmup)
        return warm + (self.seen.reading.at - self.seen.now)

    def _live_since(self, run: Run) -> float:
        assert run.evidence.live_since is not None, "only live steps are looked at"
        return run.evidence.live_since


def _clock(at: float) -> str:
    """The time of day (UTC): unlike an age it stays the same, and so does the message."""
    return timestamp(at)[11:19] + "Z"


def _added(evidence: Checkpoint, window: counters.Window) -> Checkpoint:
    watched = {id_: dict(arms) for id_, arms in evidence.watched.items()}
    for id_, arms in window.watched.items():
        mine = watched.setdefault(id_, {})
        for arm in (ARM_STABLE, ARM_CANARY):
            mine[arm] = mine.get(arm, Tally()) + arms.get(arm, Tally())
    harm = dict(evidence.harm)
    for id_, arms in window.all.items():
        steps_so_far = list(harm.get(id_, []))
        steps_so_far += [Tally()] * (evidence.step + 1 - len(steps_so_far))
        steps_so_far[evidence.step] += arms.get(ARM_CANARY, Tally())
        harm[id_] = steps_so_far
    return msgspec.structs.replace(evidence, watched=watched, harm=harm, cursors=window.cursors)
