"""What the models of one pod share: the device, which serves one after the other.

A batch of a low level that takes long makes a high one wait that comes right after it, whatever
the queues do, as Triton cannot be asked to break off. So while a higher level is alive anywhere in
the pod, levels with a bound send no more at a time than their bound says, only one such slice is in
flight, and none is sent while anybody higher waits or is in flight. Nobody high alive, nothing is
cut.
"""

from typing import Final, Protocol

ALIVE: Final = 1.0
"""Seconds after its last request for which a level counts as alive."""


class Traffic(Protocol):
    """One model's requests, by level from 1; in each list 0 is none."""

    came: list[float]
    """When a request of each level came last."""
    counts: list[int]
    """How many wait."""
    flying: list[int]
    """How many batches with one of that level on top are in flight."""


class Device:
    """What each scheduler of a pod is told of the others. ``slices``: in flight."""

    def __init__(self) -> None:
        self.slices = 0
        self._models: list[Traffic] = []

    def join(self, model: Traffic) -> None:
        """Count a model's requests."""
        self._models.append(model)

    def leave(self, model: Traffic) -> None:
        """Count a model's requests no more."""
        self._models.remove(model)

    def alive_above(self, level: int, now: float) -> bool:
        """Whether a level above this one is alive: came lately, waits or is in flight."""
        since = now - ALIVE
        return self.present_above(level) or any(
            max(model.came[:level]) > since for model in self._models
        )

    def present_above(self, level: int) -> bool:
        """Whether anybody of a level above this one waits or is in flight."""
        return any(any(model.counts[:level]) or any(model.flying[:level]) for model in self._models)
