"""The operator's own metrics, and whether it is alive."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()

RECONCILE = Histogram(
    "tidegate_reconcile_seconds", "Time of one look at a model.", registry=REGISTRY
)
TICK_LAG = Gauge(
    "tidegate_tick_lag_seconds", "How late the last look at a model was.", registry=REGISTRY
)
QUERIES = Counter(
    "tidegate_prometheus_queries_total",
    "Readings asked of Prometheus.",
    ["outcome"],
    registry=REGISTRY,
)
ROLLOUTS = Gauge("tidegate_rollouts", "CanaryRollouts by phase.", ["phase"], registry=REGISTRY)
ROLLBACK = Histogram(
    "tidegate_rollback_seconds",
    "From the decision to roll back to every ready pod applying it.",
    registry=REGISTRY,
)
