"""The evidence of one look at a step that is live: what came in, what it says, what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec

from tidegate_contract.names import ARM_CANARY, ARM_STABLE
from tidegate_contract.table import WHOLE, ErrorCheck
from tidegate_operator.api.canaryrollout import (
    CanaryRollout,
    Checkpoint,
    OnTrouble,
    Step,
)
from tidegate_operator.api.quantity import seconds
from tidegate_operator.evidence import buckets, counters, proportions, ratio, share
from tidegate_operator.evidence.checks import (
    Agreement,
    Bound,
    Compiled,
    Counted,
    Queried,
    compile_metrics,
    counted,
)
from tidegate_operator.evidence.counters import Stratum, Window
from tidegate_operator.evidence.tally import Tally
from tidegate_operator.evidence.verdict import (
    Judgement,
    Rules,
    Verdict,
    bad_in_a_row,
    harm_key,
    judge,
)
from tidegate_operator.rollout import gate, pods
from tidegate_operator.rollout.observation import Observation, Pod, Reading, Unreadable
from tidegate_operator.rollout.state import HoldReason, Run, Stepping


def compiled_metrics(rollout: CanaryRollout, evidence: Checkpoint | None) -> list[Compiled]:
    """The rollout's metrics as checks."""
    spec, status = rollout.spec, rollout.status
    return compile_metrics(
        spec.metrics,
        uid=rollout.metadata.uid,
        # An edit begins the evidence of what was edited anew, a retry that of all metrics.
        attempt=status.attempt - status.analysis_changes,
        shadow_only=spec.shadow_only,
        slowdown=spec.analysis.max_stable_slowdown,
        pinned=evidence.pinned if evidence else {},
    )


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps the clock from running, and until when. ``policy``: what the user wants done about
    it. ``nothing_counted``: no pod's requests are.
    """

    hold: HoldReason
    verdict: Verdict
    what: str
    until: str = ""
    policy: OnTrouble = "Hold"
    nothing_counted: bool = False

    @property
    def message(self) -> str:
        """Both as one sentence."""
        return f"{self.what}; {self.until}" if self.until else self.what


@dataclass(frozen=True, slots=True)
class Look:
    """One look; ``left_out`` are the pods that did not acknowledge the weight. ``blind``: evidence
    was missing at the last one: samples that came in late are of a time that nobody could judge.
    """

    rollout: CanaryRollout
    metrics: Sequence[Compiled]
    seen: Observation
    left_out: Sequence[Pod]
    blind: bool = False

    @property
    def interval(self) -> float:
        """Seconds between looks."""
        return seconds(self.rollout.spec.analysis.interval)

    @property
    def attended(self) -> bool:
        """Whether this process looked at most two intervals ago."""
        last = self.seen.last_look
        return last is not None and self.seen.now - last <= 2 * self.interval

    @property
    def late(self) -> bool:
        """Whether this process looked, but longer ago than that: its time counts for nothing."""
        return self.seen.last_look is not None and not self.attended

    @property
    def since_last(self) -> float:
        """Seconds that were watched since the last look; 0 where nobody did."""
        return self.seen.now - (self.seen.last_look or 0.0) if self.attended else 0.0

    def absorb(self, run: Run) -> Run:
        """Add what the counters did since the last look. Counting starts after the warm-up."""
        evidence = run.evidence
        if isinstance(self.seen.reading, Reading):
            names = {pod.name for pod in self.seen.pods} - {pod.name for pod in self.left_out}
            mine = [one for one in self.seen.reading.series if one.pod in names]
            window, warming = self._window(mine, run), self._warming(mine, run)
            evidence = self._added(evidence, window, warming, self._planned_looks(run.plan))
            evidence = self._restarted(evidence, mine)
        queries = bad_in_a_row(self.metrics, evidence, self._rules(run))
        return replace(run, evidence=msgspec.structs.replace(evidence, queries=queries))

    def judge(self, run: Run) -> list[Judgement]:
        """Every metric's judgement while the step goes on, or what comes after it is waited for."""
        rules = self._rules(run, step_over=run.evidence.passed)
        return [judge(metric, run.evidence, rules) for metric in self.metrics]

    def judge_step(self, run: Run, missing: Trouble | None) -> list[Judgement]:
        """Every metric's judgement of the step as a whole. ``missing``: what the user wants to go
        on without; where nothing is counted, no count can pass either.
        """
        rules = self._rules(run, step_over=True)
        judged = [judge(metric, run.evidence, rules) for metric in self.metrics]
        if missing is None or not missing.nothing_counted:
            return judged
        return [
            one if isinstance(metric, Queried) else _unknown(one, missing)
            for metric, one in zip(self.metrics, judged, strict=True)
        ]

    def obstacle(self, run: Run, judgements: Sequence[Judgement]) -> Trouble | None:
        """What keeps the clock from running; of several the one that is to roll back, then one
        that is to hold.
        """
        if not self.seen.asked:
            return Trouble("NoReadyPods", Verdict.NoData, gate.no_ready_pods(self.seen))
        late = [pod for pod in self.left_out if pod.ready_since <= live_since(run)]
        if pods.too_many(late, self.seen):
            message = pods.late(late, seconds(self.rollout.spec.analysis.ack_timeout))
            return Trouble("NotAcknowledged", Verdict.Inconclusive, message)
        found = [self._unread(run), *self._unanswered(judgements), self._slowed(run)]
        known = [self._with_policy(one) for one in found if one is not None]
        order: tuple[OnTrouble, ...] = ("Rollback", "Hold", "Continue")
        return min(known, key=lambda one: order.index(one.policy), default=None)

    def _with_policy(self, trouble: Trouble) -> Trouble:
        """Go on only where something else is left to judge by."""
        analysis = self.rollout.spec.analysis
        policies = {"NoData": analysis.on_no_data, "Error": analysis.on_error}
        policy = policies.get(trouble.hold, "Hold")
        left = any(isinstance(one, Queried) and not one.dry_run for one in self.metrics)
        if policy == "Continue" and trouble.nothing_counted and not left:
            policy = "Hold"
        return replace(trouble, policy=policy)

    def _unread(self, run: Run) -> Trouble | None:
        match self.seen.reading:
            case Unreadable(why=why):
                what, until = f"Prometheus cannot be read ({why})", "resumes when it answers"
                return Trouble("Error", Verdict.Error, what, until, nothing_counted=True)
            case Reading() as reading:
                known = run.evidence.cursors
                found = pods.silent(self.seen, reading, live_since(run), self.left_out, known)
                if found is None:
                    return None
                what, until, nothing = found
                return Trouble("NoData", Verdict.NoData, what, until, nothing_counted=nothing)
            case None:
                return None

    def _unanswered(self, judgements: Sequence[Judgement]) -> list[Trouble]:
        """Users' own queries that gave no value."""
        holds: dict[Verdict, HoldReason] = {Verdict.Error: "Error", Verdict.NoData: "NoData"}
        return [
            Trouble(
                holds[one.verdict],
                one.verdict,
                f"{one.status.name}: {one.status.reason}",
                "resumes when it gives a number",
            )
            for one in judgements
            if one.verdict in holds and not one.status.dry_run
        ]

    def _slowed(self, run: Run) -> Trouble | None:
        """Stable's latency, beyond what the user lets the canary do to it; where stable has no
        weight nobody is slowed.
        """
        if run.percent * 100 == WHOLE:
            return None
        for metric in self._neighbours():
            if metric.neighbour and metric.neighbour.slowed.id in run.evidence.slow:
                message = (
                    f"{metric.name}: stable, on the same device, takes more than "
                    f"{self.rollout.spec.analysis.max_stable_slowdown:g}x of its time before the "
                    "rollout; resumes when it does not"
                )
                return Trouble("Inconclusive", Verdict.Inconclusive, message)
        return None

    def _neighbours(self) -> list[Counted]:
        return [
            one
            for one in self.metrics
            if isinstance(one, Counted) and one.neighbour is not None and not one.dry_run
        ]

    def _weigh_neighbours(self, evidence: Checkpoint) -> Checkpoint:
        """Whether stable is slowed: from the proof of it until as many requests as a step needs
        keep the bound, counted anew.
        """
        itself, shares, slow = dict(evidence.itself), dict(evidence.shares), set(evidence.slow)
        enough = self.rollout.spec.analysis.min_requests
        for metric in self._neighbours():
            assert metric.neighbour is not None
            bound = metric.neighbour.slowed
            tally = itself.get(bound.id, Tally())
            found = shares.get(harm_key(bound), share.ShareEvidence())
            if share.above(found) >= self._threshold:
                slow.add(bound.id)
                itself[bound.id] = Tally()
                del shares[harm_key(bound)]
            elif tally.requests >= enough and (tally.rate or 0.0) <= bound.allowed:
                slow.discard(bound.id)
        return msgspec.structs.replace(evidence, itself=itself, shares=shares, slow=sorted(slow))

    @property
    def _threshold(self) -> float:
        """E at which a test counts as proven: the level is shared by all that can roll back."""
        tests = max(1, sum(metric.tests for metric in self.metrics if not metric.dry_run))
        return tests / self.rollout.spec.analysis.significance_level

    def _rules(self, run: Run, *, step_over: bool = False) -> Rules:
        analysis = self.rollout.spec.analysis
        uid = self.rollout.metadata.uid
        return Rules(
            threshold=self._threshold,
            step_over=step_over,
            dispersion={
                id_: buckets.dispersion_of(one) for id_, one in run.evidence.buckets.items()
            },
            compared=run.percent * 100 != WHOLE,
            proof=1 / analysis.significance_level if analysis.pass_on == "Proven" else None,  # noqa: S105
            answers={
                name: one
                for (owner, name), one in self.seen.answers.items()
                if owner == uid and self._warmed_up(run)
            },
            detailed=self.seen.detailed,
        )

    def _warmed_up(self, run: Run) -> bool:
        """Whether the step's warm-up is over: until then users' own queries may have nothing to
        tell yet, or tell of a version that has only just got its requests.
        """
        warmup = seconds(self.rollout.spec.analysis.warmup)
        return self.seen.now >= live_since(run) + warmup

    def run_clock(self, state: Stepping) -> Stepping:
        """Count the time since the last look if the clock was running then too, else start it."""
        if self.late and state.clock_since is not None:
            return state
        if not self.attended or state.clock_since is None:
            return replace(state, clock_since=self.seen.now)
        elapsed = state.run.evidence.elapsed + self.since_last
        counted = msgspec.structs.replace(state.run.evidence, elapsed=elapsed)
        return replace(state, run=replace(state.run, evidence=counted))

    def _restarted(self, evidence: Checkpoint, mine: Sequence[counters.Series]) -> Checkpoint:
        """Restarts of Triton, warm-ups and changes of weight included."""
        newest = counters.newest_sample(one for one in mine if one.counts == "restarts")
        if evidence.restarts is None or not newest:
            return evidence
        assert isinstance(self.seen.reading, Reading)
        assert evidence.live_since is not None
        begin = evidence.live_since + self.seen.reading.at - self.seen.now
        since = begin if evidence.restarts_until is None else evidence.restarts_until
        until = max(since, min(newest.values()))
        found = counters.restarts(mine, dict.fromkeys(newest, since), dict.fromkeys(newest, until))
        return msgspec.structs.replace(
            evidence, restarts=evidence.restarts + found, restarts_until=until
        )

    def _window(self, mine: Sequence[counters.Series], run: Run) -> Window:
        assert isinstance(self.seen.reading, Reading)
        ids = {check.id for check in counted(self.metrics)}
        skew = self.seen.reading.at - self.seen.now
        warm = seconds(self.rollout.spec.analysis.warmup) + skew
        since = live_since(run)
        return counters.window(
            (one for one in mine if one.check in ids),
            run.evidence.cursors,
            since + warm,
            starts={pod.name: max(since, pod.ready_since) + warm for pod in self.seen.pods},
            longest_gap=2 * self.seen.scrape_interval,
            attended=self.attended and not self.blind,
        )

    def _warming(self, mine: Sequence[counters.Series], run: Run) -> Window:
        """What pods that joined once the step had warmed up counted while they still did: it is
        held against bounds of errors only. Else a canary whose pods come and go would never be
        judged.
        """
        assert isinstance(self.seen.reading, Reading)
        skew = self.seen.reading.at - self.seen.now
        warm = seconds(self.rollout.spec.analysis.warmup)
        begin = live_since(run) + warm
        late = {
            pod.name: pod
            for pod in self.seen.pods
            if pod.ready_since > live_since(run) and pod.name not in run.evidence.cursors
        }
        if not late:
            return Window(cursors=run.evidence.warming)
        rollbacks = [one.rollback for one in self.metrics if isinstance(one, Counted)]
        ids = {one.id for one in rollbacks if one and isinstance(one.check, ErrorCheck)}
        return counters.window(
            (
                one.until(late[one.pod].ready_since + warm + skew)
                for one in mine
                if one.pod in late and one.check in ids
            ),
            run.evidence.warming,
            begin + skew,
            starts={name: max(begin, pod.ready_since) + skew for name, pod in late.items()},
            longest_gap=2 * self.seen.scrape_interval,
            attended=self.attended and not self.blind,
        )

    def _planned_looks(self, plan: Sequence[Step]) -> int:
        watched = sum(seconds(step.duration) for step in plan if step.duration)
        return max(1, round(watched / self.interval))

    def _added(
        self, evidence: Checkpoint, window: Window, warming: Window, planned_looks: int
    ) -> Checkpoint:
        """The evidence with what was counted."""
        fresh, whole = window.watched, _summed(window.all, warming.all)
        added = msgspec.structs.replace(
            evidence,
            watched=_summed(evidence.watched, fresh),
            harm=self._harmed(evidence, whole),
            shares=self._shares(evidence, whole, planned_looks),
            itself=self._itself(evidence, fresh),
            excesses=self._excesses(evidence, whole, planned_looks),
            ratios=self._ratios(evidence, window, planned_looks),
            buckets=self._buckets(evidence, window),
            cursors=window.cursors,
            warming=warming.cursors,
        )
        return self._weigh_neighbours(added)

    def _harmed(
        self, evidence: Checkpoint, whole: dict[str, dict[str, Tally]]
    ) -> dict[str, list[Tally]]:
        harm = dict(evidence.harm)
        for metric in self.metrics:
            for bound in _bounds(metric):
                steps = list(harm.get(harm_key(bound), []))
                steps += [Tally()] * (evidence.step + 1 - len(steps))
                steps[evidence.step] += whole.get(bound.id, {}).get(bound.arm, Tally())
                harm[harm_key(bound)] = steps
        return harm

    def _shares(
        self, evidence: Checkpoint, whole: dict[str, dict[str, Tally]], planned_looks: int
    ) -> dict[str, share.ShareEvidence]:
        shares = dict(evidence.shares)
        for metric in self.metrics:
            for bound in _tested(metric):
                tally = whole.get(bound.id, {}).get(bound.arm, Tally())
                shares[harm_key(bound)] = share.observe(
                    shares.get(harm_key(bound), share.ShareEvidence()),
                    tally.requests,
                    tally.bad,
                    allowed=bound.allowed,
                    planned_looks=planned_looks,
                )
        return shares

    def _itself(
        self, evidence: Checkpoint, watched: dict[str, dict[str, Tally]]
    ) -> dict[str, Tally]:
        itself = dict(evidence.itself)
        for metric in self.metrics:
            match metric:
                case Counted(neighbour=neighbour) if neighbour is not None:
                    id_ = neighbour.slowed.id
                case Agreement(baseline=True, bound=bound):
                    id_ = bound.id
                case _:
                    continue
            itself[id_] = itself.get(id_, Tally()) + watched.get(id_, {}).get(ARM_STABLE, Tally())
        return itself

    def _excesses(
        self, evidence: Checkpoint, whole: dict[str, dict[str, Tally]], planned_looks: int
    ) -> dict[str, proportions.ExcessEvidence]:
        excesses = dict(evidence.excesses)
        for metric in self.metrics:
            if isinstance(metric, Agreement) and metric.baseline:
                arms = whole.get(metric.bound.id, {})
                excesses[metric.bound.id] = proportions.observe(
                    excesses.get(metric.bound.id, proportions.ExcessEvidence()),
                    arms.get(metric.bound.arm, Tally()),
                    arms.get(ARM_STABLE, Tally()),
                    excess=metric.bound.allowed,
                    planned_looks=planned_looks,
                )
        return excesses

    def _ratios(
        self, evidence: Checkpoint, window: Window, planned_looks: int
    ) -> dict[str, ratio.RatioEvidence]:
        ratios = dict(evidence.ratios)
        for metric in self.metrics:
            if not isinstance(metric, Counted) or metric.ratio is None:
                continue
            strata = window.strata.get(metric.ratio.id, [])
            for gap in (False, True):
                if counted := self._strata([one for one in strata if one.gap is gap]):
                    ratios[metric.ratio.id] = ratio.observe(
                        ratios.get(metric.ratio.id, ratio.RatioEvidence()),
                        counted,
                        max_ratio=metric.ratio.allowed,
                        planned_looks=planned_looks,
                        gap=gap,
                    )
        return ratios

    def _strata(self, found: Sequence[Stratum]) -> list[ratio.Stratum]:
        """Each pod and priority is a stratum. Buckets of users are not: that only few of them have
        errors of both arms would cost most of the evidence.
        """
        if self.rollout.spec.assignment is None:
            return [_compared([one]) for one in found]
        pods = {one.pod for one in found}
        return [_compared([one for one in found if one.pod == pod]) for pod in sorted(pods)]

    def _buckets(self, evidence: Checkpoint, window: Window) -> dict[str, str]:
        if self.rollout.spec.assignment is None:
            return evidence.buckets
        found = dict(evidence.buckets)
        for check, strata in window.strata.items():
            found[check] = buckets.added(found.get(check, ""), strata)
        return found


