"""Trials in virtual time: the same traffic, the same scheduler, a device that is a cost model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tidegate_batcher.adaptive import Adaptive
from tidegate_batcher.fixed import Fixed
from tidegate_batcher.simulator import Arrivals, Model, Simulation, Trace
from tidegate_batcher.strategy import Strategy
from tidegate_contract.table import BatchSettings
from tidegate_load.schedule import Schedule
from tidegate_load.users import User
from tidegate_tune.score import ClassOutcome, Outcome
from tidegate_tune.space import Candidate

_STRATEGIES: dict[str, Callable[[], Strategy]] = {"Adaptive": Adaptive, "Fixed": Fixed}
_NOISE = 0.05
"""Sigma of the logarithm of a batch's time: no device takes equally long for equal work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What batches of n rows take: ``fixed`` + ``per_row`` n seconds; at most ``most`` rows."""

    fixed: float
    per_row: float
    most: int
    slots: int

    def efficiency(self, rows: float) -> float:
        """Rows a second of batches of so many, to those of the largest."""
        if not rows:
            return 0.0
        each = (self.fixed + self.per_row * rows) / rows
        best = (self.fixed + self.per_row * self.most) / self.most
        return best / each if each else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulated:
    """Tries candidates. ``target``: seconds, for users without a deadline."""

    model: str
    cost: Cost
    schedule: Schedule
    users: Sequence[User]
    target: float
    seed: int

    def __call__(self, candidate: Candidate) -> Outcome:
        """What the traffic comes to under a candidate."""
        cost = self.cost
        model = Model(
            fixed=cost.fixed,
            per_row=cost.per_row,
            noise=_NOISE,
            slots=cost.slots,
            most=cost.most,
            settings=candidate.settings(BatchSettings()),
            strategy=_STRATEGIES[candidate.strategy](),
        )
        load = Trace(model=self.model, arrivals=self._arrivals())
        rng = np.random.default_rng(self.seed)
        found = Simulation({self.model: model}, [load], [], rng).run(self.schedule.seconds)
        outcome = found[self.model]
        classes = [
            ClassOutcome(
                name=str(level),
                offered=outcome.offered[level],
                answered=outcome.in_time[level],
                p99=outcome.quantile(0.99, level),
                target=self._target(level),
            )
            for level, offered in enumerate(outcome.offered)
            if offered
        ]
        rows = outcome.rows / outcome.batches if outcome.batches else 0.0
        return Outcome(classes, cost.efficiency(rows))

    def _arrivals(self) -> Arrivals:
        """The schedule as the simulator takes it; levels stand for users."""
        highest = len(BatchSettings().levels)
        levels = np.array([min(one.priority, highest) for one in self.users])
        deadlines = np.array([np.inf if u.deadline is None else u.deadline for u in self.users])
        who = self.schedule.users
        rows = self.schedule.rows
        return Arrivals(self.schedule.times, levels[who], rows, deadlines[who])

    def _target(self, level: int) -> float:
        """The tightest deadline of the level's users."""
        highest = len(BatchSettings().levels)
        mine = [one.deadline for one in self.users if min(one.priority, highest) == level]
        return min((one for one in mine if one is not None), default=self.target)
