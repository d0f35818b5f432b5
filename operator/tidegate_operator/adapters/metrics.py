"""What the operator reads of the sidecars in Prometheus: a fixed number of queries for all models.

One, asked in parts, is of raw samples, which decisions rest on; three, once a minute, are of rates
for people and of what was so before a rollout.
"""

import asyncio
import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

import msgspec

from tidegate_contract import names
from tidegate_operator.adapters.prometheus import (
    WHOLE,
    Kind,
    Labels,
    Prometheus,
    PrometheusError,
    Row,
    in_thread,
)
from tidegate_operator.evidence.counters import PARTS, Counts, Series
from tidegate_operator.evidence.promql import quoted
from tidegate_operator.rollout.observation import Before, LiveMetrics, Reading, Unreadable

ModelKey = tuple[str, str]
Numbers = tuple[float, ...]
T = TypeVar("T")

BEFORE_AT_ONCE: Final = 400
"""Models of which one query asks how they did before a rollout."""
_QUANTILES: Final = ("0.5", "0.95", "0.99")
_ERRORS: Final = frozenset({"server_error", "expired"})
_TOKENS: Final = f"{names.METRIC_TOKENS}_total"
_SAMPLES: Final = msgspec.json.Decoder(list[tuple[float, str]])
_SAMPLE: Final = msgspec.json.Decoder(tuple[float, str])
_COUNTS: Final[dict[str, Counts]] = {
    f"{names.METRIC_CHECK_REQUESTS}_total": "requests",
    f"{names.METRIC_CHECK_BAD}_total": "bad",
    _TOKENS: "tokens",
    f"{names.METRIC_RESTARTS}_total": "restarts",
    **{f"{names.METRIC_FEEDBACK}_{part}_total": part for part in PARTS},
}
_REAL: Final = f'arm!="{names.ARM_SHADOW}"'
_COUNTED: Final = "|".join(
    [
        f"{names.METRIC_CHECK_REQUESTS}_total",
        f"{names.METRIC_CHECK_BAD}_total",
        f"{names.METRIC_FEEDBACK}_.+_total",
        _TOKENS,
        f"{names.METRIC_RESTARTS}_total",
    ]
)


@dataclass(frozen=True, slots=True)
class Readings:
    """Samples of all models. ``at``: Prometheus' time of the queries (epoch seconds)."""

    at: float
    by_model: Mapping[ModelKey, Sequence[Series]] = field(default_factory=dict)

    def of(self, key: ModelKey) -> Reading:
        """A model's part."""
        return Reading(self.at, tuple(self.by_model.get(key, ())))


@dataclass(frozen=True, slots=True)
class Rates:
    """The last five minutes of all models, by version; ``restarts``: of their Tritons in the last
    hour.
    """

    live: Mapping[ModelKey, Mapping[int, LiveMetrics]] = field(default_factory=dict)
    restarts: Mapping[ModelKey, int] = field(default_factory=dict)


class Metrics(Protocol):
    """The operator's port to evidence."""

    async def time(self) -> float | Unreadable:
        """Prometheus' own time (epoch seconds)."""

    async def samples(
        self, models: Collection[ModelKey], at: float, span: float, silence: float
    ) -> Readings | Unreadable:
        """The raw samples of these models in the ``span`` seconds before a time on Prometheus'
        clock. ``silence``: seconds that may pass before an answer comes.
        """

    async def rates(self) -> Rates | Unreadable:
        """How all models do."""

    async def before(
        self, models: Sequence[ModelKey], rates: Rates
    ) -> Mapping[ModelKey, Before] | Unreadable:
        """How these models did in the last ten minutes; at most ``BEFORE_AT_ONCE``."""


