"""The routing table: what the operator decided for one model, as every sidecar of it reads it.

The operator writes one table for each model into a ConfigMap: ``table.json`` and, beside it,
``table.json.sha256``, so that a hand edit is noticed (and can be checked with ``sha256sum``).
Sidecars apply a table as a whole or not at all. Weights are basis points: 10,000 is everything.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from tidegate_contract import names

SCHEMA: Final = 1
WHOLE: Final = 10_000


class TableError(ValueError):
    """A table that must not be applied; the message says which rule it breaks."""


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of all parts of a table: immutable, compared by value, camelCase in JSON."""


class Share(Record, frozen=True, kw_only=True):
    """A version's share of the baseline, the split that holds when nobody owns the model."""

    version: int
    weight: int


class Arm(Record, frozen=True, kw_only=True):
    """A named share of the model's live traffic."""

    name: str
    version: int
    weight: int


class Owner(Record, frozen=True, kw_only=True):
    """The object that decides the split now."""

    kind: str
    name: str
    uid: str


class Latch(Record, frozen=True, kw_only=True):
    """A rollback that is decided for good: this uid never gets weight again.

    ``reason``: the sentence that its status tells; ``cause``: the one word for it there, empty in
    tables of operators that did not write it.
    """

    uid: str
    reason: str
    cause: str = ""


class Assignment(Record, frozen=True, kw_only=True):
    """Sticky assignment: the arm is a hash of (salt, value of the header).

    ``unassigned``: the version that serves requests without the header, as that arm and outside
    the evidence; None: they are spread.
    """

    header: str
    salt: str
    unassigned: int | None = None


class LoadedVersion(Record, frozen=True, kw_only=True):
    """A version that pods must have loaded.

    ``pods`` bounds where it may be loaded now: None is every pod, else the uids of the pods that
    have it or whose turn it is, so that a version that breaks its server breaks one at a time.
    """

    version: int
    pods: list[str] | None = None


class ErrorCheck(Record, frozen=True, kw_only=True, tag="error", tag_field="kind"):
    """Counts the requests of each arm in ``arms``; bad are those that ended in a server error.

    Checks are counted by priority; where the table has an assignment, by bucket of users instead.
    """

    id: str
    arms: list[str]


class SlowCheck(Record, frozen=True, kw_only=True, tag="slow", tag_field="kind"):
    """Counts the requests of each arm in ``bounds``; bad are those not answered within its bound.

    ``bounds``: arm to seconds. ``priorities``: the levels concerned, None for all.
    """

    id: str
    bounds: dict[str, float]
    priorities: list[int] | None = None


class DisagreementCheck(Record, frozen=True, kw_only=True, tag="disagreement", tag_field="kind"):
    """Counts mirrored pairs, as arm ``shadow``; bad are those where the canary failed, or answered
    otherwise than stable.

    ``tolerance``: floats differ where they are farther apart than this, absolutely, and relative
    to the larger of them where that is above one. ``compare`` Argmax: of floats only the place of
    the largest along the last dimension counts. ``baseline``: a tenth of the pairs also go to
    stable itself, counted as arm ``stable``: how often a version disagrees with itself.
    """

    id: str
    tolerance: float
    compare: Literal["Values", "Argmax"] = "Values"
    baseline: bool = False


Check = ErrorCheck | SlowCheck | DisagreementCheck


class Mirror(Record, frozen=True, kw_only=True):
    """Copies of stable's requests that also go to ``version``; ``weight``: their share of stable's
    requests in basis points.
    """

    version: int
    weight: int


class Outcome(Record, frozen=True, kw_only=True):
    """A success metric that clients report by feedback; values outside [low, high] are refused."""

    name: str
    kind: Literal["Binary", "Value"]
    low: float = 0.0
    high: float = 1.0


class Experiment(Record, frozen=True, kw_only=True):
    """A running test's outcomes: answers carry a feedback token.

    ``covariate``: the header that gives a number for each user. ``until``: epoch seconds after
    which no feedback is taken; None while the test runs on.
    """

    uid: str
    outcomes: list[Outcome]
    covariate: str | None = None
    until: float | None = None


class Level(Record, frozen=True, kw_only=True):
    """One priority, 1 the highest.

    ``wait_multiplier``: of ``max_wait``, for a batch whose first request has this level.
    ``max_queue``: requests of it that may wait in one pod; None: only the whole queue is bounded.
    ``max_slice``: seconds that what it sends at once may take while a higher level is alive.
    """

    level: int
    name: str
    wait_multiplier: float = 1.0
    max_queue: int | None = None
    max_slice: float | None = None


LEVELS: Final = (
    Level(level=1, name="critical", wait_multiplier=0.1),
    Level(level=2, name="high", wait_multiplier=0.5),
    Level(level=3, name="normal"),
    Level(level=4, name="low", wait_multiplier=2.0),
    Level(level=5, name="background", wait_multiplier=4.0),
)
"""Where a policy names none."""


class Deduplication(Record, frozen=True, kw_only=True):
    """Equal requests are sent once. ``ttl``: seconds that answers are kept for later ones."""

    ttl: float = 10.0
    max_entries: int = 10_000
    max_bytes: int = 64 * 2**20


