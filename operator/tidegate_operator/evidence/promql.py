"""Users' own PromQL: its placeholders filled in, and what came back read as one number.

A value becomes part of a query only as the inside of a string literal, so nothing in a model's name
can become a part of the query itself.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from tidegate_operator.evidence.queries import Answer, NoValue, QueryError, Value

NAMES: Final = ("model", "stable", "canary", "namespace")
"""What a query may name with a ``$`` before it."""
_PLACEHOLDER: Final = re.compile(r"\$([A-Za-z_]\w*)")
"""Not ``$1``, which is PromQL's own in ``label_replace``."""
_SPECIAL: Final = re.compile(r"[^A-Za-z0-9_.:|() -]")


class UnknownPlaceholderError(ValueError):
    """A query names what nobody fills in; the message says which and what there is."""


def escaped(text: str) -> str:
    """A text as the inside of a string literal, whichever quotation marks are around it: by code
    points, as a quotation mark's own escape is an error between marks of the other kind.
    """
    return _SPECIAL.sub(lambda found: f"\\U{ord(found[0]):08x}", text)


def quoted(text: str) -> str:
    """A text as a string literal."""
    return f'"{escaped(text)}"'


def filled_in(query: str, values: Mapping[str, str]) -> str:
    """A query with ``$NAME`` replaced.

    Raises:
        UnknownPlaceholderError: the query names something else.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            listed = ", ".join(f"${name}" for name in values)
            raise UnknownPlaceholderError(f"nothing is known as ${found[1]}; there are {listed}")
        return escaped(values[found[1]])

    return _PLACEHOLDER.sub(value, query)


def read(kind: str, result: bytes, at: float) -> Answer:
    """The one number that an answer is, if it is one. ``result``: JSON, as Prometheus gives it."""
    if kind != "vector":
        return QueryError(at, f"it gives a {kind}, not one series with a number: {_ADVICE[kind]}")
    rows = msgspec.json.decode(result, type=list[_Sample])
    if not rows:
        return NoValue(at, "no series")
    if len(rows) > 1:
        return QueryError(
            at, f"it gives {len(rows)} series, not one: aggregate them, as by sum(...)"
        )
    if rows[0].value is None:
        return QueryError(at, "it gives a histogram, not a number: ask for a quantile of it")
    value = float(rows[0].value[1])
    if math.isnan(value):
        return NoValue(at, "NaN (no data, or 0 divided by 0)")
    if math.isinf(value):
        return QueryError(at, "it gives an infinite value, such as a division by 0")
    return Value(at, value)


_ADVICE: Final = {
    "matrix": "leave out the range, or put rate(...) around it",
    "scalar": "put vector(...) around it",
    "string": "ask for a metric",
}


class _Sample(msgspec.Struct):
    value: tuple[float, str] | None = None
    """None in a native histogram."""
