"""Durations, timestamps and amounts of memory as users and Kubernetes write them.

``90s``, ``1h30m``, ``250ms`` to seconds; RFC 3339 to seconds since the epoch and back; ``64Mi`` to
bytes.
"""

import math
import re
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Final

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART: Final = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_WHOLE: Final = re.compile(r"([0-9]{1,5}(ms|h|m|s)){1,4}")
_AMOUNT: Final = re.compile(
    r"\+?([0-9]+\.?[0-9]*|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]{1,2})?"
)
_BINARY: Final = "KMGTPE"
_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}


@lru_cache(maxsize=1024)
def seconds(text: str) -> float:
    """Seconds of a duration such as ``1h30m``.

    Raises:
        ValueError: not a duration.
    """
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 90s, 10m or 1h30m")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def duration(value: float) -> str:
    """Seconds as people read them: ``45s``, ``10m``, ``1h30m``; ``2.5s`` below ten, ``300ms``
    below one.
    """
    if 0 < value < 1:
        return f"{value * 1000:.0f}ms"
    if value < 10:  # noqa: PLR2004 - above, tenths are noise
        return f"{value:.1f}".removesuffix(".0") + "s"
    whole = round(value)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def timestamp(epoch: float) -> str:
    """RFC 3339 in UTC with milliseconds."""
    text = datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def epoch(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 timestamp.

    Raises:
        ValueError: not a timestamp.
    """
    return datetime.fromisoformat(text).timestamp()


def octets(amount: int | str) -> int:
    """Bytes of a Kubernetes quantity: ``64Mi``, ``1.5G``, ``1e9``, or a plain number; a fraction of
    a byte counts as one.

    Raises:
        ValueError: not a quantity.
    """
    found = _AMOUNT.fullmatch(str(amount))
    if found is None:
        raise ValueError(f"{amount!r} is not an amount of memory such as 64Mi or 2G")
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix.endswith("i"):
        value = number * Decimal(1024) ** (_BINARY.index(suffix[0]) + 1)
    elif suffix in _DECIMAL:
        value = number.scaleb(_DECIMAL[suffix])
    else:
        value = number.scaleb(int(suffix[1:] or 0))
    return math.ceil(value)
