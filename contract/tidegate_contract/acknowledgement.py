"""What a sidecar says of itself at ``/routing``: the tables it applies and its Triton's versions.

The operator starts a step's clock only when every ready pod has said so: a weight that is not
live proves nothing.
"""

from typing import Literal

import msgspec

from tidegate_contract.table import Record


class Tensor(Record, frozen=True, kw_only=True):
    """An input or output as Triton's model metadata names it; ``shape`` without the batch: -1 is
    any size. ``optional``: a request may leave this input out (the model's config says so).
    """

    name: str
    datatype: str
    shape: list[int]
    optional: bool = False


class VersionState(Record, frozen=True, kw_only=True):
    """One version in one pod's Triton. ``error`` says why it failed to load, in Triton's words."""

    state: Literal["Loading", "Ready", "Failed"]
    error: str | None = None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []


class Acknowledgement(Record, frozen=True, kw_only=True):
    """The table that a pod applies for one model.

    ``refused`` says why a newer table was not applied. ``versions`` holds every version that the
    table wants here and those that are still being unloaded.
    """

    table_uid: str | None = None
    revision: int = 0
    digest: str = ""
    refused: str | None = None
    versions: dict[int, VersionState] = {}


class PodReport(Record, frozen=True, kw_only=True):
    """The answer of ``GET /routing``: by model."""

    pod: str
    pod_uid: str
    ready: bool
    models: dict[str, Acknowledgement] = {}


def decode(body: bytes) -> PodReport:
    """Read a pod's report.

    Raises:
        msgspec.DecodeError: not a report; says where.
    """
    return msgspec.json.decode(body, type=PodReport)
