"""What the evidence says of each metric, and of a step as a whole."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial, singledispatch

from tidegate_contract.names import ARM_CANARY, ARM_SHADOW, ARM_STABLE
from tidegate_contract.table import Check, SlowCheck
from tidegate_operator.api.canaryrollout import Checkpoint, MetricStatus, Range
from tidegate_operator.api.quantity import duration
from tidegate_operator.evidence import proportions, ratio, share
from tidegate_operator.evidence.checks import Agreement, Bound, Compiled, Counted, Queried
from tidegate_operator.evidence.queries import Answer, NoValue, QueryError, Value
from tidegate_operator.evidence.share_interval import share_interval
from tidegate_operator.evidence.tally import Tally

INTERVAL_ALPHA = 0.05
"""Intervals that are shown hold with 95%."""
_UNPINNED = (
    "how fast stable was before the rollout is not known, as it had too few requests; promote, or "
    "begin anew when it has more"
)


class Verdict(IntEnum):
    """Five different things, from best to worst: of several, the worst is what counts."""

    Pass = 0
    Inconclusive = 1
    NoData = 2
    Error = 3
    Fail = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """A metric's verdict with what it rests on."""

    verdict: Verdict
    status: MetricStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How a look judges.

    ``threshold``: E at which a test that can roll back does. ``step_over``: it is time to judge
    the step as a whole. ``compared``: stable has requests, too. ``proof``: E that proof of being
    no worse needs; None where it is not asked for. ``dispersion``: by check, how much more errors
    vary between users than by chance. ``answers``: to the users' own queries, by metric.
    ``detailed``: what is only shown (the ratio and its interval) is worked out, too.
    """

    threshold: float
    step_over: bool = False
    compared: bool = True
    proof: float | None = None
    dispersion: Mapping[str, float] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    detailed: bool = True


@singledispatch
def judge(metric: Compiled, evidence: Checkpoint, rules: Rules) -> Judgement:
    """Judge one metric.

    Fail as soon as harm is shown. Pass only where ``step_over`` says that it is time to judge the
    step as a whole, and its success bound is kept; a metric without one passes by not failing.
    """
    raise NotImplementedError(metric, evidence, rules)


@judge.register
def _(metric: Counted, evidence: Checkpoint, rules: Rules) -> Judgement:
    shown = metric.shown
    if shown is None:
        return _judgement(metric, Verdict.Inconclusive, _UNPINNED)
    mine = _tally(evidence, shown.id, metric.arm)
    tests = _harm_tests(metric, evidence, rules)
    broken = [why for e_value, why in tests if e_value >= rules.threshold]
    if broken:
        verdict, reason = Verdict.Fail, broken[0]()
    elif rules.step_over:
        verdict, reason = _passed(metric, evidence, rules)
    else:
        verdict, reason = Verdict.Inconclusive, "gathering"
    return _judgement(
        metric,
        verdict,
        reason,
        stable=_tally(evidence, shown.id, ARM_STABLE).rate,
        canary=mine.rate,
        e_value=max((e_value for e_value, _ in tests), default=1.0),
        threshold=rules.threshold,
        compared=_compared(metric, evidence, rules),
    )


@judge.register
def _(metric: Agreement, evidence: Checkpoint, rules: Rules) -> Judgement:
    bound = metric.bound
    itself = evidence.itself.get(bound.id, Tally())
    excess = evidence.excesses.get(bound.id, proportions.ExcessEvidence())
    spread = rules.dispersion.get(bound.id, 1.0)
    e_value = (
        proportions.above(excess, spread) if metric.baseline else _above(evidence, bound, rules)
    )
    now = _tally(evidence, bound.id, ARM_SHADOW)
    allowed = bound.allowed + ((itself.rate or 0.0) if metric.baseline else 0.0)
    verdict, reason = Verdict.Inconclusive, "gathering"
    if e_value >= rules.threshold:
        verdict = Verdict.Fail
        proof = _at_worst(bound, evidence)
        reason = (
            f"{proof.bad} of {proof.requests} mirrored requests were answered otherwise than by "
            f"stable ({_percent(proof.rate)}), {_percent(allowed)} allowed"
        )
    elif rules.step_over and not rules.compared:
        verdict, reason = Verdict.Pass, "stable has no requests any more that could be mirrored"
    elif rules.step_over and now.rate is not None and now.rate <= allowed:
        verdict, reason = Verdict.Pass, "within bounds"
    elif rules.step_over:
        reason = f"{_percent(now.rate)} disagreed, {_percent(allowed)} allowed"
    return _judgement(
        metric,
        verdict,
        reason,
        stable=itself.rate if metric.baseline else None,
        canary=now.rate,
        e_value=e_value,
        threshold=rules.threshold,
    )


@judge.register
def _(metric: Queried, evidence: Checkpoint, rules: Rules) -> Judgement:
    match rules.answers.get(metric.name):
        case None:
            return _judgement(metric, Verdict.Inconclusive, "not asked yet")
        case NoValue(why=why):
            return _judgement(metric, Verdict.NoData, f"its query gives {why}")
        case QueryError(why=why):
            return _judgement(metric, Verdict.Error, f"its query fails: {why}")
        case Value(value=value):
            verdict, reason = _of_value(metric, evidence, rules, value)
            return _judgement(metric, verdict, reason, canary=value)


def _of_value(
    metric: Queried, evidence: Checkpoint, rules: Rules, value: float
) -> tuple[Verdict, str]:
    query, bad = metric.query, evidence.queries.get(metric.id, 0)
    if query.rollback is not None and bad >= query.failure_limit:
        times = f", {bad} times in a row" if bad > 1 else ""
        return Verdict.Fail, f"{value:g} is within rollback ({_range(query.rollback)}){times}"
    # The value itself stands in ``canary``: a message that moves would be written at every look.
    if bad:
        return Verdict.Inconclusive, f"its value is within rollback, {bad} of {query.failure_limit}"
    if not rules.step_over:
        return Verdict.Inconclusive, "gathering"
    if query.success is None or query.success.holds(value):
        return Verdict.Pass, "within bounds"
    return Verdict.Inconclusive, f"its value is not within success ({_range(query.success)})"


def _harm_tests(
    metric: Counted, evidence: Checkpoint, rules: Rules
) -> list[tuple[float, Callable[[], str]]]:
    """The E-value of each test that can roll back, and what it says if it does."""
    tests: list[tuple[float, Callable[[], str]]] = []
    if metric.rollback is not None:
        e_value = _above(evidence, metric.rollback, rules)
        tests.append((e_value, partial(_broken, metric.rollback, evidence)))
    if rules.compared and metric.ratio is not None and not _within_success(metric, evidence):
        found = evidence.ratios.get(metric.ratio.id, ratio.RatioEvidence())
        spread = rules.dispersion.get(metric.ratio.id, 1.0)
        tests.append((ratio.harm(found, spread), partial(_worse, metric, found, spread)))
    if metric.neighbour is not None and metric.neighbour.broken is not None:
        bound = metric.neighbour.broken
        tests.append((_above(evidence, bound, rules), partial(_neighbour_broken, bound, evidence)))
    return tests


def _neighbour_broken(bound: Bound, evidence: Checkpoint) -> str:
    return f"stable, on the same device, was within its bound before: {_broken(bound, evidence)}"


def _passed(metric: Counted, evidence: Checkpoint, rules: Rules) -> tuple[Verdict, str]:
    """What the step as a whole says where nothing failed."""
    if metric.success is not None:
        tally = _tally(evidence, metric.success.id, metric.arm)
        if tally.rate is None:
            return Verdict.Inconclusive, "no request that it concerns reached the canary"
        if tally.rate > metric.success.allowed:
            allowed = _percent(metric.success.allowed)
            return Verdict.Inconclusive, f"{_percent(tally.rate)} is above success {allowed}"
    if not rules.compared:
        return Verdict.Pass, "within bounds"
    if metric.ratio is None:
        if metric.unpinned and rules.proof is not None:
            return Verdict.Inconclusive, _UNPINNED
        return Verdict.Pass, "within bounds"
    found = evidence.ratios.get(metric.ratio.id, ratio.RatioEvidence())
    spread = rules.dispersion.get(metric.ratio.id, 1.0)
    if ratio.harm(found, spread) >= rules.threshold:
        return Verdict.Pass, f"within bounds, though {_worse(metric, found, spread)}"
    if rules.proof is not None:
        e_value = ratio.not_worse(found, metric.ratio.allowed, spread)
        if e_value < rules.proof:
            shown = f"E {_readable(e_value):g} of {_readable(rules.proof):g}"
            return Verdict.Inconclusive, f"not yet proven to be no worse than stable ({shown})"
    return Verdict.Pass, "within bounds"


def step_requests(
    checks: Sequence[Check], watched: Mapping[str, Mapping[str, Tally]]
) -> dict[str, int]:
    """Requests of each arm that count in this step: those of the check that concerns the most. For
    arm ``shadow`` they are mirrored pairs.
    """
    return {
        arm: max((watched.get(one.id, {}).get(arm, Tally()).requests for one in checks), default=0)
        for arm in (ARM_STABLE, ARM_CANARY, ARM_SHADOW)
    }


def harm_key(bound: Bound) -> str:
    """Where a bound's tallies stand in ``Checkpoint.harm`` and its evidence in ``shares``; stable's
    apart from the canary's.
    """
    return f"{bound.id}|{ARM_STABLE}" if bound.arm == ARM_STABLE else bound.id


def _above(evidence: Checkpoint, bound: Bound, rules: Rules) -> float:
    """E-value against "the arm keeps the bound"."""
    found = evidence.shares.get(harm_key(bound), share.ShareEvidence())
    return share.above(found, rules.dispersion.get(bound.id, 1.0))


def _within_success(metric: Counted, evidence: Checkpoint) -> bool:
    """Whether the canary keeps its success bound, in this step and in the rollout as a whole."""
    bound = metric.success
    if bound is None:
        return False
    rates = [_harmed(evidence, bound).rate, _tally(evidence, bound.id, metric.arm).rate]
    return all(rate is None or rate <= bound.allowed for rate in rates)


def _harmed(evidence: Checkpoint, bound: Bound) -> Tally:
    return sum(evidence.harm.get(harm_key(bound), []), Tally())


def _tally(evidence: Checkpoint, check: str, arm: str) -> Tally:
    return evidence.watched.get(check, {}).get(arm, Tally())


def _compared(
    metric: Counted, evidence: Checkpoint, rules: Rules
) -> tuple[float | None, list[float] | None]:
    """The ratio to stable in this step, and its interval; without a ratio, the share's own."""
    if not rules.detailed:
        return None, None
    if metric.ratio is None:
        return None, _share_interval(metric, evidence, rules)
    found = evidence.ratios.get(metric.ratio.id)
    if found is None:
        return None, None
    point = ratio.estimate(found)
    spread = rules.dispersion.get(metric.ratio.id, 1.0)
    low, high = ratio.interval(found, INTERVAL_ALPHA, spread)
    shown = [_readable(one) for one in (low, high) if math.isfinite(one)]
    return (
        None if point is None or not math.isfinite(point) else _readable(point),
        shown if len(shown) == 2 else None,  # noqa: PLR2004 - both ends
    )