class BatchSettings(Record, frozen=True, kw_only=True):
    """What a BatchPolicy sets, resolved; times are seconds.

    ``max_batch_size``: None is what the model allows. ``max_wait``: how long the oldest request of
    an incomplete batch may wait while the device is free. ``target_latency``: what 99% of the
    requests are to be answered within, queue included. ``memory_limit``: bytes of a batch's inputs
    and outputs. ``queue_max_size``: requests waiting in one pod. ``levels``: from 1 on, without a
    gap. ``aging_after``, ``aging_reserve``: whoever waited so long may use so much of the device's
    time. ``deadline``: until a request without one of its own is answered.
    """

    strategy: str = "Adaptive"
    min_batch_size: int = 1
    max_batch_size: int | None = None
    max_wait: float = 0.005
    target_latency: float | None = None
    optimize: Literal["Throughput", "Latency"] = "Throughput"
    hardware: Literal["Auto", "GPU", "CPU"] = "Auto"
    memory_limit: int | None = None
    queue_max_size: int = 1000
    on_full: Literal["Reject", "DropLowest"] = "Reject"
    default_level: int = 3
    aging_after: float = 2.0
    aging_reserve: float = 0.05
    levels: tuple[Level, ...] = LEVELS
    deadline: float | None = 30.0
    early_drop: bool = True
    deduplication: Deduplication | None = None


class RoutingTable(Record, frozen=True, kw_only=True):
    """One model's table.

    ``split_revision`` is the revision that last changed what requests are routed by (the split
    and its assignment): a step waits for it, not for later edits of, say, the batch settings.
    ``claims`` are the shares that the ModelVersions' specs asked for when ``baseline`` was set,
    by version: specs that still ask for the same do not overrule a promotion.
    """

    schema: int = SCHEMA
    namespace: str
    model: str
    revision: int
    split_revision: int
    owner: Owner | None = None
    latch: Latch | None = None
    split: list[Arm]
    assignment: Assignment | None = None
    mirror: Mirror | None = None
    versions: list[LoadedVersion]
    checks: list[Check] = []
    experiment: Experiment | None = None
    batch: BatchSettings = BatchSettings()
    baseline: list[Share]
    claims: dict[int, int] = {}

    @property
    def default_version(self) -> int:
        """The version that serves what has no arm of its own: stable's, or control's, largest."""
        main = {names.ARM_STABLE, names.ARM_CONTROL}
        stable = [arm for arm in self.split if arm.name in main]
        return max(stable or self.split, key=lambda arm: arm.weight).version


def encode(table: RoutingTable) -> tuple[str, str]:
    """Write a table as people can read it; returns (JSON text, hex sha256 of that text)."""
    text = msgspec.json.format(msgspec.json.encode(table), indent=2).decode()
    return text, hashlib.sha256(text.encode()).hexdigest()


def decode(text: str, digest: str) -> RoutingTable:
    """Read a table and hold it to its rules.

    Raises:
        TableError: another schema, a digest that does not fit (a hand edit), weights that do not
            add up, an arm whose version no pod is told to load.
    """
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise TableError("the digest does not fit the text: it was edited by hand or cut short")
    try:
        table = msgspec.json.decode(text, type=RoutingTable)
    except msgspec.DecodeError as error:
        raise TableError(f"not a routing table: {error}") from error
    if table.schema != SCHEMA:
        raise TableError(f"schema {table.schema} is not the one understood here, {SCHEMA}")
    check(table)
    return table


def check(table: RoutingTable) -> None:
    """Hold a table to the rules that its types cannot say.

    Raises:
        TableError: naming the rule.
    """
    loaded = {row.version for row in table.versions}
    _check_weights("split", [arm.weight for arm in table.split])
    _check_weights("baseline", [share.weight for share in table.baseline])
    for arm in table.split:
        if arm.version not in loaded:
            raise TableError(f"arm {arm.name} needs version {arm.version}, which is not loaded")
    if table.mirror is not None and table.mirror.version not in loaded:
        raise TableError(f"the mirror needs version {table.mirror.version}, which is not loaded")
    if table.mirror is not None and not 0 <= table.mirror.weight <= WHOLE:
        raise TableError(f"the mirror's weight {table.mirror.weight} is not from 0 to {WHOLE}")
    if len({(arm.name, arm.version) for arm in table.split}) != len(table.split):
        raise TableError("an arm stands in the split twice")
    if len({one.id for one in table.checks}) != len(table.checks):
        raise TableError("two checks have one id")
    levels = [one.level for one in table.batch.levels]
    if not levels or levels != list(range(1, len(levels) + 1)):
        raise TableError(f"the levels {levels} do not run from 1 on without a gap")
    if table.batch.default_level not in levels:
        raise TableError(f"the default level {table.batch.default_level} is none of the levels")


def _check_weights(what: str, weights: Iterable[int]) -> None:
    weights = list(weights)
    if min(weights, default=-1) < 0 or sum(weights) != WHOLE:
        raise TableError(f"the {what}'s weights {weights} must add up to {WHOLE}")
