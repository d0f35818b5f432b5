"""What a test's evidence says: which version does better, or why nobody can tell.

Success metrics are compared by asymptotic confidence sequences over buckets of users (``means``)
and corrected for their number (Holm); guardrails and the users' shares have tests of their own. All
of them may be looked at always. Of the verdicts, harm comes first, then a split that is not as
asked (whose other numbers mean nothing), then the success metrics.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tidegate_contract.names import ARM_CONTROL, ARM_TREATMENT
from tidegate_operator.api.abtest import (
    ABTest,
    Checkpoint,
    Feedback,
    MetricStatus,
    Rated,
    SampleRatio,
    Samples,
    Spec,
    SuccessMetric,
    Verdict,
)
from tidegate_operator.evidence import gathered, guardrails, means, planning, srm
from tidegate_operator.evidence.gathered import (
    BAD,
    COUNT,
    COVARIATE,
    REQUESTS,
    SQUARES,
    SUM,
    Floats,
)
from tidegate_operator.evidence.interval import Interval
from tidegate_operator.evidence.multiplicity import holm

FEWEST_OUTCOMES = 500
"""Of each arm: intervals of means hold for large samples only."""
_FEEDBACK_LEVEL = 0.001
"""At which the arms' shares of answers with feedback are said to differ."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A success metric of both arms. ``n``: outcomes of control and of treatment. ``units``:
    independent units of both. ``effect``: None where there is too little to compare.
    """

    metric: SuccessMetric
    n: tuple[int, int]
    values: tuple[float | None, float | None]
    effect: means.Effect | None
    units: float

    def p(self, alpha: float, expected: int) -> float:
        """Always-valid p of "there is no difference"."""
        if self.effect is None:
            return 1.0
        return means.p_value(self.effect, self.units, alpha, expected)

    def interval(self, alpha: float, expected: int) -> Interval:
        """Differences that are not excluded."""
        if self.effect is None:
            return Interval(-math.inf, math.inf)
        return means.interval(self.effect, self.units, alpha, expected)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a look says. ``reason``: in words. ``pace``: how many times the present evidence a
    decision takes if the differences stay as they are; None: it is not in sight.
    """

    verdict: Verdict
    reason: str
    metrics: tuple[MetricStatus, ...]
    samples: Samples
    sample_ratio: SampleRatio | None
    pace: float | None

    @property
    def harmful(self) -> bool:
        """Whether the test must end at once, whatever its plan."""
        return self.verdict in {"GuardrailFailed", "SampleRatioMismatch"}

    @property
    def decided(self) -> bool:
        """Whether there is an answer to the test's question."""
        return self.verdict in {"TreatmentWins", "ControlWins", "NoDifference"}


def judge(test: ABTest, evidence: Checkpoint) -> Judgement:
    """The verdict as of now, as if the test were to end now."""
    spec = test.spec
    samples = _samples(test, evidence)
    guards = guardrails.judge(test, evidence)
    split = _sample_ratio(spec, evidence)
    compared = [_compare(test, one, evidence) for one in spec.success_metrics]
    rows = _rows(test, evidence, compared)
    verdict, reason = _weigh(spec, samples, guards, split, rows)
    return Judgement(
        verdict=verdict,
        reason=reason,
        metrics=(*rows, *guards),
        samples=samples,
        sample_ratio=split,
        pace=_pace(spec, samples, compared),
    )