def _share_interval(metric: Counted, evidence: Checkpoint, rules: Rules) -> list[float] | None:
    """Of the arm's bad requests in this step; who sends many of them counts for fewer."""
    if metric.shown is None:
        return None
    tally = _tally(evidence, metric.shown.id, metric.arm)
    spread = rules.dispersion.get(metric.shown.id, 1.0)
    thinned = Tally(requests=int(tally.requests / spread), bad=int(tally.bad / spread))
    if not thinned.requests:
        return None
    return [_readable(end) for end in share_interval(thinned, INTERVAL_ALPHA)]


def _broken(bound: Bound, evidence: Checkpoint) -> str:
    seen = _at_worst(bound, evidence)
    what = _what(bound.check, bound.arm)
    return (
        f"{seen.bad} of {seen.requests} {bound.arm} requests {what} ({_percent(seen.rate)}), "
        f"{_percent(bound.allowed)} allowed"
    )


def _at_worst(bound: Bound, evidence: Checkpoint) -> Tally:
    """What shows best that a bound is broken: what came since it was last kept, the step, or the
    rollout.
    """
    found = evidence.shares.get(harm_key(bound), share.ShareEvidence())
    tallies = evidence.harm.get(harm_key(bound), [])
    lately = [
        Tally(requests=found.requests, bad=found.bad),
        evidence.excesses.get(bound.id, proportions.ExcessEvidence()).lately,
    ]
    return max([*lately, *tallies[-1:], _harmed(evidence, bound)], key=lambda one: one.rate or 0.0)


