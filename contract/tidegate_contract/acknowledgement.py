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
    """One version in one pod's Triton. ``error`` says why it failed to load, in Triton's words; of
    one that is Loading, what it waits for.
    """

    state: Literal["Loading", "Ready", "Failed"]
    error: str | None = None
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []


class UserSample(Record, frozen=True, kw_only=True):
    """Distinct keys that a pod has seen, sampled by hash: all whose 64-bit hash is below ``limit``.

    Which keys are in the sample has nothing to do with their arm, so the counts by arm are those of
    a fair sample, and samples of several pods are united exactly (a theta sketch: Dasgupta et al.
    2016, "A framework for estimating stream expression cardinalities", sec. 3). ``arms``: by arm,
    base64 of the sorted hashes as little-endian uint64.
    """

    salt: str
    limit: int
    arms: dict[str, str] = {}


class BatchLive(Record, frozen=True, kw_only=True):
    """How one pod batches one model just now, for people to read: nothing is decided by it.

    ``strategy``: the one that runs, which is another than the policy's where that is not
    installed. ``batch_size``: rows of a batch lately, the mean. ``fixed_seconds`` and
    ``seconds_per_row``: a and b of the cost a + b n that was learned, of the version that had most
    batches lately. ``p99``: seconds from arrival to answer that 99% of the requests lately stayed
    within. ``row_bytes``: what a row takes of the policy's memory limit, its inputs and outputs,
    of the largest lately. These are None where too little was seen, the last one without a limit,
    too. ``queue_length``: requests that wait.
    ``dropped``: requests rejected or expired since the sidecar started. ``notes``: what keeps the
    pod from doing as the policy says, a sentence each.
    """

    strategy: str = ""
    batch_size: float | None = None
    fixed_seconds: float | None = None
    seconds_per_row: float | None = None
    queue_length: int = 0
    dropped: int = 0
    p99: float | None = None
    row_bytes: int | None = None
    notes: list[str] = []


class Acknowledgement(Record, frozen=True, kw_only=True):
    """The table that a pod applies for one model.

    ``refused`` says why a newer table was not applied. ``versions`` holds every version that the
    table wants here and those that are still being unloaded. ``undeclared``: versions in Triton's
    repository that the table does not name. ``users``: the sample of distinct keys of a test, by
    arm; None where nothing is assigned. ``direct_at``: by version, when a request last named it
    itself (epoch seconds). ``live``: how it batches; None before its first table.
    """

    table_uid: str | None = None
    revision: int = 0
    digest: str = ""
    refused: str | None = None
    versions: dict[int, VersionState] = {}
    undeclared: list[int] = []
    direct_at: dict[int, float] = {}
    users: UserSample | None = None
    live: BatchLive | None = None


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
