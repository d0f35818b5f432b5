"""Whose turn it is: of all objects that want a model's traffic, one owns it."""

from collections.abc import Iterable
from dataclasses import dataclass

from tidegate_operator.api import abtest, canaryrollout
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.rollout.observation import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """An object that is not finished. ``since``: when it joined the queue (epoch seconds), by its
    creation or its last retry. ``started``: it has the traffic; ``ready``: it could start now.
    """

    uid: str
    since: float
    started: bool
    ready: bool


def owner(contenders: Iterable[Contender]) -> str | None:
    """The uid of the one that decides the split: a started one keeps it until it is finished; else
    the oldest that could start now.
    """
    queue = sorted(contenders, key=lambda one: (one.since, one.uid))
    chosen = next((one for one in queue if one.started), None)
    chosen = chosen or next((one for one in queue if one.ready), None)
    return chosen.uid if chosen else None


def policy(seen: Observation) -> BatchPolicy | None:
    """The BatchPolicy that holds for the model: the oldest."""
    return min(seen.policies, key=lambda one: one.metadata.age_order, default=None)


def named(seen: Observation, uid: str | None) -> str:
    """Whom an object that could start waits for, as a sentence; ``uid``: the owner's."""
    objects: tuple[CanaryRollout | ABTest, ...] = (*seen.rollouts, *seen.tests)
    for one in objects:
        if one.metadata.uid == uid:
            kind = abtest.KIND if isinstance(one, ABTest) else canaryrollout.KIND
            whose = f"{kind} {one.metadata.name}, which owns the traffic of {seen.model}"
            break
    else:
        assert seen.busy is not None, "what could start owns the traffic, or is kept from it"
        whose = f"{seen.busy.kind} {seen.busy.name}, which moves another model's traffic"
        whose += " in the same pods"
    return f"Waits for {whose}; starts when it is finished or deleted"
