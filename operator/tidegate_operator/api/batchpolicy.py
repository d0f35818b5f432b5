"""BatchPolicy: how requests of its models are queued and batched, applied without a restart."""

from typing import Literal

from msgspec.structs import replace

from tidegate_contract import table
from tidegate_contract.table import LEVELS, BatchSettings
from tidegate_operator.api.meta import Condition, Metadata, Stored, Wire
from tidegate_operator.api.quantity import octets, seconds

KIND = "BatchPolicy"
PLURAL = "batchpolicies"
_MAX_WAIT = BatchSettings().max_wait
_OF_TARGET = 0.5
"""Of the target latency that the wait takes at most where the policy does not say."""


class Queue(Wire, frozen=True, kw_only=True):
    """Bounds of the queue in each pod."""

    max_size: int = 1000
    on_full: Literal["Reject", "DropLowest"] = "Reject"


class Level(Wire, frozen=True, kw_only=True):
    """What differs from the defaults at one priority, 1 the highest."""

    level: int
    name: str | None = None
    wait_multiplier: float | None = None
    max_queue: int | None = None
    max_slice_latency: str | None = None

    def over(self, usual: table.Level) -> table.Level:
        """The level with what is said here in place of what is usual."""
        wait, longest = self.wait_multiplier, self.max_slice_latency
        return replace(
            usual,
            name=self.name or usual.name,
            wait_multiplier=usual.wait_multiplier if wait is None else wait,
            max_queue=self.max_queue,
            max_slice=None if longest is None else seconds(longest),
        )


class Priorities(Wire, frozen=True, kw_only=True):
    """The levels, and how those that wait for long are served."""

    default: int | None = None
    aging_after: str = "2s"
    aging_reserve: float = 0.05
    levels: list[Level] = []

    @property
    def resolved(self) -> tuple[table.Level, ...]:
        """Every level: as many as the highest listed number says, five where none is listed."""
        said = {one.level: one for one in self.levels}
        numbers = range(1, max(said, default=len(LEVELS)) + 1)
        return tuple(
            said[number].over(_usual(number)) if number in said else _usual(number)
            for number in numbers
        )


class Deadline(Wire, frozen=True, kw_only=True):
    """For requests that name none."""

    default: str = "30s"
    early_drop: bool = True


class Deduplication(Wire, frozen=True, kw_only=True):
    """Equal requests are sent once. ``max_bytes``: a Kubernetes quantity."""

    enabled: bool = False
    ttl: str = "10s"
    max_entries: int = 10_000
    max_bytes: int | str = "64Mi"

    @property
    def settings(self) -> table.Deduplication | None:
        """As the routing table carries it."""
        if not self.enabled:
            return None
        return table.Deduplication(
            ttl=seconds(self.ttl), max_entries=self.max_entries, max_bytes=octets(self.max_bytes)
        )


class Spec(Wire, frozen=True, kw_only=True):
    """What the user asks for. ``memory_limit``: a Kubernetes quantity."""

    models: list[str]
    strategy: str = "Adaptive"
    min_batch_size: int = 1
    max_batch_size: int | None = None
    max_wait: str | None = None
    target_latency: str | None = None
    optimize: Literal["Throughput", "Latency"] = "Throughput"
    hardware: Literal["Auto", "GPU", "CPU"] = "Auto"
    memory_limit: int | str | None = None
    queue: Queue = Queue()
    priorities: Priorities = Priorities()
    deadline: Deadline = Deadline()
    deduplication: Deduplication = Deduplication()

    @property
    def target(self) -> float | None:
        """The target latency in seconds."""
        return None if self.target_latency is None else seconds(self.target_latency)

    @property
    def memory(self) -> int | None:
        """The memory limit in bytes."""
        return None if self.memory_limit is None else octets(self.memory_limit)

    @property
    def settings(self) -> BatchSettings:
        """The settings as the routing table carries them."""
        levels = self.priorities.resolved
        default = self.priorities.default or BatchSettings().default_level
        return BatchSettings(
            strategy=self.strategy,
            min_batch_size=self.min_batch_size,
            max_batch_size=self.max_batch_size,
            max_wait=self._max_wait,
            target_latency=self.target,
            optimize=self.optimize,
            hardware=self.hardware,
            memory_limit=self.memory,
            queue_max_size=self.queue.max_size,
            on_full=self.queue.on_full,
            default_level=min(default, len(levels)),
            aging_after=seconds(self.priorities.aging_after),
            aging_reserve=self.priorities.aging_reserve,
            levels=levels,
            deadline=seconds(self.deadline.default) or None,
            early_drop=self.deadline.early_drop,
            deduplication=self.deduplication.settings,
        )

    @property
    def _max_wait(self) -> float:
        if self.max_wait is not None:
            return seconds(self.max_wait)
        return _MAX_WAIT if self.target is None else min(_MAX_WAIT, _OF_TARGET * self.target)


class Live(Wire, frozen=True, kw_only=True):
    """How a model is batched just now, over all of its pods; times are seconds.

    ``strategy``: the one that runs. ``batch_size``: rows of a batch lately. ``cost``: what a batch
    of n rows takes, a + b n with ``fixed_seconds`` for a and ``seconds_per_row`` for b.
    ``queue_length``: requests that wait. ``dropped``: rejected or expired since these pods'
    sidecars started. ``p99``: of the slowest pod. ``row_bytes``: what a row takes of the memory
    limit, of the largest lately. None where too little was seen.
    """

    model: str
    strategy: str = ""
    batch_size: float | None = None
    cost: str = ""
    fixed_seconds: float | None = None
    seconds_per_row: float | None = None
    queue_length: int = 0
    dropped: int = 0
    p99: float | None = None
    row_bytes: int | None = None
    notes: list[str] = []


class Status(Wire, frozen=True, kw_only=True):
    """What is so. ``revision``: of the routing table that brought the settings to the pods, the
    highest one where there are several models.
    """

    phase: str = ""
    applied_pods: int = 0
    total_pods: int = 0
    revision: int = 0
    live: list[Live] = []
    message: str = ""
    display: dict[str, str] = {}
    conditions: list[Condition] = []
    observed_generation: int = -1


class BatchPolicy(Stored, frozen=True, kw_only=True):
    """The object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()


def _usual(number: int) -> table.Level:
    """A level where a policy says nothing of it: below the fifth they are all as the fifth."""
    if number <= len(LEVELS):
        return LEVELS[number - 1]
    return replace(LEVELS[-1], level=number, name=f"level-{number}")
