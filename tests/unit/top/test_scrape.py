"""Prometheus' text as the sidecar and Triton write it, read back."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from tidegate_sidecar.shell.metrics import render
from tidegate_top.scrape import Counts, Gpu, Hardware, read

SIDECAR = """
# HELP tidegate_requests_total Requests by what became of them.
# TYPE tidegate_requests_total counter
tidegate_requests_total{model="m",version="1",arm="stable",priority="1",outcome="ok"} 10
tidegate_requests_total{model="m",version="2",arm="canary",priority="3",outcome="ok"} 5
tidegate_requests_total{model="m",version="2",arm="canary",priority="3",outcome="expired"} 1
tidegate_requests_total{model="m",version="2",arm="shadow",priority="3",outcome="ok"} 100
# TYPE tidegate_request_duration_seconds histogram
tidegate_request_duration_seconds_bucket{model="m",version="1",arm="stable",le="0.1"} 8
tidegate_request_duration_seconds_bucket{model="m",version="1",arm="stable",le="+Inf"} 10
tidegate_request_duration_seconds_bucket{model="m",version="2",arm="canary",le="0.1"} 1
tidegate_request_duration_seconds_bucket{model="m",version="2",arm="canary",le="+Inf"} 6
tidegate_request_duration_seconds_sum{model="m",version="1",arm="stable"} 3
tidegate_request_duration_seconds_bucket{model="m",version="2",arm="shadow",le="+Inf"} 100
# TYPE tidegate_batch_size histogram
tidegate_batch_size_bucket{model="m",version="1",le="1"} 1
tidegate_batch_size_bucket{model="m",version="1",le="+Inf"} 4
tidegate_batch_size_sum{model="m",version="1"} 16
tidegate_batch_size_count{model="m",version="1"} 4
# TYPE tidegate_inflight gauge
tidegate_inflight{model="m",version="1",arm="stable"} 2
# TYPE tidegate_queue_length gauge
tidegate_queue_length{model="m",version="1",arm="stable",priority="1"} 3
tidegate_queue_length{model="m",version="2",arm="canary",priority="1"} 4
tidegate_queue_length{model="other",version="1",arm="stable",priority="5"} 9
"""
TRITON = """
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-b"} 0.5
nv_gpu_utilization{gpu_uuid="GPU-a"} 0.25
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 1000
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 400
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.75
# TYPE nv_cpu_memory_total_bytes gauge
nv_cpu_memory_total_bytes 64
# TYPE nv_cpu_memory_used_bytes gauge
nv_cpu_memory_used_bytes 16
"""


def test_a_sidecar_is_summed_up_by_model() -> None:
    found = read(7.0, SIDECAR, None)

    assert found.at == 7.0
    assert found.hardware is None
    assert found.models["m"] == Counts(
        outcomes={"ok": 15, "expired": 1},
        buckets={0.1: 9, float("inf"): 16},
        batches=4,
        rows=16,
        in_flight=2,
        queue={1: 7},
    )
    assert found.models["other"].queue == {5: 9}


def test_triton_tells_of_the_machine() -> None:
    found = read(0.0, "", TRITON).hardware

    assert found == Hardware(0.75, 16, 64, (Gpu(0.25, 400, 1000), Gpu(0.5, None, None)))


def test_a_triton_without_such_metrics() -> None:
    assert read(0.0, "", "").hardware == Hardware()


def test_what_a_sidecar_writes_without_models_is_read() -> None:
    assert read(0.0, render({}).decode(), None).models == {}
    assert read(0.0, generate_latest(CollectorRegistry()).decode(), None).models == {}


@pytest.mark.parametrize("text", ["<html>", "tidegate_inflight{ 1"])
def test_what_is_no_metrics_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        read(0.0, text, None)
