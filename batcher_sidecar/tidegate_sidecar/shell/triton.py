"""Triton's control interface on localhost: what is loaded, loading it, warming it, and regions.

The one place that knows tritonclient and its errors.
"""

import asyncio
import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self

import aiohttp
import numpy as np
from tritonclient.http.aio import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from tidegate_contract.acknowledgement import Tensor
from tidegate_sidecar.core.version import SEQUENCE_IDLE, VersionInfo

Config = dict[str, Any]
"""A model's configuration in the JSON form of Triton's protocol."""

DETERMINISTIC: Final = "tidegate.deterministic"
"""Of the parameters in a model's configuration."""

PROBE_TIMEOUT: Final = 5.0
WARM_UP_TIMEOUT: Final = 60.0


class TritonError(Exception):
    """Triton answered with an error; the message is its own."""


class TritonGoneError(Exception):
    """Nobody listens there, or the connection broke before the answer."""


class Triton:
    """A client of one Triton. Loading has no time limit: large models take many minutes.

    Every method raises TritonError or TritonGoneError, and TimeoutError where a limit is named.
    """

    def __init__(self, address: str) -> None:
        self._client = InferenceServerClient(address, conn_timeout=None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def is_live(self) -> bool:
        """Whether the server answers; limit PROBE_TIMEOUT."""
        with _translated():
            async with asyncio.timeout(PROBE_TIMEOUT):
                return bool(await self._client.is_server_live())

    async def is_ready(self, model: str, version: int) -> bool:
        """Whether the version can be sent requests; limit PROBE_TIMEOUT."""
        with _translated():
            async with asyncio.timeout(PROBE_TIMEOUT):
                return bool(await self._client.is_model_ready(model, str(version)))

    async def states(self, model: str) -> dict[int, tuple[bool, str]]:
        """By version that Triton has tried to load: whether it is ready, else why it is not."""
        with _translated():
            index = await self._client.get_model_repository_index()
        return {
            int(row["version"]): (row.get("state") == "READY", row.get("reason", ""))
            for row in index
            if row["name"] == model and "version" in row
        }

    async def load_by_file(self, model: str) -> None:
        """Load the versions that the repository's own config.pbtxt names."""
        with _translated():
            await self._client.load_model(model)

    async def load(self, model: str, versions: Collection[int], config: Mapping[str, Any]) -> None:
        """Make these versions, and no others, the ones that are loaded.

        Since 24.08 versions that are loaded already are not loaded again if neither their files
        nor anything else in the configuration changed.
        """
        policy = {"specific": {"versions": sorted(versions)}}
        with _translated():
            text = json.dumps({**config, "name": model, "version_policy": policy})
            await self._client.load_model(model, config=text)

    async def unload(self, model: str) -> None:
        """Unload all versions."""
        with _translated():
            await self._client.unload_model(model)

    async def config(self, model: str, version: int) -> Config:
        """The configuration of a loaded version, with what Triton completed by itself."""
        with _translated():
            return dict(await self._client.get_model_config(model, str(version)))

    async def describe(self, model: str, version: int) -> VersionInfo:
        """What the data plane must know of a loaded version."""
        config = await self.config(model, version)
        with _translated():
            metadata = await self._client.get_model_metadata(model, str(version))
        return version_info(version, config, metadata)

    async def regions(self) -> list[str]:
        """The names of the regions of the system's shared memory that it has mapped."""
        with _translated():
            return [row["name"] for row in await self._client.get_system_shared_memory_status()]

    async def register(self, name: str, size: int) -> None:
        """Have it map a file of shared memory, as the region of the same name.

        That it does so shows that it sees the file: its container may have a /dev/shm of its own.
        """
        with _translated():
            await self._client.register_system_shared_memory(name, f"/{name}", size)

    async def unregister(self, name: str) -> None:
        """Have it unmap a region. While a request uses one, 2.51 refuses, later ones wait."""
        with _translated():
            await self._client.unregister_system_shared_memory(name)

    async def infer_zeros(self, model: str, info: VersionInfo, batch: int) -> None:
        """Run one batch of zeros (0: without a batch dimension); limit WARM_UP_TIMEOUT."""
        with _translated():
            inputs = [_zeros(tensor, batch) for tensor in info.inputs if not tensor.optional]
            async with asyncio.timeout(WARM_UP_TIMEOUT):
                await self._client.infer(model, inputs, model_version=str(info.version))


def version_info(
    version: int, config: Mapping[str, Any], metadata: Mapping[str, Any]
) -> VersionInfo:
    """Read a version's configuration and metadata.

    An instance group counts once for each of its GPUs, as Triton starts them. A model whose equal
    requests have different answers says so by the parameter ``tidegate.deterministic``, "false".
    """
    max_batch_size = config.get("max_batch_size", 0)
    decoupled = config.get("model_transaction_policy", {}).get("decoupled", False)
    instances = list(map(_instances, config.get("instance_group", [])))
    preferred = config.get("dynamic_batching", {}).get("preferred_batch_size", [])
    marked = config.get("parameters", {}).get(DETERMINISTIC, {}).get("string_value", "true")
    idle = config.get("sequence_batching", {}).get("max_sequence_idle_microseconds")
    optional = {one["name"] for one in config.get("input", []) if one.get("optional")}

    def tensor(row: Mapping[str, Any]) -> Tensor:
        return Tensor(
            name=row["name"],
            datatype=row["datatype"],
            shape=row["shape"][1:] if max_batch_size else row["shape"],
            optional=row["name"] in optional,
        )

    return VersionInfo(
        version=version,
        max_batch_size=max_batch_size,
        batchable=max_batch_size > 0 and not decoupled and "sequence_batching" not in config,
        instances=sum(count for _, count in instances) or 1,
        on_cores=sum(count for kind, count in instances if kind == "KIND_CPU"),
        preferred=max(preferred, default=0),
        inputs=tuple(map(tensor, metadata["inputs"])),
        outputs=tuple(map(tensor, metadata["outputs"])),
        stateful="sequence_batching" in config,
        decoupled=decoupled,
        deterministic=marked.strip().lower() != "false",
        sequence_idle=int(idle) / 1e6 if idle else SEQUENCE_IDLE,
    )


def _instances(group: Mapping[str, Any]) -> tuple[str, int]:
    """The kind of an instance group, and how many instances Triton starts of it."""
    return group.get("kind", ""), group["count"] * max(1, len(group.get("gpus", [])))


def _zeros(tensor: Tensor, batch: int) -> InferInput:
    """Zeros, or empty strings; a dimension of any size is 1."""
    shape = [*([batch] if batch else []), *(max(1, size) for size in tensor.shape)]
    data = (
        np.full(shape, b"", dtype=np.object_)
        if tensor.datatype == "BYTES"
        else np.zeros(shape, dtype=triton_to_np_dtype(tensor.datatype))
    )
    made = InferInput(tensor.name, shape, tensor.datatype)
    made.set_data_from_numpy(data)
    return made


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except InferenceServerException as error:
        raise TritonError(error.message()) from error
    except TimeoutError:
        raise
    except (aiohttp.ClientError, OSError) as error:
        raise TritonGoneError(str(error)) from error
