"""A rollout's plan: the weights that it goes through."""

from collections.abc import Sequence

from tidegate_operator.api.canaryrollout import Spec, Step

DEFAULT_INITIAL, DEFAULT_STEP, DEFAULT_MAX = 5, 15, 100
DEFAULT_DURATION = "10m"


def resolve(spec: Spec) -> list[Step]:
    """The steps that a spec asks for, defaults filled in.

    Passing the last step below 100 is the promotion, so 100 has no duration::

        defaults                    -> 5 20 35 50 65 80 95 100
        initial 10, step 30, max 60 -> 10 40 60 100
    """
    top = spec.max_percent or DEFAULT_MAX
    rise = spec.step_percent or DEFAULT_STEP
    length = spec.step_duration or DEFAULT_DURATION
    percents = [*range(min(spec.initial_percent or DEFAULT_INITIAL, top), top, rise), top]
    steps = [Step(percent=percent, duration=length) for percent in percents if percent < 100]  # noqa: PLR2004
    return [*steps, Step(percent=100)]


def replan(current: Sequence[Step], step: int, spec: Spec) -> list[Step]:
    """The plan after an edit: what is behind stays, then the new plan's steps above the live
    weight.
    """
    done = list(current[: step + 1])
    weight = done[-1].percent if done else 0
    return done + [one for one in resolve(spec) if one.percent > weight]