def _weigh(
    spec: Spec,
    samples: Samples,
    guards: Sequence[MetricStatus],
    split: SampleRatio | None,
    rows: Sequence[MetricStatus],
) -> tuple[Verdict, str]:
    if (stop := _stop(spec, guards, split)) is not None:
        return stop
    fewest = min(samples.control, samples.treatment)
    if fewest < spec.min_samples:
        units = "users" if spec.assignment else "requests"
        return "Inconclusive", f"{fewest} of the {spec.min_samples} {units} that each arm needs"
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row.verdict, []).append(f"{row.name} {row.reason}")
    wins, losses = found.get("TreatmentWins"), found.get("ControlWins")
    if wins and losses:
        return "Inconclusive", f"the metrics contradict each other: {'; '.join(wins + losses)}"
    open_guards = [f"{guard.name}: {guard.reason}" for guard in guards if guard.verdict != "Pass"]
    if wins and open_guards:
        listed = "; ".join(open_guards)
        return "Inconclusive", f"{'; '.join(wins)}, but nobody can tell of harm ({listed})"
    if wins:
        return "TreatmentWins", "; ".join(wins)
    if losses:
        return "ControlWins", "; ".join(losses)
    if len(found.get("NoDifference", [])) == len(rows):
        return "NoDifference", "; ".join(found["NoDifference"])
    return "Inconclusive", "; ".join(found["Inconclusive"])


def _stop(
    spec: Spec, guards: Sequence[MetricStatus], split: SampleRatio | None
) -> tuple[Verdict, str] | None:
    """What ends a test whatever its success metrics say."""
    for guard in guards:
        if guard.verdict == "Fail":
            return "GuardrailFailed", f"{guard.name}: {guard.reason}"
    if split is not None and split.verdict == "Mismatch":
        return "SampleRatioMismatch", (
            f"of {split.control + split.treatment} users in a sample {split.treatment} came to the "
            f"treatment, not {spec.treatment_percent}%: something loses users of one arm"
        )
    return None


def _rows(test: ABTest, evidence: Checkpoint, compared: Sequence[Comparison]) -> list[MetricStatus]:
    spec = test.spec
    alpha = spec.significance_level / len(compared)
    corrected = holm([one.p(alpha, spec.expected_samples) for one in compared])
    return [_row(test, evidence, one, p) for one, p in zip(compared, corrected, strict=True)]


def _row(test: ABTest, evidence: Checkpoint, one: Comparison, p: float) -> MetricStatus:
    spec = test.spec
    control, treatment = one.values
    low, high = one.interval(
        spec.significance_level / len(spec.success_metrics), spec.expected_samples
    )
    verdict, reason = _told(spec, one, p, (low, high))
    lift = None
    if one.effect is not None and control:
        lift = one.effect.difference / abs(control)
    rated, warning = _rated(test, evidence, one)
    return MetricStatus(
        name=one.metric.name,
        verdict=verdict,
        control=_readable(control),
        treatment=_readable(treatment),
        lift=_readable(lift),
        interval=None if math.isinf(low) else [float(f"{low:.4g}"), float(f"{high:.4g}")],
        p=float(f"{p:.3g}"),
        threshold=spec.significance_level,
        rated=rated,
        reason=reason + warning,
    )


def _told(
    spec: Spec, one: Comparison, p: float, interval: tuple[float, float]
) -> tuple[Verdict, str]:
    """A success metric's own verdict and why."""
    wanted = min(FEWEST_OUTCOMES, spec.min_samples)
    if one.effect is None or min(one.n) < wanted:
        return "Inconclusive", f"has {min(one.n)} of the {wanted} outcomes that each arm needs"
    shown = f"{one.values[0]:.4g} against {one.values[1]:.4g}"
    low, high = interval
    matters = one.metric.source.min_effect
    if matters is not None and -matters < low and high < matters:
        return "NoDifference", f"differs by less than {matters:g} ({shown})"
    if p > spec.significance_level:
        return "Inconclusive", f"is not told apart (p {p:.2g})"
    better = (one.effect.difference > 0) == (one.metric.source.goal == "Increase")
    verdict: Verdict = "TreatmentWins" if better else "ControlWins"
    return verdict, f"is {'better' if better else 'worse'} with the treatment ({shown}, p {p:.2g})"


