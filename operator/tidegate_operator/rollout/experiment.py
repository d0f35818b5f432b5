"""One look at a test: from waiting for its time to an end that every pod applies.

Nothing is done here; the next state is returned. A test moves no weight while it runs: its split
begins, stays as it is however often evidence is missing, and ends once. Of what a look finds, the
first counts: harm, a split that is not as asked, suspension, missing evidence, an early verdict,
time.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, cast

import msgspec

from tidegate_contract.names import ARM_CONTROL, ARM_TREATMENT, feedback_secret_name
from tidegate_contract.table import WHOLE, Arm, Assignment, Experiment, Latch, Owner, RoutingTable
from tidegate_operator.api import abtest
from tidegate_operator.api.abtest import ABTest, Checkpoint, Ending, Verdict
from tidegate_operator.api.quantity import duration, epoch, seconds, timestamp
from tidegate_operator.evidence import experiment, guardrails
from tidegate_operator.evidence.experiment import Judgement
from tidegate_operator.evidence.histogram import quantile
from tidegate_operator.rollout import gate, pods
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.contribution import Contribution
from tidegate_operator.rollout.experiment_look import ACK_TIMEOUT, WARMUP, Look
from tidegate_operator.rollout.experiment_state import (
    ABORTED,
    STOPPED,
    Finished,
    Gating,
    HoldReason,
    Pending,
    Run,
    Running,
    Settling,
    Started,
    State,
    Waiting,
)
from tidegate_operator.rollout.observation import Before, Observation, Pod

_GATING_DEADLINE: Final = 900.0


def obstacle(test: ABTest, baseline: Baseline, seen: Observation) -> State | None:
    """What keeps a test that has not started from starting, other than its turn."""
    spec = test.spec
    if (passed := _end_passed(test, seen.now)) is not None:
        return passed
    ineligible = _ineligible(test, seen)
    if ineligible is not None:
        return Pending(reason=ineligible[0], message=ineligible[1])
    if not baseline.shares:
        return Pending(reason="NoBaseline", message=f"Nothing to test: {baseline.problem}")
    if spec.suspend:
        message = "Suspended by spec.suspend; starts when it is false"
        return Waiting(reason="Suspended", message=message)
    if (early := _early(test, seen.now)) is not None:
        return early
    if baseline.sole != spec.control_version:
        split = ", ".join(f"{v}: {w / 100:g}%" for v, w in sorted(baseline.shares.items()))
        message = f"Starts when version {spec.control_version} holds all the traffic; now {split}"
        return Waiting(reason="AmbiguousBaseline", message=message)
    return None


def _end_passed(test: ABTest, now: float) -> Finished | None:
    """The end of a test whose time is over before it has begun."""
    end = test.spec.end_time
    if end is None or now < epoch(end):
        return None
    message = f"endTime {end} came before it could start; no traffic was moved"
    return Finished(phase="Failed", reason="EndTimePassed", message=message)


def _early(test: ABTest, now: float) -> Waiting | None:
    """The state of a test whose time has not come, though it may have loaded its treatment."""
    begin = test.spec.start_time
    if begin is None or now >= epoch(begin):
        return None
    return Waiting(reason="NotYet", message=f"Starts at {begin}")


def start(test: ABTest, now: float) -> Gating:
    """The first state of a test whose turn it is."""
    message = f"Loading version {test.spec.treatment_version} before it gets any traffic"
    return Gating(run=Run(evidence=Checkpoint(gating_since=now)), reason="Loading", message=message)


def advance(test: ABTest, state: Started | Finished, seen: Observation) -> State:
    """One look at a test that has started."""
    match state:
        case Gating():
            return _gate(test, state, seen)
        case Running():
            return _run(test, state, seen)
        case Settling():
            return _settle(test, state, seen)
        case Finished():
            return _release(test, state)


def abort(test: ABTest, state: State, why: str) -> State:
    """What becomes of a test that a person ends."""
    message = f"Aborted: {why}"
    match state:
        case Running(run=run):
            told = f"{message}; version {test.spec.control_version} gets all the traffic back"
            ended = replace(run, verdict="Inconclusive")
            return Settling(run=ended, ending="Revert", reason=ABORTED, message=told)
        case Pending() | Waiting() | Gating():
            told = f"{message}; no traffic was moved"
            return Finished(phase="Stopped", reason=ABORTED, message=told)
        case _:
            return state


def latched(state: State, latch: Latch) -> State:
    """The state, given that the table says that the test was ended: this is taken up again."""
    if not isinstance(state, Gating | Running):
        return state
    # Of another cause than ours: somebody has edited the table.
    reason = latch.cause if latch.cause in STOPPED else ABORTED
    verdict: Verdict = "Inconclusive" if reason == ABORTED else cast("Verdict", reason)
    run = replace(state.run, verdict=verdict)
    return Settling(run=run, ending="Revert", reason=reason, message=latch.reason)


def contribution(test: ABTest, state: State) -> Contribution:
    """What the test wants of the table."""
    meta, spec = test.metadata, test.spec
    owner = Owner(kind=abtest.KIND, name=meta.name, uid=meta.uid)
    split = [
        Arm(name=ARM_CONTROL, version=spec.control_version, weight=WHOLE - _weight(test)),
        Arm(name=ARM_TREATMENT, version=spec.treatment_version, weight=_weight(test)),
    ]
    assignment = None
    if spec.assignment is not None:
        assignment = Assignment(
            header=spec.assignment.header, salt=meta.uid, unassigned=spec.control_version
        )
    match state:
        case Running(run=run):
            over = run.evidence.ended is not None and spec.on_finish != "Hold"
            return Contribution(
                owner=owner,
                uid=meta.uid,
                split=None if over else split,
                assignment=None if over else assignment,
                checks=guardrails.checks(test, run.evidence.pinned),
                experiment=_experiment(test, run),
            )
        case Settling(ending="Promote"):
            return Contribution(owner=owner, uid=meta.uid, promotes=spec.treatment_version)
        case Settling(stopped=True, reason=reason, message=message):
            latch = Latch(uid=meta.uid, reason=message, cause=reason)
            return Contribution(owner=owner, uid=meta.uid, latch=latch)
        case Finished(ending="Keep"):
            return Contribution(owner=owner, uid=meta.uid, split=split, assignment=assignment)
        case Gating() | Settling():
            return Contribution(owner=owner, uid=meta.uid)
        case _:
            return Contribution(owner=None, uid=meta.uid)


def secret(test: ABTest, state: State) -> str | None:
    """The name of the Secret that must exist for this test's feedback."""
    needed = isinstance(state, Gating | Running) and test.spec.outcomes
    return feedback_secret_name(test.spec.model) if needed else None


