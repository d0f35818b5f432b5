"""The short look at a model in which nothing but a step's evidence has moved: most looks are that.

It says what ``model.decide`` would say, but for the ratios that are only shown, for a fraction of
the work; or that everything has to be decided anew.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec

from tidegate_operator.api.canaryrollout import FINISHED
from tidegate_operator.rollout import canary, verbs
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.state import State, Stepping

T = TypeVar("T")


def glance(
    seen: Observation, remembered: Mapping[str, T], *, detailed: bool
) -> dict[str, T | State] | None:
    """The states by uid after this look, where at most the progress of one step differs from what
    is remembered; None where everything has to be decided anew. Objects, pods and the table must
    be those of a look that had nothing else to write. ``detailed``: ratios are to be shown, too.
    """
    if seen.tests:
        return None
    running = [one for one in seen.rollouts if one.status.phase not in FINISHED]
    if len(running) != 1 or verbs.spoken(running[0].metadata) is not None:
        return None
    uid = running[0].metadata.uid
    before = remembered.get(uid)
    if not isinstance(before, Stepping) or before.run.evidence.live_since is None:
        return None
    after = canary.advance(running[0], before, replace(seen, detailed=detailed))
    if not isinstance(after, Stepping) or _meaning(after) != _meaning(before):
        return None
    return {**remembered, uid: after if detailed else _with_details(before, after)}


def _with_details(before: Stepping, after: Stepping) -> Stepping:
    """With the ratios and intervals that were shown last."""
    shown = {one.name: one for one in before.run.metrics}
    metrics = [
        msgspec.structs.replace(one, ratio=shown[one.name].ratio, interval=shown[one.name].interval)
        if one.name in shown
        else one
        for one in after.run.metrics
    ]
    return replace(after, run=replace(after.run, metrics=tuple(metrics)))


def _meaning(state: Stepping) -> tuple[object, ...]:
    """All of a state but its progress."""
    run = state.run
    return (
        state.hold,
        state.reason,
        state.message,
        state.clock_since,
        run.evidence.step,
        run.evidence.passed,
        run.verdict,
        run.revision,
        run.plan,
    )
