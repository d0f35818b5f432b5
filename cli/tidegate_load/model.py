"""What a model takes: its inputs as the server describes them, and values that fit them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import urllib3

from tidegate_cli.errors import CommandError, reason

_TIMEOUT: Final = urllib3.Timeout(total=10.0)
_WORD: Final = 8
"""Letters of a random string."""

_TYPES: Final[Mapping[str, Any]] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "BF16": np.float32,  # of which the upper half is taken
    "FP32": np.float32,
    "FP64": np.float64,
}


class Input(msgspec.Struct, frozen=True):
    """An input as Triton's metadata names it; -1 in a shape is any size."""

    name: str
    datatype: str
    shape: list[int]


@dataclass(frozen=True, slots=True)
class Model:
    """``batches``: whether the first dimension is that of the batch. ``path``: of its inference."""

    path: str
    inputs: Sequence[Input]
    batches: bool

    def shape(self, one: Input, rows: int, given: Mapping[str, Sequence[int]]) -> list[int]:
        """The shape of a request's input. ``given``: by input, without the batch's dimension.

        Raises:
            CommandError: it does not fit the model.
        """
        own = one.shape[1:] if self.batches else one.shape
        if not self.batches and rows != 1:
            raise CommandError(f"{rows} rows were asked for, and the model takes no batches")
        shape = list(given.get(one.name, [max(size, 1) if size == -1 else size for size in own]))
        fits = len(shape) == len(own) and all(
            wanted in (-1, size) for wanted, size in zip(own, shape, strict=True)
        )
        if not fits:
            raise CommandError(f"input {one.name} has shape {own}, which {shape} does not fit")
        return [rows, *shape] if self.batches else shape


class _Metadata(msgspec.Struct):
    inputs: list[Input]


class _Config(msgspec.Struct):
    max_batch_size: int = 0


def describe(address: str, name: str, version: int | None) -> Model:
    """Ask a server about a model. ``address``: host:port.

    Raises:
        CommandError: it does not answer, or has no such model.
    """
    path = _path(name, version)
    pool = urllib3.PoolManager(timeout=_TIMEOUT, retries=False)
    try:
        metadata = msgspec.json.decode(_get(pool, address, path), type=_Metadata)
        config = msgspec.json.decode(_get(pool, address, f"{path}/config"), type=_Config)
    except msgspec.DecodeError as error:
        raise CommandError(f"{address} does not describe {name} as KServe v2 says: {error}") from (
            error
        )
    return Model(inference_path(name, version), metadata.inputs, config.max_batch_size > 0)


def inference_path(name: str, version: int | None) -> str:
    """Where a model is asked; with a version, that one only."""
    return f"{_path(name, version)}/infer"


def _path(name: str, version: int | None) -> str:
    return f"/v2/models/{name}" + (f"/versions/{version}" if version is not None else "")


def _get(pool: urllib3.PoolManager, address: str, path: str) -> bytes:
    try:
        answer = pool.request("GET", f"http://{address}{path}")
    except urllib3.exceptions.HTTPError as error:
        raise CommandError(
            f"{address} cannot be reached: {reason(error)}. --url says where the sidecar, or "
            "Triton, listens"
        ) from error
    if answer.status != 200:  # noqa: PLR2004 - HTTP's success
        words = " ".join(answer.data.decode(errors="replace").split())[:200]
        raise CommandError(f"{address}{path} answered {answer.status}: {words}")
    return answer.data


def tensor(datatype: str, shape: Sequence[int], draw: np.random.Generator | None) -> bytes:
    """A tensor's bytes as KServe v2 sends them: zeros (empty strings), or drawn at random.

    Random numbers: floats from 0 to 1, integers from 0 to 9, which most models can look up.

    Raises:
        CommandError: it is no datatype of KServe v2.
    """
    count = int(np.prod(shape))
    if datatype == "BYTES":
        return b"".join(_string(draw) for _ in range(count))
    if datatype not in _TYPES:
        raise CommandError(f"values of datatype {datatype} cannot be made; give a --body")
    values: npt.NDArray[Any] = np.zeros(count, _TYPES[datatype])
    if draw is not None:
        whole = datatype == "BOOL" or np.issubdtype(values.dtype, np.integer)
        top = 2 if datatype == "BOOL" else 10
        drawn = draw.integers(0, top, count) if whole else draw.random(count)
        values = drawn.astype(values.dtype)
    if datatype == "BF16":
        return (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return values.tobytes()


def _string(draw: np.random.Generator | None) -> bytes:
    word = b"" if draw is None else bytes(draw.integers(ord("a"), ord("z") + 1, _WORD).tolist())
    return len(word).to_bytes(4, "little") + word
