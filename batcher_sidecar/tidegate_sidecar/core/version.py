"""What the data plane must know of a version that Triton has ready."""

from dataclasses import dataclass
from typing import Final

from tidegate_contract.acknowledgement import Tensor

SEQUENCE_IDLE: Final = 60.0
"""Seconds, where a model's configuration gives none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionInfo:
    """A ready version, from Triton's metadata and config.

    ``max_batch_size`` 0: the model takes no batches. ``batchable`` is False too for sequence and
    decoupled models: their requests pass one by one. ``instances``: how many executions Triton
    runs side by side; ``on_cores``: those of them that its configuration places on the CPU.
    ``preferred``: the largest batch size that it prefers; 0: it names none. Shapes are without the
    batch dimension. ``stateful``: an answer depends on the requests before it. ``deterministic``:
    equal requests have equal answers. ``sequence_idle``: seconds after
    whose last request a sequence is over. ``decoupled``: a request may have any number of answers.
    """

    version: int
    max_batch_size: int
    batchable: bool
    instances: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stateful: bool = False
    deterministic: bool = True
    decoupled: bool = False
    on_cores: int = 0
    preferred: int = 0
    sequence_idle: float = SEQUENCE_IDLE
