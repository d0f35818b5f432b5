"""When the evidence against a version was there for all to see, worked out from Prometheus.

The breach is the time of the first scrape at which the counters that Prometheus holds show a
rollback bound to be broken, by the operator's own test. What the operator needs from then on is
its own delay: a tick, a table, and the pods' acknowledgements.
"""

import json
import urllib.parse
from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tidegate_contract import names
from tidegate_demo.web import fetch
from tidegate_operator.evidence import share
from tidegate_operator.evidence.tally import Tally

RANGE: Final = "10m"

Samples = Mapping[str, list[tuple[float, float]]]


def breach(
    prometheus_url: str, version: int, status: Mapping[str, Any], allowed: Mapping[str, float]
) -> float | None:
    """Epoch seconds of the breach, None where there was none.

    Args:
        prometheus_url: where Prometheus answers.
        version: the canary.
        status: of its rollout, for the thresholds.
        allowed: by metric, the share of bad requests that its rollback bound allows.
    """
    began = decided(status, "Progressing") or 0.0
    thresholds = {one["name"]: one["threshold"] for one in status.get("metrics", [])}
    times = [
        time
        for metric, bound in allowed.items()
        if metric in thresholds
        for time, tally in tallies(
            _samples(prometheus_url, names.METRIC_CHECK_REQUESTS, version, metric, began),
            _samples(prometheus_url, names.METRIC_CHECK_BAD, version, metric, began),
        )
        if _above(tally, bound) >= thresholds[metric]
    ]
    return min(times, default=None)


def _above(tally: Tally, bound: float) -> float:
    """What the operator's evidence of a version that was bad from the start comes to."""
    found = share.observe(
        share.ShareEvidence(), tally.requests, tally.bad, allowed=bound, planned_looks=1
    )
    return share.above(found)


def decided(status: Mapping[str, Any], phase: str) -> float | None:
    """Epoch seconds at which a rollout came to a phase, by its history."""
    for entry in status.get("history", []):
        if entry["to"] == phase:
            return datetime.fromisoformat(entry["time"]).timestamp()
    return None


def tallies(requests: Samples, bad: Samples) -> list[tuple[float, Tally]]:
    """The canary's requests so far, and the bad ones, at each scrape of each pod."""
    latest: dict[str, Tally] = {}
    result = []
    bad_at = {(pod, time): value for pod, of in bad.items() for time, value in of}
    scrapes = sorted((time, pod, value) for pod, of in requests.items() for time, value in of)
    for time, pod, value in scrapes:
        latest[pod] = Tally(requests=round(value), bad=round(bad_at.get((pod, time), 0.0)))
        result.append((time, sum(latest.values(), Tally())))
    return result


def _samples(url: str, name: str, version: int, metric: str, since: float) -> Samples:
    """Raw samples of a counter by pod, its priorities added up, without an earlier rollout's."""
    arm = names.ARM_CANARY
    selector = f'{{version="{version}",arm="{arm}",check=~"{metric}/rollback@.*"}}[{RANGE}]'
    query = urllib.parse.urlencode({"query": f"{name}_total{selector}"})
    series = json.loads(fetch(f"{url}/api/v1/query?{query}"))["data"]["result"]
    pods: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    for one in series:
        for time, value in one["values"]:
            if time < since:
                continue
            pods[one["metric"]["pod"]][time] += float(value)
    return {pod: sorted(of.items()) for pod, of in pods.items()}