class PrometheusMetrics:
    """The port on a real Prometheus. Its client blocks, so each question gets a thread of its own.

    ``namespaces``: those to ask about; empty for all. ``asked``: told of each query whether it was
    answered.
    """

    def __init__(
        self,
        prometheus: Prometheus,
        *,
        namespaces: Sequence[str] = (),
        namespace_label: str = "namespace",
        asked: Callable[[bool], None] = lambda _answered: None,
    ) -> None:
        self._prometheus = prometheus
        self._label = namespace_label
        self._asked = asked
        listed = "|".join(map(re.escape, namespaces))
        self._where = f"{namespace_label}=~{quoted(listed)}" if namespaces else ""

    async def time(self) -> float | Unreadable:
        """Never raises, as ``samples``."""
        return await self._run(self._now)

    async def samples(
        self, models: Collection[ModelKey], at: float, span: float, silence: float
    ) -> Readings | Unreadable:
        """Never raises: an answer that is none, or not a whole one, is ``Unreadable``."""
        return await self._run(partial(self._samples, models, at, span, silence))

    async def rates(self) -> Rates | Unreadable:
        """Never raises, as ``samples``."""
        return await self._run(self._rates)

    async def before(
        self, models: Sequence[ModelKey], rates: Rates
    ) -> Mapping[ModelKey, Before] | Unreadable:
        """Never raises, as ``samples``."""
        return await self._run(partial(self._before, models, rates))

    async def _run(self, read: Callable[[], T]) -> T | Unreadable:
        try:
            async with asyncio.timeout(3 * WHOLE):
                return await in_thread(read)
        except TimeoutError:
            return Unreadable(f"no answer within {3 * WHOLE:g}s")
        except PrometheusError as error:
            return Unreadable(str(error))
        except (msgspec.DecodeError, ValueError) as error:
            return Unreadable(f"unexpected answer: {error}"[:200])

    def _samples(
        self, models: Collection[ModelKey], at: float, span: float, silence: float
    ) -> Readings:
        reach = f"[{max(1, round(span * 1000))}ms]"
        listed = "|".join(sorted({re.escape(model) for _, model in models}))
        these = _matching(f'__name__=~"{_COUNTED}"', f"model=~{quoted(listed)}", self._where)
        gathered = _Gathered(models)
        for rows in self._rows(these + reach, "matrix", at, silence=silence):
            gathered.add(rows)
        return Readings(at, gathered.whole())

    def _rates(self) -> Rates:
        by = f"{self._label},model"
        real = _matching(_REAL, self._where)
        anywhere = _matching(self._where)
        requests = f"sum by({by},version,outcome)(rate({names.METRIC_REQUESTS}_total{real}[5m]))"
        restarts = f"sum by({by})(increase({names.METRIC_RESTARTS}_total{anywhere}[1h]))"
        buckets = f"sum by({by},version,le)(rate({names.METRIC_DURATION}_bucket{real}[5m]))"
        quantiles = " or ".join(
            f'label_replace(histogram_quantile({q},{buckets}),"quantile","{q}","","")'
            for q in _QUANTILES
        )
        counted = _Counted()
        for rows in self._rows(f"{requests} or {restarts}", "vector", silence=WHOLE):
            counted.add_rates(rows)
        for rows in self._rows(quantiles, "vector", silence=WHOLE):
            counted.add_quantiles(rows)
        return counted.told()

    def _before(self, models: Sequence[ModelKey], rates: Rates) -> dict[ModelKey, Before]:
        wanted = set(models[:BEFORE_AT_ONCE])
        listed = "|".join(sorted({re.escape(model) for _, model in wanted}))
        these = _matching(_REAL, f"model=~{quoted(listed)}", self._where)
        query = (
            f"sum by({self._label},model,version,le)"
            f"(increase({names.METRIC_DURATION}_bucket{these}[10m]))"
        )
        found: dict[ModelKey, defaultdict[int, list[tuple[float, float]]]]
        found = {key: defaultdict(list) for key in wanted}
        for rows in self._rows(query, "vector", silence=WHOLE):
            for labels, value in _numbers(rows):
                key = labels.namespace, labels.model
                if key in wanted and labels.version.isdigit():
                    found[key][int(labels.version)].append((float(labels.le), value))
        return {key: _before(key, latency, rates) for key, latency in found.items()}

    def _now(self) -> float:
        """Prometheus' own time."""
        with self._asking():
            kind, result = self._prometheus.result("time()")
            try:
                return float(msgspec.json.decode(result, type=tuple[float, str])[1])
            except (msgspec.DecodeError, ValueError) as error:
                raise PrometheusError(f"unexpected answer: a {kind} for its time") from error

    def _rows(
        self, query: str, kind: Kind, at: float | None = None, *, silence: float | None = None
    ) -> Iterator[list[Row]]:
        with self._asking():
            yield from self._prometheus.rows(query, kind, at, silence=silence)

    @contextlib.contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except PrometheusError:
            self._asked(False)
            raise
        self._asked(True)


