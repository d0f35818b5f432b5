"""The operator's own metrics, and whether it is alive."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY: Final = CollectorRegistry()

_SECONDS: Final = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.5),
    *(10.0, 15.0, 30.0, 60.0),
)

RECONCILE = Histogram(
    "tidegate_reconcile_seconds", "Time of one look at a model.", registry=REGISTRY
)
TICK_LAG = Histogram(
    "tidegate_tick_lag_seconds",
    "From when a look at a model was due to its decision.",
    buckets=_SECONDS,
    registry=REGISTRY,
)
QUERIES = Counter(
    "tidegate_prometheus_queries_total", "Queries to Prometheus.", ["outcome"], registry=REGISTRY
)
ROLLOUTS = Gauge("tidegate_rollouts", "CanaryRollouts by phase.", ["phase"], registry=REGISTRY)
ROLLBACK = Histogram(
    "tidegate_rollback_seconds",
    "From the decision to roll back to every ready pod applying it.",
    registry=REGISTRY,
)


def asked(answered: bool) -> None:
    """Count a query to Prometheus."""
    QUERIES.labels("ok" if answered else "error").inc()
