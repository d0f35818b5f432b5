"""The counters of all models as Prometheus reads them, written when it asks."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tidegate_contract import names
from tidegate_sidecar.core.counters import Counters, Histogram
from tidegate_sidecar.core.feedback import Feedback
from tidegate_sidecar.core.runtime import ModelRuntime

_ARM = ("model", "version", "arm")
_LEVEL = (*_ARM, "priority")
_CHECK = (*_ARM, "check", "priority", "bucket")
_OUTCOME = (*_ARM, "metric", "bucket")
_PLAIN_SUMS = {
    "count": "Outcomes that clients reported.",
    "pos": "Sum of those above 0.",
    "neg": "Sum of those below 0, its sign dropped.",
    "squares": "Sum of their squares.",
}
_SUMS = {
    **_PLAIN_SUMS,
    "covariate_pos": "Sum of the covariates above 0.",
    "covariate_neg": "Sum of the covariates below 0, its sign dropped.",
    "covariate_squares": "Sum of the squares of the covariates.",
    "cross_pos": "Sum of outcome times covariate, where above 0.",
    "cross_neg": "Sum of outcome times covariate, where below 0, its sign dropped.",
}


def render(
    runtimes: Mapping[str, ModelRuntime], clock: Callable[[], float] = time.monotonic
) -> bytes:
    """Write what has been counted, in Prometheus' text format.

    Looks first at what is in flight: a request that is overdue already counts as slow, or a
    version that hangs would look healthy. ``clock`` is the data plane's.
    """
    now = clock()
    for runtime in runtimes.values():
        runtime.look(now)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Models(runtimes))
    return generate_latest(registry)


class _Models(Collector):
    def __init__(self, runtimes: Mapping[str, ModelRuntime]) -> None:
        self._runtimes = runtimes

    def collect(self) -> Iterable[Metric]:
        """All families; each holds the samples of all models."""
        families = _Families()
        for model, runtime in self._runtimes.items():
            families.add(model, runtime)
        return families


class _Families:
    """One family for each name, in the order in which they are exported."""

    def __init__(self) -> None:
        self.check_requests = CounterMetricFamily(
            names.METRIC_CHECK_REQUESTS,
            "Requests that a check of the table concerns.",
            labels=_CHECK,
        )
        self.check_bad = CounterMetricFamily(
            names.METRIC_CHECK_BAD,
            "Those that failed, or were slower than its bound.",
            labels=_CHECK,
        )
        self.requests = CounterMetricFamily(
            "tidegate_requests", "Requests by what became of them.", labels=(*_LEVEL, "outcome")
        )
        self.duration = HistogramMetricFamily(
            "tidegate_request_duration_seconds", "From read to answered.", labels=_ARM
        )
        self.queued = HistogramMetricFamily(
            "tidegate_queue_seconds", "From read to sent to Triton.", labels=_LEVEL
        )
        self.batch_size = HistogramMetricFamily(
            "tidegate_batch_size", "Rows of the batches sent.", labels=("model", "version")
        )
        self.in_flight = GaugeMetricFamily(
            "tidegate_inflight", "Requests that Triton has.", labels=_ARM
        )
        self.waiting = GaugeMetricFamily(
            "tidegate_queue_length", "Requests that wait.", labels=_LEVEL
        )
        self.fallback = CounterMetricFamily(
            "tidegate_fallback",
            "Requests that the default arm served for one not ready.",
            labels=("model", "from"),
        )
        self.retries = CounterMetricFamily(
            "tidegate_retries",
            "Batches that failed and were sent again in parts, or were not, by what came of it.",
            labels=("model", "version", "outcome"),
        )
        self.mirrors = CounterMetricFamily(
            "tidegate_mirror",
            "Copies of requests by what became of them.",
            labels=(*_ARM, "outcome"),
        )
        self.feedback = CounterMetricFamily(
            "tidegate_feedback",
            "Outcomes that clients reported, by what became of them.",
            labels=("model", "outcome"),
        )
        self.tokens = CounterMetricFamily(
            names.METRIC_TOKENS, "Answers that carried a feedback token.", labels=_ARM
        )
        self.sums = {
            part: CounterMetricFamily(f"{names.METRIC_FEEDBACK}_{part}", text, labels=_OUTCOME)
            for part, text in _SUMS.items()
        }
        self.restarts = CounterMetricFamily(
            "tidegate_triton_restarts", "Times that Triton was found restarted.", labels=("model",)
        )
        self.revision = GaugeMetricFamily(
            "tidegate_routing_revision", "Revision of the table in use.", labels=("model",)
        )

    def __iter__(self) -> Iterator[Metric]:
        for family in vars(self).values():
            yield from family.values() if isinstance(family, dict) else [family]

    def add(self, model: str, runtime: ModelRuntime) -> None:
        """Take over what one model counted."""
        counters = runtime.counters
        if runtime.table:
            self.revision.add_metric([model], runtime.table.revision)
        self._add_feedback(model, runtime.feedback)
        self._add_checks(model, counters)
        self._add_tallies(model, counters)
        for (arm, version), histogram in counters.durations.items():
            _observe(self.duration, [model, _version(version), arm], histogram)
        for version, histogram in counters.batch_sizes.items():
            _observe(self.batch_size, [model, _version(version)], histogram)
        for (version, told), count in counters.retries.items():
            self.retries.add_metric([model, _version(version), told], count)
        for (version, outcome), count in counters.mirror.items():
            labels = [model, _version(version), names.ARM_SHADOW, outcome]
            self.mirrors.add_metric(labels, count)
        for arm, count in counters.fallbacks.items():
            self.fallback.add_metric([model, arm], count)
        self.restarts.add_metric([model], counters.triton_restarts)

    def _add_checks(self, model: str, counters: Counters) -> None:
        for (check, arm, version, stratum), count in counters.checks.items():
            labels = [model, _version(version), arm, check, *stratum]
            self.check_requests.add_metric(labels, count.requests)
            self.check_bad.add_metric(labels, count.bad)

    def _add_feedback(self, model: str, feedback: Feedback) -> None:
        for outcome, count in feedback.outcomes.items():
            self.feedback.add_metric([model, outcome], count)
        for (arm, version), count in feedback.issued.items():
            self.tokens.add_metric([model, _version(version), arm], count)
        with_covariate = feedback.experiment and feedback.experiment.covariate
        for (metric, arm, version, bucket), sums in feedback.sums.items():
            labels = [model, _version(version), arm, metric, bucket]
            for part, family in self.sums.items():
                if with_covariate or part in _PLAIN_SUMS:
                    family.add_metric(labels, getattr(sums, part))

    def _add_tallies(self, model: str, counters: Counters) -> None:
        in_flight: dict[tuple[int, str], int] = {}
        for (arm, version, level), tally in counters.tallies.items():
            labels = [model, _version(version), arm, str(level)]
            for outcome, count in tally.outcomes.items():
                self.requests.add_metric([*labels, outcome], count)
            self.waiting.add_metric(labels, tally.waiting)
            if any(tally.queued.counts):
                _observe(self.queued, labels, tally.queued)
            in_flight[version, arm] = in_flight.get((version, arm), 0) + tally.in_flight
        for (version, arm), count in in_flight.items():
            self.in_flight.add_metric([model, _version(version), arm], count)


def _version(version: int) -> str:
    """The label's value: empty for requests that were refused before they had a version."""
    return str(version) if version else ""


def _observe(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        buckets.append(("+Inf" if bound == float("inf") else repr(float(bound)), total))
    family.add_metric(labels, buckets, histogram.total)
