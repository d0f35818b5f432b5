"""Reads the sidecars' check counters from Prometheus: raw samples, one query for all models."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

import requests
from prometheus_api_client import PrometheusApiClientException, PrometheusConnect
from urllib3.util.retry import Retry

from tidegate_contract.names import METRIC_CHECK_BAD, METRIC_CHECK_REQUESTS
from tidegate_operator.evidence.counters import Series
from tidegate_operator.rollout.observation import Reading, Unreadable

ModelKey = tuple[str, str]
_TIMEOUT: Final = 5.0


@dataclass(frozen=True, slots=True)
class Readings:
    """One answer for all models. ``at``: Prometheus' time of the query (epoch seconds)."""

    at: float
    by_model: Mapping[ModelKey, tuple[Series, ...]] = field(default_factory=dict)

    def of(self, key: ModelKey) -> Reading:
        """A model's part."""
        return Reading(self.at, self.by_model.get(key, ()))


class Metrics(Protocol):
    """The operator's port to evidence."""

    async def read(self, span: float) -> Readings | Unreadable:
        """The raw samples of the last ``span`` seconds."""


class PrometheusMetrics:
    """The port on a real Prometheus. Its client blocks, so it gets threads of its own."""

    def __init__(self, url: str) -> None:
        self._client = PrometheusConnect(
            url=url.rstrip("/"), retry=Retry(total=0), timeout=_TIMEOUT
        )
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="prometheus")

    async def read(self, span: float) -> Readings | Unreadable:
        """Never raises: an answer that is none is ``Unreadable``."""
        selector = f'{{__name__=~"({METRIC_CHECK_REQUESTS}|{METRIC_CHECK_BAD})_total"}}'
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_TIMEOUT + 1):
                now = await loop.run_in_executor(self._threads, self._client.custom_query, "time()")
                at = float(now[1])
                result = await loop.run_in_executor(
                    self._threads,
                    lambda: self._client.custom_query(
                        f"{selector}[{max(1, round(span * 1000))}ms]", params={"time": at}
                    ),
                )
            return Readings(at, _by_model(result))
        except TimeoutError:
            return Unreadable(f"no answer within {_TIMEOUT:g}s")
        except requests.JSONDecodeError:
            return Unreadable("what answers there is no Prometheus: not JSON")
        except requests.RequestException as error:
            return Unreadable(f"{type(error).__name__}: {_cause(error)}")
        except PrometheusApiClientException as error:
            return Unreadable(str(error)[:200])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            return Unreadable(f"unexpected answer: {error!r}"[:200])


def _by_model(result: list[dict[str, Any]]) -> dict[ModelKey, tuple[Series, ...]]:
    found: defaultdict[ModelKey, list[Series]] = defaultdict(list)
    for one in result:
        labels = one["metric"]
        if not {"namespace", "pod", "model", "arm", "check"} <= labels.keys():
            continue
        counts: Literal["requests", "bad"] = (
            "requests" if labels["__name__"].startswith(METRIC_CHECK_REQUESTS) else "bad"
        )
        found[labels["namespace"], labels["model"]].append(
            Series(
                pod=labels["pod"],
                arm=labels["arm"],
                check=labels["check"],
                counts=counts,
                samples=tuple((float(t), float(value)) for t, value in one["values"]),
            )
        )
    return {key: tuple(series) for key, series in found.items()}


def _cause(error: requests.RequestException) -> str:
    text = str(error)
    return text.rsplit("]", 1)[-1].strip(" :)'\"") or text[:200]
