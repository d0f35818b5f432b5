"""Which policies are tried: a candidate, how a trial draws one, and how it is written down."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import optuna
import yaml

from tidegate_contract import names
from tidegate_contract.table import BatchSettings

MOST_WAIT: Final = 50
"""Milliseconds: beyond, waiting for company costs more than any model's fixed part."""

_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION: Final = re.compile(r"(\d+)(ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Space:
    """What may be tried. ``least`` and ``most``: of ``maxBatchSize``, rows. ``shortest`` and
    ``longest``: of ``maxWait``, milliseconds.
    """

    most: int
    least: int = 1
    longest: int = MOST_WAIT
    shortest: int = 0
    strategies: tuple[str, ...] = ("Adaptive", "Fixed")

    @classmethod
    def within(cls, spec: Mapping[str, Any], most: int) -> "Space":
        """What the other fields of a BatchPolicy's spec leave; the API server refuses the rest."""
        least = spec.get("minBatchSize", 1)
        target, deadline = spec.get("targetLatency"), spec.get("deadline", {}).get("default", "")
        bounds = [_milliseconds(one) - 1 for one in (target or "", deadline) if _milliseconds(one)]
        longest = min(MOST_WAIT, *bounds) if bounds else MOST_WAIT
        if least == 1:
            return cls(max(most, least), least, longest)
        shortest = 0 if target else min(1, longest)  # a least is nothing where nobody waits
        return cls(max(most, least), least, longest, shortest, ("Adaptive",))


def _milliseconds(duration: str) -> int:
    """Of a duration as the API has it: ``50ms``, ``1m30s``."""
    return sum(int(number) * _MILLISECONDS[unit] for number, unit in _DURATION.findall(duration))


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


def draw(trial: optuna.Trial, space: Space) -> Candidate:
    """The candidate of a trial."""
    strategy = trial.suggest_categorical("strategy", space.strategies)
    optimize = "Throughput"
    if strategy == "Adaptive":  # Fixed weighs neither
        optimize = trial.suggest_categorical("optimize", ("Throughput", "Latency"))
    return Candidate(
        max_batch_size=trial.suggest_int("maxBatchSize", space.least, space.most, log=True),
        max_wait=trial.suggest_int("maxWait", space.shortest, space.longest) / 1000,
        optimize=optimize,
        strategy=strategy,
        aging_reserve=trial.suggest_float("agingReserve", 0.01, 0.2, log=True),
    )


def baseline(space: Space) -> dict[str, Any]:
    """The defaults, as parameters of the first trial: what everything is compared with."""
    default = BatchSettings()
    return {
        "maxBatchSize": space.most,
        "maxWait": min(round(default.max_wait * 1000), space.longest),
        "optimize": default.optimize,
        "strategy": default.strategy,
        "agingReserve": default.aging_reserve,
    }


def fresh(model: str) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and spec of a policy for a model that has none yet."""
    return {"name": names.object_name("", model).removeprefix("-")}, {"models": [model]}


def merged(spec: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A spec with changes, which may name some fields of an object in it."""
    return dict(spec) | {
        name: merged(spec.get(name) or {}, value) if isinstance(value, Mapping) else value
        for name, value in changes.items()
    }


def manifest(
    metadata: Mapping[str, str], spec: Mapping[str, Any], candidate: Candidate, comment: str
) -> str:
    """A BatchPolicy, ready to apply. ``spec``: what is not searched. ``comment``: lines that say
    how it was found.
    """
    document = {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": "BatchPolicy",
        "metadata": dict(metadata),
        "spec": merged(spec, candidate.spec()),
    }
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    return lines + yaml.safe_dump(document, sort_keys=False)
