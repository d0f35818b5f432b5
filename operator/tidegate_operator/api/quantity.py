"""Durations and timestamps as users and Kubernetes write them.

``90s``, ``1h30m``, ``250ms`` to seconds; RFC 3339 to seconds since the epoch and back.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

_UNITS: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART: Final = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_WHOLE: Final = re.compile(r"([0-9]{1,5}(ms|h|m|s)){1,4}")


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