def _compare(test: ABTest, metric: SuccessMetric, evidence: Checkpoint) -> Comparison:
    if metric.feedback is None:
        return _compare_queried(metric, evidence)
    sums = gathered.outcomes(evidence, metric.name)
    counts = sums[:, :, COUNT].sum(axis=1)
    n = round(counts[0]), round(counts[1])
    if min(n) < 2:  # noqa: PLR2004 - no variance
        return Comparison(metric, n, (None, None), None, 0.0)
    if test.spec.assignment is None:
        control, treatment = (_independent(metric.feedback, arm) for arm in sums)
        values = control.mean, treatment.mean
        effect = means.effect(control, treatment)
        if metric.feedback.kind == "Binary":
            effect = _no_surer(n, values, effect)
        return Comparison(metric, n, values, effect, float(sum(n)))
    arms = [means.Buckets(arm[:, COUNT], arm[:, SUM], arm[:, COVARIATE]) for arm in sums]
    values = arms[0].mean, arms[1].mean
    units = float(sum(evidence.users.seen))
    buckets = sum(len(arm.n) for arm in arms)
    if test.spec.covariate is not None:
        arms = list(means.cuped(arms[0], arms[1]))
    effect = means.effect(arms[0], arms[1])
    if metric.feedback.kind == "Binary" and test.spec.covariate is None:
        effect = _no_surer(n, values, effect)
    effect = means.few_buckets(
        effect,
        buckets,
        test.spec.significance_level / len(test.spec.success_metrics),
        max(units, 2.0),
        test.spec.expected_samples,
    )
    return Comparison(metric, n, values, effect, units)


def _no_surer(n: tuple[int, int], values: tuple[float, float], found: means.Effect) -> means.Effect:
    """The effect of shares, no surer than so many independent outcomes of yes or no can make it.

    Where all are right there is no scatter, but that is not all there is to know: one success and
    one failure are added to each arm (Agresti and Caffo 2000, "Simple and effective confidence
    intervals for proportions").
    """
    shares = [(mean * count + 1) / (count + 2) for mean, count in zip(values, n, strict=True)]
    least = sum(p * (1 - p) / (count + 2) for p, count in zip(shares, n, strict=True))
    return means.Effect(found.difference, max(found.error, math.sqrt(least)))


def _compare_queried(metric: SuccessMetric, evidence: Checkpoint) -> Comparison:
    counted = [
        [_risen(evidence, metric.name, arm, part) for part in ("total", "successes")]
        for arm in (ARM_CONTROL, ARM_TREATMENT)
    ]
    n = counted[0][0], counted[1][0]
    if min(n) < 2:  # noqa: PLR2004 - no variance
        return Comparison(metric, n, (None, None), None, 0.0)
    control, treatment = (
        means.Units.of_successes(total, min(successes, total)) for total, successes in counted
    )
    values = control.mean, treatment.mean
    effect = _no_surer(n, values, means.effect(control, treatment))
    return Comparison(metric, n, values, effect, float(sum(n)))


@dataclass(frozen=True, slots=True)
class Question:
    """A user's own query; ``values``: of what it may name with a ``$`` before it."""

    query: str
    values: dict[str, str]


def questions(test: ABTest) -> dict[str, Question]:
    """What is to be asked of Prometheus at every look, by the names that the answers go by."""
    spec, found = test.spec, {}
    versions = {ARM_CONTROL: spec.control_version, ARM_TREATMENT: spec.treatment_version}
    for metric in spec.success_metrics:
        if metric.prometheus is None:
            continue
        queries = {"successes": metric.prometheus.successes, "total": metric.prometheus.total}
        for arm, version in versions.items():
            values = {
                "model": spec.model,
                "version": str(version),
                "arm": arm,
                "namespace": test.metadata.namespace,
            }
            for part, query in queries.items():
                found[_name(metric.name, arm, part)] = Question(query, values)
    return found


def _name(metric: str, arm: str, part: str) -> str:
    return f"{metric}/{arm}/{part}"


def _risen(evidence: Checkpoint, metric: str, arm: str, part: str) -> int:
    return round(evidence.queried.get(_name(metric, arm, part), [0.0, 0.0])[1])


def _independent(feedback: Feedback, arm: Floats) -> means.Units:
    """An arm whose every outcome is a unit of its own."""
    count, total, squares = (float(arm[:, part].sum()) for part in (COUNT, SUM, SQUARES))
    if feedback.kind == "Binary":
        return means.Units.of_successes(round(count), round(total))
    return means.Units.of_values(round(count), total, squares)