def _before(
    key: ModelKey, latency: Mapping[int, list[tuple[float, float]]], rates: Rates
) -> Before:
    live = rates.live.get(key, {})
    return Before(
        latency={version: tuple(sorted(counts)) for version, counts in latency.items()},
        errors={v: one.error_rate for v, one in live.items() if one.error_rate is not None},
        restarts=rates.restarts.get(key, 0),
    )


def _matching(*matchers: str) -> str:
    return f"{{{','.join(filter(None, matchers))}}}"


class _Gathered:
    """Series of some models as they come in. Equal texts and equal samples are kept once: a healthy
    pod's counters of errors, to begin with, are all the same.
    """

    def __init__(self, models: Collection[ModelKey]) -> None:
        self._series: dict[ModelKey, list[Series]] = {key: [] for key in models}
        self._texts: dict[str, str] = {}
        self._times: dict[Numbers, Numbers] = {}
        self._spoiled: set[tuple[str, str]] = set()

    def add(self, rows: list[Row]) -> None:
        """Take rows in; those that are not whole (no pod, say) are none of ours."""
        parsed: dict[bytes, tuple[Numbers, Numbers] | None] = {}
        for row in rows:
            labels = row.metric
            counts = _COUNTS.get(labels.name)
            mine = self._series.get((labels.namespace, labels.model))
            if counts is None or mine is None or not labels.pod:
                continue
            raw = bytes(row.values)
            if raw in parsed:
                samples = parsed[raw]
            else:
                samples = parsed[raw] = self._parsed(raw)
            if samples is None:
                self._spoiled.add((labels.namespace, labels.pod))
                continue
            mine.append(
                Series(
                    self._text(labels.pod),
                    self._text(labels.arm),
                    self._text(labels.check or labels.metric),
                    counts,
                    *samples,
                    self._text(labels.bucket or labels.priority),
                )
            )

    def whole(self) -> Mapping[ModelKey, Sequence[Series]]:
        """All series, without pods that tell what is no number: half of a pod's counters would look
        like a restart.
        """
        if not self._spoiled:
            return self._series
        return {
            key: [one for one in series if (key[0], one.pod) not in self._spoiled]
            for key, series in self._series.items()
        }

    def _text(self, text: str) -> str:
        return self._texts.setdefault(text, text)

    def _parsed(self, raw: bytes) -> tuple[Numbers, Numbers] | None:
        """The times and the values; None where a value is not finite."""
        pairs = _SAMPLES.decode(raw)
        times = tuple([at for at, _ in pairs])
        values = tuple([float(value) for _, value in pairs])
        if not all(map(math.isfinite, values)):
            return None
        return self._times.setdefault(times, times), values


class _Counted:
    """Rates and quantiles as they come in."""

    def __init__(self) -> None:
        self._outcomes: defaultdict[tuple[ModelKey, int], dict[str, float]] = defaultdict(dict)
        self._quantiles: defaultdict[tuple[ModelKey, int], dict[str, float]] = defaultdict(dict)
        self._restarts: dict[ModelKey, int] = {}

    def add_rates(self, rows: list[Row]) -> None:
        """Requests in a second by outcome; without one, restarts of Triton."""
        for labels, value in _numbers(rows):
            key = labels.namespace, labels.model
            if labels.version.isdigit():
                self._outcomes[key, int(labels.version)][labels.outcome] = value
            elif not labels.outcome:
                self._restarts[key] = round(value)

    def add_quantiles(self, rows: list[Row]) -> None:
        """Seconds by quantile."""
        for labels, value in _numbers(rows):
            if labels.version.isdigit():
                at = (labels.namespace, labels.model), int(labels.version)
                self._quantiles[at][labels.quantile] = value

    def told(self) -> Rates:
        """All of it by model and version."""
        live: defaultdict[ModelKey, dict[int, LiveMetrics]] = defaultdict(dict)
        for (key, version), outcomes in self._outcomes.items():
            total = sum(outcomes.values())
            failed = sum(outcomes.get(outcome, 0.0) for outcome in _ERRORS)
            p50, p95, p99 = (self._quantiles[key, version].get(q) for q in _QUANTILES)
            live[key][version] = LiveMetrics(
                requests_per_second=total,
                error_rate=failed / total if total else None,
                p50=p50,
                p95=p95,
                p99=p99,
            )
        return Rates(live, self._restarts)


def _numbers(rows: list[Row]) -> Iterator[tuple[Labels, float]]:
    """The rows of a vector that are numbers."""
    for row in rows:
        value = float(_SAMPLE.decode(row.value)[1])
        if math.isfinite(value):
            yield row.metric, value
