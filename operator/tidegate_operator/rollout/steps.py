"""A rollout's plan: the weights that it goes through, and what each of them asks for.

The last step of a plan is the promotion: it has no duration, as reaching it is the end. A rollout
that only mirrors has one step of 0% and no promotion.
"""

from collections.abc import Sequence

from tidegate_operator.api.canaryrollout import Spec, Step

DEFAULT_INITIAL, DEFAULT_STEP, DEFAULT_MAX = 5, 15, 100
DEFAULT_DURATION = "10m"
_ALL = 100


def resolve(spec: Spec) -> list[Step]:
    """The steps that a spec asks for, defaults filled in.

    What is not promoted by itself is watched at its largest weight, too, and then waits at a gate::

        defaults                    -> 5 20 35 50 65 80 95 100
        initial 10, step 30, max 60 -> 10 40 60 100
        the same, autoPromote false -> 10 40 60 100 (gate)
        maxPercent 0                -> 0
    """
    steps = list(spec.steps) if spec.steps is not None else _rising(spec)
    if spec.shadow_only:
        return steps
    last = steps[-1]
    if spec.auto_promote:
        watched = steps[:-1] if last.percent == _ALL else steps
        gate = last.gate if last.percent == _ALL else None
        return [*watched, Step(percent=_ALL, gate=gate)]
    if last.percent == _ALL:
        length = last.duration or steps[max(len(steps) - 2, 0)].duration or DEFAULT_DURATION
        steps[-1] = Step(percent=_ALL, duration=length, gate=last.gate)
    return [*steps, Step(percent=_ALL, gate="Manual")]


def _rising(spec: Spec) -> list[Step]:
    top = DEFAULT_MAX if spec.max_percent is None else spec.max_percent
    rise = spec.step_percent or DEFAULT_STEP
    length = spec.step_duration or DEFAULT_DURATION
    percents = [*range(min(spec.initial_percent or DEFAULT_INITIAL, top), top, rise), top]
    return [
        Step(percent=_ALL) if percent == _ALL else Step(percent=percent, duration=length)
        for percent in percents
    ]


def replan(current: Sequence[Step], step: int, spec: Spec) -> list[Step]:
    """The plan after an edit: what is behind stays, then the new plan's steps above the live
    weight.
    """
    done = list(current[: step + 1])
    weight = done[-1].percent if done else -1
    planned = resolve(spec)
    ahead = [one for one in planned if one.percent > weight or one.duration is None]
    return done + ahead