def _samples(test: ABTest, evidence: Checkpoint) -> Samples:
    if test.spec.assignment is not None:
        control, treatment = evidence.users.seen
    else:
        counts = gathered.requests(evidence, guardrails.answered(test).id)[:, :, REQUESTS]
        control, treatment = (round(float(arm.sum())) for arm in counts)
    return Samples(control=control, treatment=treatment)


def _sample_ratio(spec: Spec, evidence: Checkpoint) -> SampleRatio | None:
    """Whether users came to the arms as asked.

    Halving the sample chooses anew among the users seen so far, after a look at them: so each
    number of halvings h gets its own share 1 / ((h + 1) (h + 2)) of the level; these add up to 1.
    """
    control, treatment = evidence.users.sampled
    if spec.assignment is None or not control + treatment:
        return None
    halvings = evidence.users.halvings
    threshold = srm.MISMATCH * (halvings + 1) * (halvings + 2)
    counts, share = [control, treatment], spec.treatment_percent / 100
    shares = [1 - share, share]
    e_value = srm.mismatch(counts, shares)
    return SampleRatio(
        verdict="Mismatch" if e_value >= threshold else "AsAsked",
        control=control,
        treatment=treatment,
        evidence=float(f"{e_value:.4g}"),
        threshold=threshold,
        p=float(f"{srm.chi_squared_p(counts, shares):.2g}"),
    )


def _rated(test: ABTest, evidence: Checkpoint, one: Comparison) -> tuple[Rated | None, str]:
    """How many of the answers were rated, and a warning where this differs between the arms: then
    those who rate may differ, too.
    """
    if one.metric.feedback is None:
        return None, ""
    requests = gathered.requests(evidence, guardrails.answered(test).id)
    answers = requests[:, :, REQUESTS] - requests[:, :, BAD]
    counts = gathered.outcomes(evidence, one.metric.name)[:, :, COUNT]
    totals, rated = answers.sum(axis=1), counts.sum(axis=1)
    if min(*totals, *rated) < 2:  # noqa: PLR2004 - no variance
        return None, ""
    arms: list[means.Units | means.Buckets]
    expected = test.spec.expected_samples
    if test.spec.assignment is None:
        units = float(totals.sum())
        arms = [
            means.Units.of_successes(round(n), round(min(k, n)))
            for n, k in zip(totals, rated, strict=True)
        ]
        effect = means.effect(arms[0], arms[1])
    else:
        units = max(float(sum(evidence.users.seen)), 2.0)
        arms = [means.Buckets(n, k) for n, k in zip(answers, counts, strict=True)]
        buckets = int((answers > 0).sum())
        effect = means.effect(arms[0], arms[1])
        effect = means.few_buckets(effect, buckets, _FEEDBACK_LEVEL, units, expected)
    control, treatment = (float(f"{arm.mean:.4g}") for arm in arms)
    shown = Rated(control=control, treatment=treatment)
    if means.p_value(effect, units, _FEEDBACK_LEVEL, expected) > _FEEDBACK_LEVEL:
        return shown, ""
    return shown, (
        f"; beware: {control:.1%} of control's answers were rated and {treatment:.1%} of the "
        "treatment's, so those who rated may differ"
    )


def _pace(spec: Spec, samples: Samples, compared: Sequence[Comparison]) -> float | None:
    """As of ``Judgement.pace``: the nearest of the metrics, but not before the samples suffice."""
    fewest = min(samples.control, samples.treatment)
    if not fewest:
        return None
    alpha = spec.significance_level / len(compared)
    paces = []
    for one in compared:
        if one.effect is None or one.units < 2:  # noqa: PLR2004 - no variance
            continue
        needed = planning.units_at_decision(
            one.effect,
            one.units,
            alpha,
            spec.expected_samples,
            one.metric.source.min_effect or 0.0,
        )
        if needed is not None:
            paces.append(needed / one.units)
    return max(min(paces), spec.min_samples / fewest, 1.0) if paces else None


def _readable(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