def _weight(test: ABTest) -> int:
    return test.spec.treatment_percent * 100


def _experiment(test: ABTest, run: Run) -> Experiment | None:
    if not test.spec.outcomes:
        return None
    ended = run.evidence.ended
    return Experiment(
        uid=test.metadata.uid,
        outcomes=test.spec.outcomes,
        covariate=test.spec.covariate.header if test.spec.covariate else None,
        until=None if ended is None else ended + test.spec.delay,
    )


def _ineligible(test: ABTest, seen: Observation) -> tuple[str, str] | None:
    spec = test.spec
    for version in (spec.control_version, spec.treatment_version):
        if version not in seen.by_version:
            message = f"No ModelVersion declares version {version} of {spec.model}; apply one"
            return "VersionNotDeclared", message
    lifecycle = seen.by_version[spec.treatment_version].spec.lifecycle
    if lifecycle in {"Inactive", "Deprecated"}:
        return "VersionNotEligible", (
            f"Version {spec.treatment_version} is {lifecycle}; set its lifecycle to Testing or "
            "Active to test it"
        )
    return None


def _gate(test: ABTest, state: Gating, seen: Observation) -> State:
    spec, run = test.spec, state.run
    if (passed := _end_passed(test, seen.now)) is not None:
        return passed
    if spec.suspend:
        message = "Suspended by spec.suspend; starts anew when it is false"
        return Waiting(reason="Suspended", message=message)
    if (early := _early(test, seen.now)) is not None:
        return early
    trouble = _ineligible(test, seen) or gate.trouble(
        spec.control_version, spec.treatment_version, seen
    )
    if trouble is None:
        report = gate.report(spec.control_version, spec.treatment_version, seen)
        if report:
            return Finished(
                phase="Failed",
                reason="Incompatible",
                message=f"Version {spec.treatment_version} does not fit version "
                f"{spec.control_version}: {report}; no traffic was moved. compatibility: Ignore on "
                "its ModelVersion lets it through",
            )
        return _begin(test, run, seen)
    reason, message = trouble
    if seen.now >= run.evidence.gating_since + _GATING_DEADLINE:
        return Finished(
            phase="Failed",
            reason="GatingDeadlineExceeded",
            message=f"Not ready within {duration(_GATING_DEADLINE)}; no traffic was moved. "
            f"{message}",
        )
    return Gating(run=run, reason=reason, message=message)


