"""What is read from Triton's metadata and configuration, and how a version is warmed."""

from typing import Any

import pytest

from tidegate_contract.acknowledgement import Tensor
from tidegate_sidecar.shell.loading import batch_sizes
from tidegate_sidecar.shell.triton import version_info

METADATA = {
    "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 8, -1]}],
    "outputs": [{"name": "Y", "datatype": "BYTES", "shape": [-1, 1]}],
}


def test_shapes_are_without_the_batch() -> None:
    info = version_info(3, {"max_batch_size": 8}, METADATA)
    assert info.inputs == (Tensor(name="X", datatype="FP32", shape=[8, -1]),)
    assert info.outputs == (Tensor(name="Y", datatype="BYTES", shape=[1]),)
    assert (info.version, info.max_batch_size, info.batchable) == (3, 8, True)


def test_a_model_without_batches_keeps_its_first_dimension() -> None:
    info = version_info(1, {"max_batch_size": 0}, METADATA)
    assert info.inputs[0].shape == [-1, 8, -1]
    assert not info.batchable


def test_an_input_that_may_be_left_out_says_so() -> None:
    config = {"max_batch_size": 8, "input": [{"name": "X", "optional": True}]}
    assert version_info(1, config, METADATA).inputs[0].optional


@pytest.mark.parametrize(
    "config",
    [{"sequence_batching": {}}, {"model_transaction_policy": {"decoupled": True}}],
)
def test_sequences_and_streams_of_answers_are_not_batched(config: dict[str, Any]) -> None:
    assert not version_info(1, {"max_batch_size": 8, **config}, METADATA).batchable


def test_a_model_says_whether_equal_requests_have_equal_answers() -> None:
    assert version_info(1, {"sequence_batching": {}}, METADATA).stateful
    for value, deterministic in (("false", False), (" False", False), ("true", True)):
        config = {"parameters": {"tidegate.deterministic": {"string_value": value}}}
        info = version_info(1, config, METADATA)
        assert (info.deterministic, info.stateful) == (deterministic, False)
    assert version_info(1, {}, METADATA).deterministic


@pytest.mark.parametrize(
    ("groups", "instances"),
    [
        ([], 1),
        ([{"count": 2, "gpus": []}], 2),
        ([{"count": 2, "gpus": [0, 1]}, {"count": 1}], 5),
    ],
)
def test_an_instance_group_counts_on_each_of_its_gpus(
    groups: list[dict[str, Any]], instances: int
) -> None:
    config = {"max_batch_size": 8, "instance_group": groups}
    assert version_info(1, config, METADATA).instances == instances


def test_it_is_known_how_many_instances_run_on_cores_and_which_sizes_are_preferred() -> None:
    groups = [{"count": 2, "kind": "KIND_GPU", "gpus": [0, 1]}, {"count": 3, "kind": "KIND_CPU"}]
    batching = {"preferred_batch_size": [8, 16, 4]}
    config = {"max_batch_size": 32, "instance_group": groups, "dynamic_batching": batching}
    info = version_info(1, config, METADATA)
    assert (info.instances, info.on_cores, info.preferred) == (7, 3, 16)
    plain = version_info(1, {"max_batch_size": 8, "dynamic_batching": {}}, METADATA)
    assert (plain.instances, plain.on_cores, plain.preferred) == (1, 0, 0)


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(0, [0]), (1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])],
)
def test_a_version_is_warmed_up_to_its_largest_batch(largest: int, sizes: list[int]) -> None:
    assert batch_sizes(largest) == sizes
