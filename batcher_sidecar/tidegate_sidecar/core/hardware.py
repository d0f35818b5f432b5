"""What a version runs on decides how many batches Triton may have of it, and their usual size.

On a GPU a batch for each instance: while one computes, the next is copied there, and the driver
shares the device. On cores a batch for each instance too, but not more than there are cores: more
at a time share the same cores, so that none is finished sooner, and what they took could have
gathered into larger batches meanwhile.

The size needs no rule of its own for each: where batching saves little, as on cores, the learned
cost says so, and nothing waits for it.
"""

from typing import Literal, NamedTuple

from tidegate_sidecar.core.version import VersionInfo

Hardware = Literal["Auto", "GPU", "CPU"]
"""What a policy says that a model runs on; Auto: as its configuration in Triton says."""


class Capacity(NamedTuple):
    """``slots``: batches in flight at most. ``usual``: rows of a batch, unless a policy says it."""

    slots: int
    usual: int


def capacity(info: VersionInfo, hardware: Hardware, cores: int | None) -> Capacity:
    """What to send of a version. ``cores``: that Triton may use; None: not known, so no bound.

    A python model's configuration mostly says CPU, whatever its code computes on: that is what a
    policy's own word is for.

    The usual size is the largest that the configuration prefers, as a model that was compiled for
    some sizes is slow at others; else the largest that the model takes.
    """
    on_cores = {"GPU": 0, "CPU": info.instances}.get(hardware, info.on_cores)
    at_once = on_cores if cores is None else min(on_cores, max(cores, 1))
    most = max(info.max_batch_size, 1)
    return Capacity(info.instances - on_cores + at_once, min(info.preferred or most, most))