def _worse(metric: Counted, found: ratio.RatioEvidence, spread: float) -> str:
    assert metric.ratio is not None
    between = _times(metric.ratio.allowed, found, spread)
    match metric.ratio.check:
        case SlowCheck(bounds=bounds):
            times = bounds[ARM_CANARY] / bounds[ARM_STABLE]
            slow = duration(bounds[ARM_CANARY])
            return (
                f"the canary takes longer than {slow} ({times:.3g}x stable's bound) {between} "
                f"times as often as stable takes longer than {duration(bounds[ARM_STABLE])}"
            )
        case _:
            limit = f"{metric.ratio.allowed:.3g} allowed"
            return f"the canary fails {between} times as often as stable, {limit}"


def _times(allowed: float, found: ratio.RatioEvidence, spread: float) -> str:
    """How many times as often, as far as this step tells: harm may rest on earlier ones."""
    low, high = ratio.interval(found, INTERVAL_ALPHA, spread)
    if low < allowed:
        point = ratio.estimate(found)
        if point is None or not allowed < point < math.inf:
            return f"more than {allowed:.3g}"
        return f"about {point:.3g}"
    return f"{low:.3g} to {high:.3g}" if math.isfinite(high) else f"at least {low:.3g}"


def _what(check: Check, arm: str) -> str:
    match check:
        case SlowCheck(bounds=bounds):
            return f"took longer than {duration(bounds[arm])}"
        case _:
            return "failed"


