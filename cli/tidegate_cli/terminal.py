"""What goes to the terminal: its width, its colours, and figures and texts as people read them."""

import io
import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO, cast

import yaml
from rich.console import Console
from rich.text import Text

from tidegate_cli.objects import FINISHED, WELL_ENDED

WIDTH: Final = 100
"""Columns where neither a terminal nor the environment's COLUMNS says how many there are."""

_VERDICTS: Final = {
    "Pass": "green",
    "TreatmentWins": "green",
    "ControlWins": "green",
    "Fail": "bold red",
    "GuardrailFailed": "bold red",
    "SampleRatioMismatch": "bold red",
    "NoData": "yellow",
    "Error": "yellow",
}


class _Trimmed(io.TextIOBase):
    """The standard output without the spaces that fill up lines: a file is no rectangle."""

    def write(self, text: str) -> int:
        sys.stdout.write(re.sub(" +$", "", text, flags=re.MULTILINE))
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


def console() -> Console:
    """The terminal at its own width; anything else at COLUMNS, else ``WIDTH``, without colours."""
    plain = Console(highlight=False)
    if plain.is_terminal:
        return plain
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() else 0
    return Console(highlight=False, width=width or WIDTH, file=cast("TextIO", _Trimmed()))


def text(words: str, style: str = "") -> Text:
    """Words that others wrote: control characters, which could drive a terminal, are shown as
    the replacement character.
    """
    return Text("".join(c if c.isprintable() or c == "\n" else "�" for c in words), style)


def verdict(word: str) -> Text:
    """A verdict in its colour."""
    return text(word, _VERDICTS.get(word, ""))


def phase(word: str) -> Text:
    """A phase in its colour; an object that the operator has not looked at has none yet."""
    if word in FINISHED:
        return text(word, "bold green" if word in WELL_ENDED else "bold red")
    return text(word or "not looked at yet", "bold yellow" if word == "Holding" else "bold")


def percent(value: float) -> str:
    """``20%``, ``0.5%``."""
    return f"{value:g}%"


def share(value: float | None) -> str:
    """A share such as a rate of errors in percent, with the digits that it is known by."""
    if value is None:
        return "-"
    scaled = value * 100
    return f"{scaled:.1f}%" if scaled >= 10 or not scaled else f"{scaled:.2g}%"  # noqa: PLR2004


def figure(value: float | None) -> str:
    """A number with three digits; thousands in groups."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:.3g}"  # noqa: PLR2004


def milliseconds(seconds: float | None) -> str:
    """``12 ms``; ``0.4 ms`` below one."""
    if seconds is None:
        return "-"
    scaled = seconds * 1000
    return f"{scaled:.0f} ms" if scaled >= 1 else f"{scaled:.1f} ms"


def duration(seconds: float) -> str:
    """``45s``, ``3m12s``, ``1h30m``."""
    whole = round(seconds)
    parts = ((whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number) or "0s"


def clock(epoch: float) -> str:
    """A moment of today or of another day, in UTC."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def print_json(document: Any) -> None:
    """A document for programs, its keys in order."""
    json.dump(document, sys.stdout, indent=2, sort_keys=True, ensure_ascii=False)
    sys.stdout.write("\n")


def print_yaml(*documents: Mapping[str, Any], sort_keys: bool = False) -> None:
    """Documents for ``kubectl apply`` or a file."""
    yaml.safe_dump_all(
        documents,
        sys.stdout,
        sort_keys=sort_keys,
        explicit_start=len(documents) > 1,
        allow_unicode=True,
    )