def _begin(test: ABTest, run: Run, seen: Observation) -> State:
    """Give the treatment its share, once what it is compared to is known."""
    pinned: dict[str, float] = {}
    if any(one.latency for one in test.spec.guardrails):
        if seen.before is None:
            message = "Ready; reads from Prometheus how fast control is before the treatment starts"
            return Gating(run=run, reason="NoData", message=message)
        pinned = _pinned(test, seen.before)
    evidence = msgspec.structs.replace(run.evidence, started=seen.now, pinned=pinned)
    share = f"version {test.spec.treatment_version} gets {test.spec.treatment_percent}%"
    message = f"Running: {share}; waiting for the pods to apply the split"
    return Running(
        run=replace(run, evidence=evidence), reason="AwaitingAcknowledgement", message=message
    )


def _pinned(test: ABTest, before: Before) -> dict[str, float]:
    known = before.latency.get(test.spec.control_version, ())
    found = {
        one.name: quantile(known, one.latency.quantile)
        for one in test.spec.guardrails
        if one.latency
    }
    return {name: value for name, value in found.items() if value is not None}


def _run(test: ABTest, state: Running, seen: Observation) -> State:
    """One look at a test that has weight, or still takes late outcomes."""
    revision, lagging = pods.acknowledged(seen)
    state = replace(state, run=replace(state.run, revision=revision))
    if not _live(test, state.run, seen.table):
        return _held(state, None, "waiting for the routing table to be written")
    if state.run.evidence.live_since is None:
        return _await_acknowledgement(state, seen, lagging)
    if seen.reading is None:
        return _between_looks(test, state)
    look = Look(test, seen, tuple(lagging))
    run = look.absorb(state.run)
    found = experiment.judge(test, run.evidence)
    state = replace(state, run=run.judged(found))
    if found.harmful:
        return _end(test, state.run, found)
    if test.spec.suspend:
        return _suspended(state)
    trouble = look.trouble(state.run)
    if trouble is not None:
        return _held(state, *trouble)
    return _next(look, look.run_clock(state), found)


def _next(look: Look, state: Running, found: Judgement) -> State:
    """Go on, or end: early, or as its time is over and no more outcomes are waited for."""
    test, now, evidence = look.test, look.seen.now, state.run.evidence
    spec = test.spec
    if spec.stop_early and found.decided:
        return _end(test, state.run, found)
    if evidence.ended is not None:
        until = evidence.ended + spec.delay
        if now >= until + 2 * look.seen.scrape_interval:
            return _end(test, state.run, found)
        return _held(state, None, f"its time is over; late outcomes count until {_time(until)}")
    if not _over(test, evidence, now):
        state = replace(
            state, run=replace(state.run, estimated_end=_estimated_end(test, evidence, found, now))
        )
        return replace(
            _held(state, None, _progress(look, evidence, found)), clock_since=state.clock_since
        )
    if not spec.delay:
        return _end(test, state.run, found)
    ended = replace(state.run, evidence=msgspec.structs.replace(evidence, ended=now))
    message = f"its time is over; late outcomes count until {_time(now + spec.delay)}"
    return _held(replace(state, run=ended), None, message)


