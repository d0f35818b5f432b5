"""Does the treatment do harm? A test's guardrails, as checks that sidecars count and as verdicts.

The level is shared by all guardrails (any of them ends the test), and each may be looked at always.
An error rate does harm only where it is shown to be more than the allowed times control's AND more
than the allowed excess above it: the smaller of the two E-values is one against "at least one of
the bounds is kept". A latency is compared as a rollout's is: control counted slower than its own
quantile b from before the test, the treatment slower than R b.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from tidegate_contract.names import ARM_CONTROL, ARM_TREATMENT
from tidegate_contract.table import Check, ErrorCheck, SlowCheck
from tidegate_operator.api.abtest import ABTest, Checkpoint, Guardrail, MetricStatus
from tidegate_operator.api.quantity import duration
from tidegate_operator.evidence import counters, gathered, proportions, ratio
from tidegate_operator.evidence.dispersion import dispersion
from tidegate_operator.evidence.gathered import ARMS, BAD, REQUESTS
from tidegate_operator.evidence.tally import Tally

INTERVAL_ALPHA = 0.05
"""Intervals that are shown hold with 95%."""


@dataclass(frozen=True, slots=True)
class Guard:
    """A guardrail. ``check``: None where control's latency before the test is not known.
    ``allowed``: ratio of the shares of bad requests; ``excess``: difference of them, None where
    every one counts.
    """

    name: str
    check: Check | None
    allowed: float
    excess: float | None
    words: str


def answered(test: ABTest) -> ErrorCheck:
    """Counts every answer of either arm: what outcomes are a share of, and errors too."""
    return ErrorCheck(id=_id(test, "answers", None), arms=list(ARMS))


def compile_guards(test: ABTest, pinned: Mapping[str, float]) -> list[Guard]:
    """The guardrails. ``pinned``: by name, control's latency before the test, in seconds."""
    return [_compile(test, one, pinned.get(one.name)) for one in test.spec.guardrails]


def checks(test: ABTest, pinned: Mapping[str, float]) -> list[Check]:
    """What sidecars are to count, each once."""
    mine = [answered(test), *(guard.check for guard in compile_guards(test, pinned))]
    return list({check.id: check for check in mine if check is not None}.values())


def observe(
    evidence: Checkpoint, window: counters.Window, test: ABTest, planned_looks: int
) -> Checkpoint:
    """The evidence of harm with what was counted since the last look."""
    ratios, excesses = dict(evidence.ratios), dict(evidence.excesses)
    for guard in compile_guards(test, evidence.pinned):
        strata = window.strata.get(guard.check.id, []) if guard.check else []
        if not strata:
            continue
        pairs = [tuple(one.arms.get(arm, Tally()) for arm in ARMS) for one in strata]
        ratios[guard.name] = ratio.observe(
            ratios.get(guard.name, ratio.RatioEvidence()),
            [ratio.Stratum(t.requests, t.bad, c.requests, c.bad) for c, t in pairs],
            max_ratio=guard.allowed,
            planned_looks=planned_looks,
        )
        if guard.excess is not None:
            excesses[guard.name] = proportions.observe(
                excesses.get(guard.name, proportions.ExcessEvidence()),
                sum((t for _, t in pairs), Tally()),
                sum((c for c, _ in pairs), Tally()),
                excess=guard.excess,
                planned_looks=planned_looks,
            )
    return msgspec.structs.replace(evidence, ratios=ratios, excesses=excesses)


def judge(test: ABTest, evidence: Checkpoint) -> list[MetricStatus]:
    """Every guardrail's row: Fail where harm is shown, Pass where none is."""
    threshold = len(test.spec.guardrails) / test.spec.significance_level
    return [
        _judge(test, guard, evidence, threshold) for guard in compile_guards(test, evidence.pinned)
    ]


def _judge(test: ABTest, guard: Guard, evidence: Checkpoint, threshold: float) -> MetricStatus:
    if guard.check is None:
        reason = "how fast control was before the test is not known: too few requests"
        return MetricStatus(name=guard.name, verdict="Inconclusive", reason=reason)
    sums = gathered.requests(evidence, guard.check.id)
    control, treatment = (_tally(arm) for arm in sums)
    spread = _spread(sums) if test.spec.assignment else 1.0
    found = evidence.ratios.get(guard.name, ratio.RatioEvidence())
    e_value, shown = ratio.harm(found, spread), treatment
    if guard.excess is not None:
        excess = evidence.excesses.get(guard.name, proportions.ExcessEvidence())
        e_value = min(e_value, proportions.above(excess, spread))
        shown = max(treatment, excess.lately, key=lambda one: one.rate or 0.0)
    failed = e_value >= threshold
    rates = f"{_percent(shown.rate)} {guard.words}, against control's {_percent(control.rate)}"
    return MetricStatus(
        name=guard.name,
        verdict="Fail" if failed else "Pass" if treatment.requests else "Inconclusive",
        control=control.rate,
        treatment=treatment.rate,
        lift=_lift(control.rate, treatment.rate),
        interval=_interval(found, spread),
        evidence=float(f"{e_value:.4g}"),
        threshold=float(f"{threshold:.4g}"),
        reason=rates if failed else "no harm shown" if treatment.requests else "gathering",
    )


def _spread(sums: gathered.Floats) -> float:
    """How much more bad requests vary between groups of users than by chance."""
    return float(dispersion(*((arm[:, REQUESTS], arm[:, BAD]) for arm in sums)))


def _compile(test: ABTest, guardrail: Guardrail, pinned: float | None) -> Guard:
    if guardrail.error_rate is not None:
        rate = guardrail.error_rate
        check = answered(test)
        return Guard(guardrail.name, check, rate.max_ratio_to_control, rate.max_excess, "errors")
    latency = guardrail.latency
    assert latency is not None, "the CRD demands exactly one kind"
    if pinned is None:
        return Guard(guardrail.name, None, 1.0, None, "")
    slower = latency.max_ratio_to_control * pinned
    slow = SlowCheck(
        id=_id(test, guardrail.name, pinned),
        bounds={ARM_CONTROL: pinned, ARM_TREATMENT: slower},
        priorities=latency.priorities,
    )
    words = f"slower than {duration(slower)}, {latency.max_ratio_to_control:g}x control's quantile"
    return Guard(guardrail.name, slow, 1.0, None, words)


def _id(test: ABTest, name: str, measured: float | None) -> str:
    """A check's id; tests do not share counters, and neither do definitions."""
    definition = msgspec.json.encode((test.metadata.uid, name, measured))
    return f"{name}/ratio@{hashlib.sha256(definition).hexdigest()[:8]}"


def _tally(arm: gathered.Floats) -> Tally:
    counts = arm.sum(axis=0)
    return Tally(requests=round(counts[REQUESTS]), bad=round(counts[BAD]))


def _interval(found: ratio.RatioEvidence, spread: float) -> list[float] | None:
    shown = ratio.interval(found, INTERVAL_ALPHA, spread)
    if shown.high == float("inf"):
        return None
    return [float(f"{value:.4g}") for value in shown]


def _lift(control: float | None, treatment: float | None) -> float | None:
    return None if not control or treatment is None else treatment / control - 1.0


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share * 100:.3g}%"
