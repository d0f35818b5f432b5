"""One request that goes to Triton in several batches: its inputs cut, its answers put together.

Rows are independent of each other, or no batcher might stack them; so any rows of a request may go
by themselves, and their outputs laid end to end are what the whole would have got. Nothing is
copied: inputs are cut as views, and an answer is kept as the pieces that it came in.
"""

from collections.abc import Sequence
from math import prod

from tidegate_sidecar.core import tensors
from tidegate_sidecar.core.exchange import BadReplyError, Cut, Rows
from tidegate_sidecar.core.request import Buffer, Group


class Slices:
    """A request of ``rows`` rows that is sent in slices. ``buffers``: its inputs, as its group's.

    Usage::

        slices.cut(0, 64), slices.cut(64, 36)  # inputs of two batches
        slices.add(64, later)  # None: some are missing
        slices.add(0, first)  # the whole answer
    """

    def __init__(self, group: Group, rows: int, buffers: Sequence[Buffer]) -> None:
        self.rows = rows
        self._buffers = [memoryview(one) for one in buffers]
        self._offsets = [
            _offsets(view, rows, datatype, shape)
            for view, (_, datatype, shape) in zip(self._buffers, group.inputs, strict=True)
        ]
        self._answers: dict[int, Rows] = {}
        self._missing = rows

    def cut(self, begin: int, rows: int) -> list[Buffer]:
        """Cut ``rows`` rows of every input, from a row on."""
        end = begin + rows
        return [
            view[offsets[begin] : offsets[end]]
            for view, offsets in zip(self._buffers, self._offsets, strict=True)
        ]

    def add(self, begin: int, rows: int, answered: Rows) -> Rows | None:
        """Take what was answered to the slice that begins at a row; all of it once that is here.

        Raises:
            BadReplyError: the slices' outputs do not fit each other.
        """
        for name, cut in answered.outputs.items():
            if cut.shape[:1] != (rows,):
                raise BadReplyError(
                    f"output {name} has the shape {list(cut.shape)} for a batch of {rows} rows"
                )
        self._answers[begin] = answered
        self._missing -= rows
        return None if self._missing else self._join()

    def _join(self) -> Rows:
        answers = [self._answers[begin] for begin in sorted(self._answers)]
        first = answers[0]
        names = first.outputs.keys()
        if any(one.outputs.keys() != names for one in answers):
            raise BadReplyError("the model gave other outputs for some rows than for others")
        outputs = {}
        for name, cut in first.outputs.items():
            cuts = [one.outputs[name] for one in answers]
            if any((one.datatype, one.shape[1:]) != (cut.datatype, cut.shape[1:]) for one in cuts):
                raise BadReplyError(
                    f"output {name}: rows have the shapes "
                    f"{sorted({one.shape[1:] for one in cuts})} in one request"
                )
            pieces = tuple(piece for one in cuts for piece in one.pieces)
            outputs[name] = Cut(cut.datatype, (self.rows, *cut.shape[1:]), pieces)
        return Rows(first.label, outputs)


def _offsets(view: memoryview, rows: int, datatype: str, shape: tuple[int, ...]) -> Sequence[int]:
    """Where each row of an input begins, and where the last one ends."""
    if datatype == tensors.BYTES:
        return tensors.row_offsets(view, rows, prod(shape))
    stride = prod(shape) * tensors.ELEMENT_BYTES[datatype]
    return range(0, stride * rows + 1, stride) if stride else [0] * (rows + 1)
