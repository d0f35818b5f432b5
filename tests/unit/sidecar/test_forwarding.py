"""Headers that models are told of: they reach Triton, and keep requests apart."""

import json
from typing import Any

import pytest

from tidegate_contract.table import BatchSettings, Deduplication
from tidegate_sidecar.core.forwarding import Forwarding
from tidegate_sidecar.core.runtime import ModelRuntime

HEADERS = {"x-tenant": "a", "my-x-tenant-id": "7", "accept": "*/*"}


def told(make: Any, **table: Any) -> ModelRuntime:
    runtime = ModelRuntime("m", "pod-1", shared_memory=True, forwarding=Forwarding("X-Ten"))
    runtime.apply(make.table(**table))
    runtime.version_ready(make.version())
    return runtime


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("X-Ten", {"x-tenant", "my-x-tenant-id"}),  # Triton finds it in any case, anywhere
        ("^x-ten", {"x-tenant"}),
        (".", set(HEADERS)),
        ("nobody", set()),
    ],
)
def test_names_are_chosen_as_triton_does(pattern: str, names: set[str]) -> None:
    reserved = {"priority": "1", "timeout": "1", "sequence_id": "4", "triton_x": "1"}
    assert Forwarding(pattern).chosen(HEADERS | reserved).keys() == names


def test_a_model_is_told_of_them_and_of_its_own_parameters(make: Any) -> None:
    runtime = told(make)
    make.submit(runtime, headers=HEADERS, parameters={"k": 1, "x-tenant": "own", "priority": 2})
    (batch,) = runtime.poll(0.0)
    header, _ = runtime.encode(batch)
    assert json.loads(header)["parameters"] == {"k": 1, "x-tenant": "a", "my-x-tenant-id": "7"}
    assert batch.members[0].level == 2


def test_only_those_who_have_them_alike_share_a_batch_or_an_answer(make: Any) -> None:
    runtime = told(make, batch=BatchSettings(max_wait=0.0, deduplication=Deduplication()))
    for tenant in "aabc":
        make.submit(runtime, headers={"x-tenant": tenant})
    make.submit(runtime, headers={"accept": "*/*"})
    make.submit(runtime, headers={"accept": "text/plain"})
    sent = []
    while batches := runtime.poll(0.0):
        (batch,) = batches
        sent.append(json.loads(runtime.encode(batch)[0])["parameters"].get("x-tenant"))
        assert batch.rows == 1  # equal ones are one
        runtime.finish(batch, runtime.complete(batch, 200, *reversed(make.reply(1))), 0.0)
        runtime.handed_out()
    assert sent == ["a", "b", "c", None]


def test_what_lies_in_shared_memory_is_told_too(make: Any) -> None:
    runtime = told(make)
    place = {"shared_memory_region": "r", "shared_memory_byte_size": 8}
    one = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": place}
    body = json.dumps({"inputs": [one]}).encode()
    runtime.submit(None, body, json_length=None, version=None, headers=HEADERS, now=0.0)
    (batch,) = runtime.poll(0.0)
    assert json.loads(runtime.encode(batch)[0])["parameters"]["x-tenant"] == "a"
