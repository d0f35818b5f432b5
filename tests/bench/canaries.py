"""Canaries by the thousand, played with numpy through the operator's own test of the ratio.

One configuration for every figure of evidence: a rollout that gives the canary a tenth of the
traffic for two and a half hours, looked at every 30 s (300 looks), judged by the ratio of error
rates alone at level 0.05.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import special

from tidegate_operator.api.canaryrollout import Spec
from tidegate_operator.api.quantity import seconds
from tidegate_operator.evidence import checks, ratio

Floats = NDArray[np.float64]

SPEC: dict[str, Any] = {
    "model": "digits",
    "canaryVersion": 2,
    "steps": [{"percent": 10, "duration": "150m"}, {"percent": 100}],
    "analysis": {
        "interval": "30s",
        "warmup": "0s",
        "significanceLevel": 0.05,
        "metrics": [{"name": "errors", "errorRate": {"maxRatioToStable": 1}}],
    },
}
SHARE = SPEC["steps"][0]["percent"] / 100
LEVEL = SPEC["analysis"]["significanceLevel"]
REQUESTS = 500
"""Of both arms in a poll."""
RATE = 0.01

_DURATION, _INTERVAL = SPEC["steps"][0]["duration"], SPEC["analysis"]["interval"]
LOOKS = round(seconds(_DURATION) / seconds(_INTERVAL))


def threshold() -> float:
    """Ln of E at which the operator rolls back: the level shared by the tests that can."""
    spec = msgspec.convert(SPEC, Spec)
    compiled = checks.compile_metrics(
        spec.metrics, uid="", attempt=1, shadow_only=False, slowdown=1.25, pinned={}
    )
    return math.log(sum(metric.tests for metric in compiled) / LEVEL)


@dataclass
class Canaries:
    """Many rollouts side by side, each looked at after every poll."""

    runs: int
    random: np.random.Generator
    looks: int = 0
    waiting: float = 1.0
    harm: Floats = field(init=False)
    alarmed: Floats = field(init=False)
    """The look at which each was rolled back; infinite where it was not."""

    def __post_init__(self) -> None:
        self.harm = np.full((self.runs, len(ratio.DELTAS)), -np.inf)
        self.alarmed = np.full(self.runs, np.inf)
        self._limit = threshold()

    def poll(self, rate: float, stable: float, share: float = SHARE) -> Floats:
        """Requests and errors of a poll: of the canary, then of stable."""
        canary = self.random.binomial(REQUESTS, share, self.runs)
        bad = self.random.binomial(canary, rate)
        stable_bad = self.random.binomial(REQUESTS - canary, stable)
        return np.array([canary, bad, REQUESTS - canary, stable_bad], dtype=np.float64)

    def look(self, counts: Floats, dispersion: float | Floats = 1.0) -> Floats:
        """Take in a poll, roll back where harm is proven; ln E."""
        starting = ratio.begins_now(self.looks, self.waiting, LOOKS)
        self.waiting -= starting
        by = ratio.increment(counts[..., None], 1.0)
        self.harm = ratio.grow(self.harm, starting, self.looks, by)
        self.looks += 1
        log_e: Floats = ratio.total(self.harm, self.waiting) / dispersion
        self.alarmed[np.isinf(self.alarmed) & (log_e >= self._limit)] = self.looks
        return log_e


def z(counts: Floats) -> Floats:
    """Two proportions compared as if this were the only look."""
    n, x, m, y = counts
    pooled = (x + y) / np.maximum(n + m, 1.0)
    variance = pooled * (1.0 - pooled) * (1.0 / np.maximum(n, 1.0) + 1.0 / np.maximum(m, 1.0))
    found: Floats = (x / np.maximum(n, 1.0) - y / np.maximum(m, 1.0)) / np.sqrt(
        np.maximum(variance, 1e-300)
    )
    return found


Z = float(special.ndtri(1.0 - LEVEL))
