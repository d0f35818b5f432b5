"""Which policies are tried: a candidate, how a trial draws one, and how it is written down."""

from dataclasses import dataclass
from typing import Any, Final

import optuna
import yaml

from tidegate_contract import names
from tidegate_contract.table import BatchSettings

MOST_WAIT: Final = 50
"""Milliseconds: beyond, waiting for company costs more than any model's fixed part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is searched of a policy. ``max_wait``: seconds."""

    max_batch_size: int
    max_wait: float
    optimize: str
    strategy: str
    aging_reserve: float

    def settings(self, base: BatchSettings) -> BatchSettings:
        """The candidate with what is not searched."""
        return BatchSettings(
            **{name: getattr(base, name) for name in base.__struct_fields__}
            | {name: getattr(self, name) for name in self.__slots__}
        )

    def spec(self) -> dict[str, Any]:
        """As fields of a BatchPolicy's spec."""
        return {
            "strategy": self.strategy,
            "maxBatchSize": self.max_batch_size,
            "maxWait": f"{round(self.max_wait * 1000)}ms",
            "optimize": self.optimize,
            "priorities": {"agingReserve": round(self.aging_reserve, 3)},
        }


def draw(trial: optuna.Trial, most: int) -> Candidate:
    """The candidate of a trial. ``most``: rows that the model takes."""
    return Candidate(
        max_batch_size=trial.suggest_int("maxBatchSize", 1, most, log=True),
        max_wait=trial.suggest_int("maxWait", 0, MOST_WAIT) / 1000,
        optimize=trial.suggest_categorical("optimize", ("Throughput", "Latency")),
        strategy=trial.suggest_categorical("strategy", ("Adaptive", "Fixed")),
        aging_reserve=trial.suggest_float("agingReserve", 0.01, 0.2, log=True),
    )


def baseline(most: int) -> dict[str, Any]:
    """The defaults, as parameters of the first trial: what everything is compared with."""
    default = BatchSettings()
    return {
        "maxBatchSize": most,
        "maxWait": round(default.max_wait * 1000),
        "optimize": default.optimize,
        "strategy": default.strategy,
        "agingReserve": default.aging_reserve,
    }


def manifest(model: str, candidate: Candidate, comment: str) -> str:
    """A BatchPolicy, ready to apply. ``comment``: lines that say how it was found."""
    document = {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": "BatchPolicy",
        "metadata": {"name": model},
        "spec": {"models": [model], **candidate.spec()},
    }
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + yaml.safe_dump(document, sort_keys=False)