def _end(test: ABTest, run: Run, found: Judgement) -> State:
    """Settle who has the traffic from now on."""
    run = replace(run, verdict=found.verdict, estimated_end=None)
    ending = _ending(test, found)
    message = f"{found.verdict}: {found.reason}; {_consequence(test, ending)}"
    if ending == "Keep":
        return _finished("Finished", run, ending, found.verdict, message)
    return Settling(run=run, ending=ending, reason=found.verdict, message=message)


def _ending(test: ABTest, found: Judgement) -> Ending:
    if found.harmful:
        return "Revert"
    if test.spec.on_finish == "Hold":
        return "Keep"
    wins = found.verdict == "TreatmentWins" and test.spec.on_finish == "PromoteWinner"
    return "Promote" if wins else "Revert"


def _consequence(test: ABTest, ending: Ending) -> str:
    spec = test.spec
    match ending:
        case "Keep":
            share = spec.treatment_percent
            return (
                f"version {spec.treatment_version} keeps {share}% and the test keeps the model, as "
                "onFinish is Hold, until it is deleted"
            )
        case "Promote":
            return f"version {spec.treatment_version} gets all the traffic"
        case "Revert":
            return f"version {spec.control_version} gets all the traffic back"


def _settle(test: ABTest, state: Settling, seen: Observation) -> State:
    """Finish once every ready pod applies the table that says so."""
    revision, lagging = pods.acknowledged(seen)
    run = replace(state.run, revision=revision)
    if not _says_so(test, state, seen.table) or lagging or not seen.asked:
        return replace(state, run=run)
    phase = "Stopped" if state.stopped else "Finished"
    return _finished(phase, run, state.ending, state.reason, state.message)


def _finished(phase: str, run: Run, ending: Ending, reason: str, message: str) -> Finished:
    """The end. What the evidence was counted from is no longer needed."""
    old = run.evidence
    kept = Checkpoint(
        gating_since=old.gating_since,
        started=old.started,
        live_since=old.live_since,
        elapsed=old.elapsed,
        ended=old.ended,
        pinned=old.pinned,
    )
    return Finished(
        phase="Stopped" if phase == "Stopped" else "Finished",
        run=replace(run, evidence=kept),
        ending=ending,
        reason=reason,
        message=message,
    )


def _release(test: ABTest, state: Finished) -> State:
    """Give up what ``onFinish: Hold`` kept, once it says otherwise."""
    if state.ending != "Keep" or state.run is None or test.spec.on_finish == "Hold":
        return state
    promote = state.reason == "TreatmentWins" and test.spec.on_finish == "PromoteWinner"
    ending: Ending = "Promote" if promote else "Revert"
    what = state.message.rpartition("; ")[0]
    message = f"{what}; {_consequence(test, ending)}"
    return Settling(run=state.run, ending=ending, reason=state.reason, message=message)


def _says_so(test: ABTest, state: Settling, table: RoutingTable | None) -> bool:
    """Whether the table in force is the decision's."""
    if table is None:
        return False
    if state.ending == "Promote":
        return [arm.version for arm in table.split] == [test.spec.treatment_version]
    if state.stopped:
        return table.latch is not None and table.latch.uid == test.metadata.uid
    return ARM_TREATMENT not in {arm.name for arm in table.split}


def _live(test: ABTest, run: Run, table: RoutingTable | None) -> bool:
    """Whether the table in force has the test's split, or had it and takes late outcomes only."""
    if table is None or table.owner is None or table.owner.uid != test.metadata.uid:
        return False
    weights = {arm.name: arm.weight for arm in table.split}
    return run.evidence.ended is not None or weights.get(ARM_TREATMENT) == _weight(test)


