"""Whose turn it is: of all rollouts that want a model's traffic, one owns it."""

from collections.abc import Mapping

from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import FINISHED, CanaryRollout
from tidegate_operator.rollout import gate
from tidegate_operator.rollout.baseline import Baseline
from tidegate_operator.rollout.observation import Observation
from tidegate_operator.rollout.state import Finished, Started, State


def owner(
    seen: Observation, baseline: Baseline, states: Mapping[str, State]
) -> CanaryRollout | None:
    """The rollout that decides the model's split; ``states`` by uid.

    A started one keeps it until it is finished; else the oldest that could start now.
    """
    open_ = sorted(
        (
            one
            for one in seen.rollouts
            if one.status.phase not in FINISHED
            and not isinstance(states[one.metadata.uid], Finished)
        ),
        key=lambda one: one.metadata.age_order,
    )
    for one in open_:
        if isinstance(states[one.metadata.uid], Started):
            return one
    for one in open_:
        if gate.obstacle(one, baseline, seen) is None:
            return one
    return None


def policy(seen: Observation) -> BatchPolicy | None:
    """The BatchPolicy that holds for the model: the oldest."""
    return min(seen.policies, key=lambda one: one.metadata.age_order, default=None)
