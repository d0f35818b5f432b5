"""How many batches of a version go at once, and how large they usually are."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_contract.table import BatchSettings
from tidegate_sidecar.core.hardware import Capacity, Hardware, capacity


@pytest.mark.parametrize(
    ("on_cores", "hardware", "cores", "slots"),
    [
        (0, "Auto", 2, 6),  # of GPUs: whatever the cores
        (6, "Auto", 2, 2),
        (6, "Auto", 16, 6),
        (6, "Auto", None, 6),
        (4, "Auto", 1, 3),  # two on GPUs beside those that share a core
        (6, "GPU", 2, 6),
        (0, "CPU", 2, 2),
        (0, "CPU", 0, 1),
    ],
)
def test_instances_on_cores_are_used_as_far_as_there_are_cores(
    make: Any, on_cores: int, hardware: Hardware, cores: int | None, slots: int
) -> None:
    info = replace(make.version(instances=6), on_cores=on_cores)
    assert capacity(info, hardware, cores).slots == slots


@given(
    instances=st.integers(1, 40),
    data=st.data(),
    hardware=st.sampled_from(["Auto", "GPU", "CPU"]),
    cores=st.none() | st.integers(1, 64),
)
def test_one_goes_at_least_and_no_more_than_there_are_instances(
    make: Any, instances: int, data: st.DataObject, hardware: Hardware, cores: int | None
) -> None:
    on_cores = data.draw(st.integers(0, instances))
    info = replace(make.version(instances=instances), on_cores=on_cores)
    assert 1 <= capacity(info, hardware, cores).slots <= instances


@pytest.mark.parametrize(
    ("most", "preferred", "usual"), [(8, 0, 8), (8, 4, 4), (8, 16, 8), (0, 0, 1)]
)
def test_the_usual_size_is_what_the_model_prefers(
    make: Any, most: int, preferred: int, usual: int
) -> None:
    info = replace(make.version(max_batch_size=most), preferred=preferred)
    assert capacity(info, "Auto", None) == Capacity(1, usual)


def test_a_policy_and_a_large_request_go_beyond_the_usual_size(make: Any) -> None:
    runtime = make.runtime(None, replace(make.version(instances=9), preferred=2))
    for rows in (1, 1, 1, 1, 8):
        make.submit(runtime, rows=rows)
    assert [batch.rows for batch in runtime.poll(0.0)] == [2, 2, 8]
    policy = BatchSettings(strategy="Fixed", max_wait=0.0, max_batch_size=4)
    runtime.apply(make.table(revision=2, batch=policy))
    for _ in range(4):
        make.submit(runtime)
    assert [batch.rows for batch in runtime.poll(0.0)] == [4]


def test_an_edit_of_the_hardware_holds_at_once(make: Any) -> None:
    def policy(hardware: Hardware) -> BatchSettings:
        return BatchSettings(strategy="Fixed", max_wait=0.0, max_batch_size=1, hardware=hardware)

    runtime = make.runtime(make.table(batch=policy("GPU")), make.version(instances=3))
    for _ in range(6):
        make.submit(runtime)
    batches = runtime.poll(0.0)
    assert len(batches) == 3
    runtime.apply(make.table(revision=2, batch=policy("CPU")))
    for batch in batches:
        runtime.finish(batch, [None], 0.0)
    assert len(runtime.poll(0.0)) == 3  # no bound where the cores are not known
