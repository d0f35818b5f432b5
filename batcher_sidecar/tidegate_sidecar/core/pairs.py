"""The last pairs of answers that differed, for people to look at; bounded, and off by default.

What is kept are copies of the first bytes of each tensor; they are turned into JSON only when
somebody asks.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from math import isfinite, prod
from typing import Any, Final, NamedTuple

import msgspec

from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.compare import Tensor, Tensors, values
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.shadows import Shadow

MOST: Final = 32
REQUEST_BYTES: Final = 32 * 2**10
ANSWER_BYTES: Final = 16 * 2**10
"""Of each answer: with its request a pair holds at most 64 KiB of tensors."""


class _Cut(NamedTuple):
    """A tensor of which no more than the first bytes are kept."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: bytes
    whole: bool


class Pair(NamedTuple):
    """A request, both answers, and how they differ. ``at``: seconds of the clock here."""

    at: float
    request: list[_Cut]
    parameters: bytes
    stable: list[_Cut]
    canary: list[_Cut] | Refusal
    difference: str


class Pairs:
    """One model's last pairs."""

    def __init__(self) -> None:
        self._kept: deque[Pair] = deque(maxlen=MOST)
        self._wanted = False

    @property
    def wanted(self) -> bool:
        """Whether any are kept."""
        return self._wanted

    @wanted.setter
    def wanted(self, wanted: bool) -> None:
        self._wanted = wanted
        if not wanted:
            self._kept.clear()

    def keep(self, shadow: Shadow, canary: Tensors | Refusal, difference: str, now: float) -> None:
        """Keep a pair in place of the oldest."""
        group = shadow.plan.group
        first = [shadow.plan.rows] if group.batched else []
        inputs = [
            (name, datatype, [*first, *shape], buffer)
            for (name, datatype, shape), buffer in zip(group.inputs, shadow.buffers, strict=True)
        ]
        pair = Pair(
            at=now,
            request=_cut(inputs, REQUEST_BYTES),
            parameters=group.parameters,
            stable=_cut_answer(shadow.answered),
            canary=canary if isinstance(canary, Refusal) else _cut_answer(canary),
            difference=difference,
        )
        self._kept.append(pair)

    @property
    def kept(self) -> list[Pair]:
        """What is kept now, the newest last."""
        return list(self._kept)


def to_json(pairs: Iterable[Pair], epoch: float) -> bytes:
    """Write pairs for people. ``epoch``: the Unix time at 0 of the clock here."""
    return msgspec.json.encode({"pairs": [_written(pair, epoch) for pair in pairs]})


def _cut_answer(answer: Tensors) -> list[_Cut]:
    found = ((name, one.datatype, one.shape, one.data) for name, one in answer.items())
    return _cut(found, ANSWER_BYTES)


def _cut(found: Iterable[tuple[str, str, Sequence[int], Buffer]], room: int) -> list[_Cut]:
    kept = []
    for name, datatype, shape, data in found:
        kept.append(_Cut(name, datatype, shape, bytes(data[:room]), whole=len(data) <= room))
        room -= len(kept[-1].data)
    return kept


def _written(pair: Pair, epoch: float) -> dict[str, Any]:
    canary = pair.canary
    return {
        "at": epoch + pair.at,
        "request": _named(pair.request),
        "parameters": msgspec.Raw(pair.parameters),
        "stable": _named(pair.stable),
        "canary": {"error": f"{canary.status} {canary.message}"}
        if isinstance(canary, Refusal)
        else _named(canary),
        "difference": pair.difference,
    }


def _named(cut: Iterable[_Cut]) -> dict[str, Any]:
    """Tensors by name, in the form of KServe v2's JSON, their data flat."""
    return {
        one.name: {"datatype": one.datatype, "shape": one.shape, "data": _data(one)}
        | ({} if one.whole else {"truncated": True})
        for one in cut
    }


def _data(one: _Cut) -> list[Any]:
    """The values of which all bytes are there; what JSON cannot carry as text."""
    if one.datatype == tensors.BYTES:
        return [str(element, errors="backslashreplace") for element in _complete(one.data)]
    size = tensors.ELEMENT_BYTES[one.datatype]
    count = min(len(one.data) // size, prod(one.shape))
    flat = values(Tensor(one.datatype, (count,), one.data[: count * size])).tolist()
    return [v if not isinstance(v, float) or isfinite(v) else str(v) for v in flat]


def _complete(data: bytes) -> Iterable[memoryview]:
    try:
        yield from tensors.elements(memoryview(data))
    except ValueError:
        return  # the last one was cut