def _summed(
    some: dict[str, dict[str, Tally]], more: dict[str, dict[str, Tally]]
) -> dict[str, dict[str, Tally]]:
    """Tallies by check and arm, added up."""
    total = {id_: dict(arms) for id_, arms in some.items()}
    for id_, arms in more.items():
        mine = total.setdefault(id_, {})
        for arm, tally in arms.items():
            mine[arm] = mine.get(arm, Tally()) + tally
    return total


def _tested(metric: Compiled) -> list[Bound]:
    """The bounds of the canary, or of stable beside it, whose breach is to be proven."""
    match metric:
        case Counted(rollback=rollback, neighbour=neighbour):
            beside = [neighbour.broken, neighbour.slowed] if neighbour else []
            return [one for one in (rollback, *beside) if one is not None]
        case Agreement(bound=bound, baseline=False):
            return [bound]
        case _:
            return []


def _bounds(metric: Compiled) -> list[Bound]:
    """The bounds that the tallies of the whole rollout are held to, or told by."""
    match metric:
        case Counted(rollback=rollback, success=success, neighbour=neighbour):
            broken = neighbour.broken if neighbour else None
            found = {harm_key(one): one for one in (rollback, success, broken) if one is not None}
            return list(found.values())
        case Agreement(bound=bound):
            return [bound]
        case _:
            return []


def _unknown(judgement: Judgement, why: Trouble) -> Judgement:
    told = msgspec.structs.replace(judgement.status, verdict=why.verdict.name, reason=why.what)
    return Judgement(why.verdict, told)


def _compared(together: Sequence[Stratum]) -> ratio.Stratum:
    canary = sum((one.arms.get(ARM_CANARY, Tally()) for one in together), Tally())
    stable = sum((one.arms.get(ARM_STABLE, Tally()) for one in together), Tally())
    return ratio.Stratum(canary.requests, canary.bad, stable.requests, stable.bad)


def live_since(run: Run) -> float:
    """When this step's weight was live everywhere (epoch seconds)."""
    assert run.evidence.live_since is not None, "only live steps are looked at"
    return run.evidence.live_since
