"""BatchPolicy: how requests of its models are queued and batched, applied without a restart."""

from tidegate_contract.table import BatchSettings
from tidegate_operator.api.meta import Condition, Metadata, Stored, Wire
from tidegate_operator.api.quantity import seconds

KIND = "BatchPolicy"
PLURAL = "batchpolicies"


class Queue(Wire, frozen=True, kw_only=True):
    """Bounds of the queue in each pod."""

    max_size: int = 1000


class Spec(Wire, frozen=True, kw_only=True):
    """What the user asks for."""

    models: list[str]
    max_batch_size: int | None = None
    max_wait: str = "0s"
    queue: Queue = Queue()

    @property
    def settings(self) -> BatchSettings:
        """The settings as the routing table carries them."""
        return BatchSettings(
            max_batch_size=self.max_batch_size,
            max_wait=seconds(self.max_wait),
            queue_max_size=self.queue.max_size,
        )


class Status(Wire, frozen=True, kw_only=True):
    """What is so. ``models`` holds each model's part, which several reconciles write one by one."""

    phase: str = ""
    applied_pods: int = 0
    total_pods: int = 0
    message: str = ""
    display: dict[str, str] = {}
    conditions: list[Condition] = []
    observed_generation: int = -1


class BatchPolicy(Stored, frozen=True, kw_only=True):
    """The object."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()
