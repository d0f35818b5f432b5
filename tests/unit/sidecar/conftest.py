"""Tables, versions and requests for the tests of the data plane."""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import uvloop

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import (
    Arm,
    Assignment,
    BatchSettings,
    Check,
    LoadedVersion,
    RoutingTable,
    Share,
)
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.core.version import VersionInfo

X = Tensor(name="x", datatype="FP32", shape=[2])
Y = Tensor(name="y", datatype="FP32", shape=[2])


class Make:
    """Builds what the tests need, with what they do not care about left out."""

    @staticmethod
    def table(
        *split: tuple[str, int, int],
        revision: int = 1,
        checks: Sequence[Check] = (),
        assignment: Assignment | None = None,
        batch: BatchSettings | None = None,
        loaded: Sequence[int] = (),
    ) -> RoutingTable:
        """A table of arms (name, version, weight); all of it stable's version 1 by default."""
        arms = [Arm(name=n, version=v, weight=w) for n, v, w in split or [("stable", 1, 10_000)]]
        versions = {arm.version for arm in arms} | set(loaded)
        return RoutingTable(
            namespace="default",
            model="m",
            revision=revision,
            split_revision=revision,
            split=arms,
            assignment=assignment,
            versions=[LoadedVersion(version=version) for version in sorted(versions)],
            checks=list(checks),
            batch=batch or BatchSettings(strategy="Fixed", max_wait=0.0),
            baseline=[Share(version=arms[0].version, weight=10_000)],
        )

    @staticmethod
    def version(
        version: int = 1,
        *,
        max_batch_size: int = 8,
        batchable: bool = True,
        instances: int = 1,
        inputs: Sequence[Tensor] = (X,),
        outputs: Sequence[Tensor] = (Y,),
    ) -> VersionInfo:
        """A version that takes two floats a row and gives two."""
        return VersionInfo(
            version=version,
            max_batch_size=max_batch_size,
            batchable=batchable,
            instances=instances,
            inputs=tuple(inputs),
            outputs=tuple(outputs),
        )

    def runtime(self, table: RoutingTable | None = None, *versions: VersionInfo) -> ModelRuntime:
        """A model with a table and ready versions."""
        runtime = ModelRuntime("m", "pod-1")
        runtime.apply(table or self.table())
        for info in versions or [self.version()]:
            runtime.version_ready(info)
        return runtime

    @staticmethod
    def body(
        rows: int = 1, *, datatype: str = "FP32", shape: Sequence[int] = (2,), **fields: Any
    ) -> tuple[bytes, int]:
        """A request of one binary input of zeros; the body and how much of it is JSON."""
        count = rows
        for size in shape:
            count *= size
        data = bytes(4 * count)
        tensor = {
            "name": "x",
            "datatype": datatype,
            "shape": [rows, *shape],
            "parameters": {"binary_data_size": len(data)},
        }
        header = json.dumps({"inputs": [tensor]} | fields).encode()
        return header + data, len(header)

    def submit(
        self,
        runtime: ModelRuntime,
        now: float = 0.0,
        *,
        version: int | None = None,
        headers: Mapping[str, str] | None = None,
        caller: Any = None,
        **body: Any,
    ) -> Any:
        """Hand one request in."""
        data, json_length = self.body(**body)
        return runtime.submit(
            caller,
            data,
            json_length=json_length,
            version=version,
            headers=headers or {},
            now=now,
        )

    @staticmethod
    def reply(rows: int) -> tuple[bytes, int]:
        """Triton's answer to a batch: output y of zeros; the body and how much is JSON."""
        tensor = {
            "name": "y",
            "datatype": "FP32",
            "shape": [rows, 2],
            "parameters": {"binary_data_size": 8 * rows},
        }
        header = json.dumps({"model_name": "m", "outputs": [tensor]}).encode()
        return header + bytes(8 * rows), len(header)


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that the sidecar runs on: its transports are not quite asyncio's."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def make() -> Make:
    """Builds tables, versions, requests and runtimes."""
    return Make()