def _await_acknowledgement(state: Running, seen: Observation, lagging: Sequence[Pod]) -> Running:
    started = state.run.evidence.started or 0.0
    if not seen.asked:
        return _held(state, "NoReadyPods", gate.no_ready_pods(seen))
    if lagging and seen.now - started <= ACK_TIMEOUT:
        return _held(state, None, "waiting for the pods to apply the split")
    if len(lagging) == len(seen.asked):
        return _held(state, "NotAcknowledged", pods.late(lagging, ACK_TIMEOUT))
    # The split is live on some pods: from here on it is judged, whoever else is late.
    evidence = msgspec.structs.replace(state.run.evidence, live_since=seen.now)
    live = replace(state, run=replace(state.run, evidence=evidence))
    if pods.too_many(lagging, seen):
        return _held(live, "NotAcknowledged", pods.late(lagging, ACK_TIMEOUT))
    message = f"live on {len(seen.asked) - len(lagging)} pods; warming up"
    if lagging:
        message += f"; left out: {', '.join(pod.name for pod in lagging)}"
    return replace(_held(live, None, message), clock_since=seen.now)


def _between_looks(test: ABTest, state: Running) -> Running:
    """What a person wants is done at once, not at the next look."""
    if test.spec.suspend:
        return state if state.hold == "Suspended" else _suspended(state)
    if state.hold == "Suspended":
        return _held(state, None, "resumed; its clock goes on with the next look")
    return state


def _suspended(state: Running) -> Running:
    message = "suspended by spec.suspend: outcomes do not count; resumes when it is false"
    return _held(state, "Suspended", message)


def _held(state: Running, hold: HoldReason | None, message: str) -> Running:
    """The same test, standing or going."""
    return replace(
        state,
        hold=hold,
        clock_since=None,
        reason=hold or "Gathering",
        message=f"{'Holding' if hold else 'Running'}: {message}",
    )


def _over(test: ABTest, evidence: Checkpoint, now: float) -> bool:
    if test.spec.end_time is not None:
        return now >= epoch(test.spec.end_time)
    assert test.spec.duration is not None, "the CRD demands one of the two"
    return evidence.elapsed >= seconds(test.spec.duration)


def _estimated_end(test: ABTest, evidence: Checkpoint, found: Judgement, now: float) -> float:
    """When the test will end if all goes on as it does (epoch seconds)."""
    spec = test.spec
    if spec.end_time is not None:
        latest = epoch(spec.end_time) + spec.delay
    else:
        assert spec.duration is not None, "the CRD demands one of the two"
        latest = now + seconds(spec.duration) - evidence.elapsed + spec.delay
    if not spec.stop_early or found.pace is None:
        return latest
    return min(latest, now + evidence.elapsed * (found.pace - 1.0))


def _progress(look: Look, evidence: Checkpoint, found: Judgement) -> str:
    """What is known so far, in words that change when that does."""
    spec = look.test.spec
    units = "users" if spec.assignment else "requests"
    begins = (evidence.live_since or look.seen.now) + WARMUP
    if look.seen.now < begins:
        what = f"warming up; outcomes count from {_time(begins)}"
    elif min(found.samples.control, found.samples.treatment) < spec.min_samples:
        what = f"fewer than {spec.min_samples} {units} of an arm so far"
    elif all(one.control is None for one in found.metrics[: len(spec.success_metrics)]):
        what = f"no outcomes yet; report them to /v2/models/{spec.model}/feedback"
        if not spec.outcomes:
            what = "no outcomes yet; the queries of the success metrics give none"
    elif found.decided:
        what = f"{found.verdict} so far"
    else:
        what = "no verdict so far"
    guards = guardrails.compile_guards(look.test, evidence.pinned)
    if blind := [guard.name for guard in guards if guard.check is None]:
        what += f"; the treatment cannot win, as nobody can judge {', '.join(blind)}"
    ends = f"at {spec.end_time}" if spec.end_time else f"after {spec.duration} in all"
    return f"{what}; ends {ends}{' at the latest' if spec.stop_early else ''}"


def _time(at: float) -> str:
    return timestamp(at)[:19] + "Z"
