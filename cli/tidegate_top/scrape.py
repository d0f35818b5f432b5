"""What one scrape of a pod says, told from Prometheus' text format. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

from tidegate_contract import names

_PLAIN: Final = {
    f"{names.METRIC_REQUESTS}_total",
    f"{names.METRIC_DURATION}_bucket",
    "tidegate_batch_size_sum",
    "tidegate_batch_size_count",
    "tidegate_inflight",
    "tidegate_queue_length",
}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a sidecar has counted of one model since it started, and what it has just now.

    ``outcomes``: requests. ``buckets``: by upper bound in seconds, answers within it. Both are of
    clients' requests, not of their mirrored copies. ``queue``: requests that wait, by priority.
    ``in_flight``: those that Triton has.
    """

    outcomes: dict[str, float] = field(default_factory=dict)
    buckets: dict[float, float] = field(default_factory=dict)
    batches: float = 0
    rows: float = 0
    in_flight: float = 0
    queue: dict[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU: ``used`` is the share of its time, memory is in bytes."""

    used: float | None
    memory: float | None
    memory_total: float | None


@dataclass(frozen=True, slots=True)
class Hardware:
    """What Triton's own metrics say of the machine: shares, and bytes of memory."""

    cpu: float | None = None
    memory: float | None = None
    memory_total: float | None = None
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True, slots=True)
class Scrape:
    """One pod at a moment. ``at``: seconds of any steady clock. ``hardware``: None: not known."""

    at: float
    models: Mapping[str, Counts]
    hardware: Hardware | None = None


Sample = tuple[str, Mapping[str, str], float]


def read(at: float, sidecar: str, triton: str | None) -> Scrape:
    """A pod's metrics as they were sent. ``triton``: None where it could not be asked.

    Raises:
        ValueError: it is not Prometheus' text format.
    """
    by_model: dict[str, list[Sample]] = {}
    for name, labels, value in _samples(sidecar):
        copy = labels.get("arm") == names.ARM_SHADOW and ("outcome" in labels or "le" in labels)
        if name in _PLAIN and not copy:
            by_model.setdefault(labels["model"], []).append((name, labels, value))
    models = {model: _counts(samples) for model, samples in sorted(by_model.items())}
    return Scrape(at, models, None if triton is None else _hardware(triton))


def _counts(samples: list[Sample]) -> Counts:
    """Sum over versions and arms."""
    found: dict[str, float] = {}
    outcomes: dict[str, float] = {}
    buckets: dict[float, float] = {}
    queue: dict[int, float] = {}
    for name, labels, value in samples:
        if "outcome" in labels:
            outcomes[labels["outcome"]] = outcomes.get(labels["outcome"], 0) + value
        elif "le" in labels:
            bound = float(labels["le"])
            buckets[bound] = buckets.get(bound, 0) + value
        elif name == "tidegate_queue_length":
            level = int(labels["priority"])
            queue[level] = queue.get(level, 0) + value
        else:
            found[name] = found.get(name, 0) + value
    return Counts(
        outcomes,
        buckets,
        found.get("tidegate_batch_size_count", 0),
        found.get("tidegate_batch_size_sum", 0),
        found.get("tidegate_inflight", 0),
        queue,
    )


def _hardware(text: str) -> Hardware:
    plain: dict[str, float] = {}
    gpus: dict[str, dict[str, float]] = {}
    for name, labels, value in _samples(text):
        if "gpu_uuid" in labels:
            gpus.setdefault(labels["gpu_uuid"], {})[name] = value
        elif name.startswith("nv_cpu_"):
            plain[name] = value
    return Hardware(
        plain.get("nv_cpu_utilization"),
        plain.get("nv_cpu_memory_used_bytes"),
        plain.get("nv_cpu_memory_total_bytes"),
        tuple(
            Gpu(
                one.get("nv_gpu_utilization"),
                one.get("nv_gpu_memory_used_bytes"),
                one.get("nv_gpu_memory_total_bytes"),
            )
            for _, one in sorted(gpus.items())
        ),
    )


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
