"""One look at a rollout whose canary has weight, or is on its way to all or none.

``advance`` takes what was seen and returns the next state; nothing is done here. At most one
change of weight happens in a look, and a step's clock runs only while its weight is live
everywhere, evidence comes in and somebody watches. Of what a look finds, the first counts: harm,
the deadline, suspension, missing evidence, a gate, time. A person's word to go on overrules a
hold, but neither suspension nor what is to be rolled back.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from tidegate_contract.names import ARM_CANARY, ARM_SHADOW
from tidegate_contract.table import WHOLE, RoutingTable
from tidegate_operator.api.canaryrollout import CanaryRollout, MetricStatus, Spec
from tidegate_operator.api.quantity import duration, seconds
from tidegate_operator.evidence.checks import Queried, counted
from tidegate_operator.evidence.verdict import Judgement, Verdict, step_requests, worst
from tidegate_operator.rollout import gate, pods, steps
from tidegate_operator.rollout.gate import Push
from tidegate_operator.rollout.look import (
    Look,
    Trouble,
    compiled_metrics,
)
from tidegate_operator.rollout.observation import Observation, Pod
from tidegate_operator.rollout.state import (
    AWAITING,
    ROLLED_BACK,
    Finished,
    HoldReason,
    Promoting,
    RollingBack,
    Run,
    State,
    Stepping,
)

_RESTARTS = 2
"""Restarts of Triton in one rollout that are no coincidence any more."""


def settle(rollout: CanaryRollout, state: Promoting | RollingBack, seen: Observation) -> State:
    """Finish once every ready pod applies the table that says so."""
    revision, lagging = pods.acknowledged(seen)
    run = replace(state.run, revision=revision)
    if not _says_so(rollout, state, seen.table) or lagging or not seen.asked:
        return replace(state, run=run)
    if isinstance(state, Promoting):
        reason = state.reason if state.reason == gate.FAST_RETURN else "Promoted"
        message = (
            f"Version {rollout.spec.canary_version} has all the traffic of {seen.model}; "
            f"version {run.stable} stays loaded for {rollout.spec.unload_delay}"
        )
        return Finished(phase="Succeeded", reason=reason, message=message, run=run)
    phase: Literal["RolledBack", "Failed"] = "RolledBack" if run.percent else "Failed"
    return Finished(phase=phase, reason=state.reason, message=state.message, run=run)


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
    back = f"{ROLLED_BACK} to version {run.stable} from {run.percent}%"
    mend = "mend the canary, then " if reason in {"AnalysisFailed", "TritonRestarts"} else ""
    return RollingBack(
        run=run,
        reason=reason,
        message=f"{back if run.percent else 'Given up without any traffic moved'}: {why}; {mend}"
        "retry this rollout or apply another",
    )


def advance(
    rollout: CanaryRollout, state: Stepping, seen: Observation, push: Push | None = None
) -> State:
    """One look at a step. ``push``: a person said to go on to the next one, or to the end."""
    revision, lagging = pods.acknowledged(seen)
    state = replace(state, run=replace(state.run, revision=revision))
    live = _live(rollout, state.run, seen)
    if push and not (live and seen.reading and state.run.evidence.live_since):
        return _pushed(rollout, state.run, push, seen.now)
    if not live:
        return _hold(state, None, "waiting for the routing table to be written")
    if state.run.evidence.live_since is None:
        return _await_acknowledgement(rollout, state, seen, lagging)
    metrics = compiled_metrics(rollout, state.run.evidence)
    look = Look(rollout, metrics, seen, lagging, blind=state.hold in {"NoData", "Error"})
    if seen.reading is None:
        return _between_looks(rollout, state)
    slowed = bool(state.run.evidence.slow)
    run = _progressed(look, state, _reopened(state.run, look.absorb(state.run), look))
    judgements = look.judge(run)
    state = replace(state, run=_with_judgements(run, judgements))
    missing = look.obstacle(state.run, judgements)
    stop = _harm(state.run, judgements) or _overdue(rollout, state) or _suspended(rollout, state)
    stop = stop or (_without(missing, state) if missing else None)
    if isinstance(stop, RollingBack):
        return stop
    if push:
        return _pushed(rollout, state.run, push, seen.now)
    if stop is not None:
        return stop
    if state.run.evidence.passed:
        return _next_step(rollout, state.run, seen.now)
    return _end_of_step(look, look.run_clock(state), missing, slowed=slowed)


def _reopened(before: Run, run: Run, look: Look) -> Run:
    """The run with its step not yet judged, where metrics were edited: what was said of it was said
    of others.
    """
    old, new = before.evidence.harm.keys(), run.evidence.harm.keys()
    names = [one.name for one in before.metrics], [one.name for one in look.metrics]
    if old == new and names[0] == names[1]:
        return run
    evidence = msgspec.structs.replace(run.evidence, passed=False, judged=None)
    return replace(run, evidence=evidence)


def _between_looks(rollout: CanaryRollout, state: Stepping) -> Stepping:
    """What a person wants is done at once, not at the next look."""
    if state.hold == "DeadlineExceeded":
        return state
    if suspended := _suspended(rollout, state):
        return suspended
    if state.hold == "Suspended":
        return _hold(state, None, "resumed; its clock goes on with the next look")
    return state


def _pushed(rollout: CanaryRollout, run: Run, push: Push, now: float) -> State:
    if push == "full" and not rollout.spec.shadow_only:
        return gate.promoting(rollout, run, "Promoted", "a person said so")
    return _next_step(rollout, run, now, pushed=True)


def _harm(run: Run, judgements: Sequence[Judgement]) -> RollingBack | None:
    """What is bad enough to go back for, whatever else is going on."""
    for one in judgements:
        if one.verdict is Verdict.Fail and not one.status.dry_run:
            return rolling_back(run, "AnalysisFailed", f"{one.status.name}: {one.status.reason}")
    restarts = run.evidence.restarts
    if restarts is not None and restarts >= _RESTARTS:
        why = f"Triton restarted {restarts} times since the canary has weight, and never before"
        return rolling_back(run, "TritonRestarts", why)
    return None


def _overdue(
    rollout: CanaryRollout, state: Stepping, uncounted: float = 0.0
) -> RollingBack | Stepping | None:
    """What is done about a rollout that takes too long. ``uncounted``: seconds that it took beyond
    those that are in its evidence.
    """
    deadline = seconds(rollout.spec.progress_deadline)
    if state.run.evidence.progressed + uncounted < deadline:
        return None
    why = f"not finished within progressDeadline ({duration(deadline)})"
    if rollout.spec.on_deadline == "Rollback":
        return rolling_back(state.run, "DeadlineExceeded", why)
    return _hold(state, "DeadlineExceeded", f"{why}; promote, abort or set a longer one")


def _suspended(rollout: CanaryRollout, state: Stepping) -> Stepping | None:
    if not rollout.spec.suspend:
        return None
    return _hold(state, "Suspended", "suspended by spec.suspend; resumes when it is false")


def _without(missing: Trouble, state: Stepping) -> RollingBack | Stepping | None:
    """What is done while something is missing, as the user wants it."""
    match missing.policy:
        case "Rollback":
            return rolling_back(state.run, missing.hold, missing.what)
        case "Hold":
            run = replace(state.run, verdict=missing.verdict.name)
            return _hold(replace(state, run=run), missing.hold, missing.message)
        case "Continue":
            return None


def _progressed(look: Look, before: Stepping, run: Run) -> Run:
    """Count the time since the last look towards the deadline, unless a person was waited for."""
    if before.hold in {"Suspended", "DeadlineExceeded", AWAITING} or look.rollout.spec.suspend:
        return run
    progressed = run.evidence.progressed + look.since_last
    return replace(run, evidence=msgspec.structs.replace(run.evidence, progressed=progressed))


def _end_of_step(look: Look, state: Stepping, missing: Trouble | None, *, slowed: bool) -> State:
    """Go on, or judge the step as a whole where its time has come. ``missing``: what the user wants
    to go on without. ``slowed``: stable was until now.
    """
    run, spec = state.run, look.rollout.spec
    evidence, step = run.evidence, run.plan[run.evidence.step]
    assert step.duration is not None, "the promotion is never evaluated"
    if evidence.elapsed < seconds(step.duration):
        if look.late:
            twice = f"two intervals ({duration(2 * look.interval)})"
            why = f"looks come more than {twice} apart: Prometheus or the operator is slow"
            return _gather(state, f"no time counts while {why}")
        return _gather(state, f"the next step comes after {step.duration} in all")
    requests = _asked_for(spec, run, step_requests(counted(look.metrics), evidence.watched))
    wanted = spec.analysis.min_requests
    few = min(requests, key=lambda arm: requests[arm])
    if requests[few] < wanted:
        what = "mirrored requests" if few == ARM_SHADOW else f"requests of {few}"
        message = f"its time is over, but there were fewer than {wanted} {what}; goes on with more"
        return _hold(state, "Inconclusive", message)
    judged = requests[ARM_SHADOW if spec.shadow_only else ARM_CANARY]
    if evidence.judged is not None and judged < 2 * evidence.judged:
        if state.hold == "Inconclusive" and not slowed:
            return replace(state, clock_since=None)
        message = f"not passed at {evidence.judged} requests; judged again at twice as many"
        return _hold(state, "Inconclusive", message)
    judgements = look.judge_step(run, missing)
    run = _with_judgements(run, judgements)
    if _passes(judgements):
        return _next_step(look.rollout, run, look.seen.now)
    message = _missed(run.metrics)
    if _missed_counted(look, judgements):
        run = replace(run, evidence=msgspec.structs.replace(run.evidence, judged=judged))
        message = f"{message}; judged again at {2 * judged} requests"
    return _hold(replace(state, run=run), "Inconclusive", message)


def _passes(judgements: Sequence[Judgement]) -> bool:
    """Whether the step has passed: one metric must, and none that is not left out of it by
    ``Continue`` may be open.
    """
    verdicts = [one.verdict for one in judgements if not one.status.dry_run]
    if not verdicts:  # dry runs only: time and requests decide
        return True
    left_out = {Verdict.NoData, Verdict.Error}
    return Verdict.Pass in verdicts and set(verdicts) <= {Verdict.Pass, *left_out}


def _missed_counted(look: Look, judgements: Sequence[Judgement]) -> bool:
    """Whether more requests can change the verdict; an answer to a query is asked for anew."""
    return any(
        one.verdict is Verdict.Inconclusive
        and not one.status.dry_run
        and not isinstance(metric, Queried)
        for metric, one in zip(look.metrics, judgements, strict=True)
    )


def _asked_for(spec: Spec, run: Run, requests: dict[str, int]) -> dict[str, int]:
    """The requests of the arms that have weight; of a rollout that only mirrors, the pairs."""
    if spec.shadow_only:
        return {ARM_SHADOW: requests[ARM_SHADOW]}
    arms = {arm: count for arm, count in requests.items() if arm != ARM_SHADOW}
    return {ARM_CANARY: arms[ARM_CANARY]} if run.percent * 100 == WHOLE else arms


def _missed(metrics: Sequence[MetricStatus]) -> str:
    """Why the step has not passed, metric by metric."""
    rows = [one for one in metrics if one.verdict != "Pass" and not one.dry_run]
    return "; ".join(f"{one.name}: {one.reason}" for one in rows)


def _next_step(rollout: CanaryRollout, run: Run, now: float, *, pushed: bool = False) -> State:
    """What comes after a step that passed, or that a person passed."""
    plan = tuple(steps.replan(run.plan, run.evidence.step, rollout.spec))
    run = replace(run, plan=plan)
    after = run.evidence.step + 1
    if after >= len(plan):
        why = "a person said so" if pushed else "it answered mirrored requests as it should"
        return Finished(
            phase="Succeeded",
            reason="ShadowOnly",
            message=f"Version {rollout.spec.canary_version} is done: {why}; no traffic was moved",
            run=run,
        )
    if plan[after].gate == "Manual" and not pushed:
        passed = msgspec.structs.replace(run.evidence, passed=True)
        state = Stepping(run=replace(run, evidence=passed), reason="", message="")
        to = "be stable" if run.percent * 100 == WHOLE else f"{plan[after].percent}%"
        return _hold(state, AWAITING, f"passed; waits for a promotion to {to}")
    if plan[after].duration is not None:
        return gate.enter_step(run, after, now)
    return gate.promoting(rollout, run, "AnalysisPassed", "all steps passed")


def _await_acknowledgement(
    rollout: CanaryRollout, state: Stepping, seen: Observation, lagging: Sequence[Pod]
) -> RollingBack | Stepping:
    waited = seen.now - state.run.evidence.step_since
    timeout = seconds(rollout.spec.analysis.ack_timeout)
    waiting = None
    if not seen.asked:
        waiting = _hold(state, "NoReadyPods", gate.no_ready_pods(seen))
    elif lagging and waited <= timeout:
        waiting = _hold(state, None, "waiting for the pods to apply the weight")
    elif len(lagging) == len(seen.asked):
        waiting = _hold(state, "NotAcknowledged", pods.late(lagging, timeout))
    if waiting is not None:
        return _suspended(rollout, waiting) or _overdue(rollout, waiting, waited) or waiting
    # The weight is live on some pods: from here on it is judged, whoever else is late.
    evidence = msgspec.structs.replace(
        state.run.evidence,
        live_since=seen.now,
        progressed=state.run.evidence.progressed + waited,
    )
    live = replace(state, run=replace(state.run, evidence=evidence))
    if pods.too_many(lagging, seen):
        return _hold(live, "NotAcknowledged", pods.late(lagging, timeout))
    total = len(seen.asked)
    message = f"live on {total - len(lagging)} of {total} pods; warming up"
    if lagging:
        message += f"; left out: {', '.join(pod.name for pod in lagging)}"
    going = replace(_hold(live, None, message), clock_since=seen.now)
    return _suspended(rollout, going) or going


def _live(rollout: CanaryRollout, run: Run, seen: Observation) -> bool:
    """Whether the table in force is this step's."""
    table = seen.table
    if table is None or table.owner is None or table.owner.uid != rollout.metadata.uid:
        return False
    weights = {arm.name: arm.weight for arm in table.split}
    return weights.get(ARM_CANARY, 0) == run.percent * 100


def _gather(state: Stepping, message: str) -> Stepping:
    message = f"gathering evidence; {message}"
    return replace(_hold(state, None, message), clock_since=state.clock_since)


def _hold(state: Stepping, hold: HoldReason | None, message: str) -> Stepping:
    """The same step, standing or going; the message says where it stands."""
    run = state.run
    where = f"{run.percent}% (step {run.evidence.step + 1}/{len(run.plan)})"
    words = "Holding at" if hold and hold != AWAITING else "At"
    return replace(
        state,
        hold=hold,
        clock_since=None,
        reason=hold or "Analysing",
        message=f"{words} {where}: {message}",
    )


def _with_judgements(run: Run, judgements: Sequence[Judgement]) -> Run:
    metrics = tuple(one.status for one in judgements)
    return replace(run, metrics=metrics, verdict=worst(judgements).name)
