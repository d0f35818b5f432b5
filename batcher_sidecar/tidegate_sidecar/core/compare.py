"""Whether two versions answered a request alike, and if not, in what they differ.

=============================  =================================================================
output                         alike when
=============================  =================================================================
integers, booleans             equal
BYTES                          equal, element by element
BYTES that are classes         the same classes in the same order (classification was asked for,
                               elements are ``score:class[:label]``); scores may differ
floats                         not farther apart than the tolerance, absolutely, and relative to
                               the larger of the two where that is above one; NaN is like NaN, an
                               infinity like itself
floats, by argmax              the largest along the last dimension, where that has more than one
                               place, stands in the same place (the first of equal ones)
=============================  =================================================================

Every output that stable gave must be there, of the same type and shape. What the canary gives
beyond them is not looked at: no caller of stable could have used it.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tidegate_sidecar.core import tensors

_NUMPY: Final = {
    "BOOL": "u1",
    "UINT8": "u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "BF16": "<u2",
    "FP32": "<f4",
    "FP64": "<f8",
}
_FLOATS: Final = frozenset({"FP16", "BF16", "FP32", "FP64"})
_LONGEST: Final = 80
"""Characters of a value that are told."""


class Tensor(NamedTuple):
    """A tensor's bytes, laid out as in Triton's binary data. ``classes``: its elements are such."""

    datatype: str
    shape: tuple[int, ...]
    data: bytes
    classes: bool = False


Tensors = Mapping[str, Tensor]
"""By name."""


class Rule(NamedTuple):
    """How floats are compared."""

    tolerance: float
    argmax: bool = False


def difference(stable: Tensors, canary: Tensors, rule: Rule) -> str | None:
    """Name the first difference between two answers; None where they are alike."""
    for name, ours in stable.items():
        theirs = canary.get(name)
        if theirs is None:
            return f"output {name}: the canary gave none"
        if found := _difference(ours, theirs, rule):
            return f"output {name}: {found}"
    return None


def values(tensor: Tensor) -> npt.NDArray[Any]:
    """Read a tensor's values, in its shape; elements of BYTES as Python's.

    Raises:
        ValueError: more or fewer bytes than the shape takes.
    """
    if tensor.datatype == tensors.BYTES:
        elements = tensors.elements(memoryview(tensor.data))
        flat = np.array([bytes(one) for one in elements], np.object_)
    else:
        flat = np.frombuffer(tensor.data, _NUMPY[tensor.datatype])
    if tensor.datatype == "BF16":
        # The upper half of a float of 32 bits.
        flat = (flat.astype("<u4") << 16).view("<f4")
    elif tensor.datatype == "BOOL":
        flat = flat.astype(np.bool_)
    return flat.reshape(tensor.shape)


def _difference(stable: Tensor, canary: Tensor, rule: Rule) -> str | None:
    if stable.datatype != canary.datatype:
        return _told(stable.datatype, canary.datatype)
    if stable.shape != canary.shape:
        return _told(list(stable.shape), list(canary.shape))
    if stable.data == canary.data:
        return None
    try:
        ours, theirs = values(stable), values(canary)
    except ValueError as error:
        return f"cannot be read: {error}"
    if stable.datatype not in _FLOATS:
        if stable.classes:
            ours, theirs = _classes(ours), _classes(theirs)
        return _first(ours, theirs, ours != theirs)
    if rule.argmax and stable.shape and stable.shape[-1] > 1:
        ours, theirs = ours.argmax(-1), theirs.argmax(-1)
        return _first(ours, theirs, ours != theirs, "argmax ")
    return _first(ours, theirs, _far(ours, theirs, rule.tolerance))


def _far(a: npt.NDArray[Any], b: npt.NDArray[Any], tolerance: float) -> npt.NDArray[np.bool_]:
    """Where two floats are farther apart than ``tolerance * max(1, |a|, |b|)``."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        limit = tolerance * np.maximum(1.0, np.maximum(np.abs(a), np.abs(b)))
        far: npt.NDArray[np.bool_] = np.abs(a - b) > limit
    odd = ~(np.isfinite(a) & np.isfinite(b))
    far[odd] = ((a != b) & ~(np.isnan(a) & np.isnan(b)))[odd]
    return far


def _classes(labelled: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of elements ``score:class[:label]`` the class."""
    found = [one.split(b":", 2)[1] if b":" in one else one for one in labelled.flat]
    return np.array(found, np.object_).reshape(labelled.shape)


def _first(
    ours: npt.NDArray[Any], theirs: npt.NDArray[Any], apart: npt.NDArray[np.bool_], what: str = ""
) -> str | None:
    """Tell how many values differ and the first that does; None where none does."""
    apart = np.asarray(apart)
    if not apart.any():
        return None
    place = np.unravel_index(apart.argmax(), apart.shape)
    at = [int(one) for one in place]
    told = _told(ours[place], theirs[place])
    return f"{np.count_nonzero(apart)} of {apart.size} differ, first {what}at {at}: {told}"


def _told(ours: object, theirs: object) -> str:
    return f"{_short(ours)} by stable, {_short(theirs)} by the canary"


def _short(value: object) -> str:
    text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