def _judgement(
    metric: Compiled,
    verdict: Verdict,
    reason: str,
    *,
    stable: float | None = None,
    canary: float | None = None,
    e_value: float | None = None,
    threshold: float | None = None,
    compared: tuple[float | None, list[float] | None] = (None, None),
) -> Judgement:
    point, interval = compared
    status = MetricStatus(
        name=metric.name,
        verdict=verdict.name,
        dry_run=metric.dry_run,
        stable=stable,
        canary=canary,
        ratio=point,
        interval=interval,
        evidence=None if e_value is None else _readable(e_value),
        threshold=None if threshold is None else _readable(threshold),
        reason=reason,
    )
    return Judgement(verdict, status)


def worst(judgements: Sequence[Judgement]) -> Verdict:
    """The verdict of a look: the worst of those that decide."""
    return max(
        (one.verdict for one in judgements if not one.status.dry_run), default=Verdict.Inconclusive
    )


def bad_in_a_row(metrics: Sequence[Compiled], evidence: Checkpoint, rules: Rules) -> dict[str, int]:
    """Count the fresh answers to users' own queries that lie within rollback; what is no value
    neither counts nor resets.
    """
    counts = dict(evidence.queries)
    for metric in metrics:
        if not isinstance(metric, Queried) or metric.query.rollback is None:
            continue
        answer = rules.answers.get(metric.name)
        if isinstance(answer, Value):
            hit = metric.query.rollback.holds(answer.value)
            counts[metric.id] = counts.get(metric.id, 0) + 1 if hit else 0
    return counts


def _range(bounds: Range) -> str:
    parts = [("at least", bounds.min), ("at most", bounds.max)]
    return " and ".join(f"{word} {value:g}" for word, value in parts if value is not None)


def _percent(share: float | None) -> str:
    return "no requests" if share is None else f"{share * 100:.3g}%"


def _readable(value: float) -> float:
    return float(f"{value:.4g}")
