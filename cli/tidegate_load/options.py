"""The command line of ``tidegate loadgen``: read without loading what runs it."""

import argparse
from pathlib import Path
from typing import Final

from tidegate_cli.errors import CommandError

_PORTS: Final = range(1, 65_536)
PATTERNS: Final = ("normal", "spike", "flood")
EXAMPLES: Final = (
    "loadgen digits --rate 500 --seconds 30",
    "loadgen digits --pattern flood --factor 10 --json run.json --plot run.html",
    "loadgen digits --user vip:share=20,deadline=50ms --user batch:rows=8",
    "loadgen digits --url 127.0.0.1:8000 --trace monday.csv",
)


def add(word: argparse.ArgumentParser) -> None:
    """Add what may be said, and what runs it."""
    word.set_defaults(run=_run)
    word.add_argument("model", metavar="MODEL", help="as Triton names it")
    word.add_argument(
        "--url",
        type=address,
        default="127.0.0.1:9000",
        metavar="HOST:PORT",
        help="of a sidecar or of Triton itself (default 127.0.0.1:9000)",
    )
    traffic(word)
    out = word.add_argument_group("results")
    out.add_argument("--json", type=Path, metavar="FILE", help="the summary for programs")
    out.add_argument(
        "--plot", type=_picture, metavar="FILE", help="a picture (.png) or a report (.html)"
    )


def traffic(word: argparse.ArgumentParser) -> None:
    """Add what says which requests go, when and whose they are."""
    _when(word.add_argument_group("when"))
    _who(word.add_argument_group("who"))
    _what(word.add_argument_group("what"))


def _when(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--pattern",
        choices=PATTERNS,
        default="normal",
        help="normal (default): Poisson arrivals; spike: with a burst of all users; flood: with "
        "one of the user of the highest priority",
    )
    group.add_argument(
        "--rate", type=_above_0, default=100.0, metavar="N", help="requests a second (default 100)"
    )
    group.add_argument(
        "--seconds", type=_above_0, default=10.0, metavar="S", help="to send for (default 10)"
    )
    group.add_argument(
        "--factor",
        type=_factor,
        default=5.0,
        metavar="X",
        help="times as many requests in a burst (default 5)",
    )
    group.add_argument(
        "--burst-begin", type=_from_0, metavar="S", help="default: after 2/5 of --seconds"
    )
    group.add_argument(
        "--burst-seconds", type=_above_0, metavar="S", help="default: 1/5 of --seconds"
    )
    group.add_argument(
        "--trace", type=Path, metavar="FILE", help="replay this CSV (at,level,rows) instead"
    )
    group.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="of all that is drawn (default 0)"
    )
    group.add_argument(
        "--drain",
        type=_from_0,
        default=30.0,
        metavar="S",
        help="to wait for the last answers (default 30)",
    )
    group.add_argument(
        "--connections", type=count, default=256, metavar="N", help="kept open (default 256)"
    )


def _who(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--users", type=Path, metavar="FILE", help="YAML or JSON; default: vip to background"
    )
    group.add_argument(
        "--user",
        action="append",
        default=[],
        metavar="NAME:FIELD=VALUE,...",
        help="change one, or add one: share, priority, deadline (100ms, 2s, empty: none), rows",
    )


def _what(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--version", type=count, metavar="N", help="ask this version only")
    group.add_argument(
        "--data",
        choices=("zeros", "random"),
        default="zeros",
        help="values of the inputs (default zeros)",
    )
    group.add_argument(
        "--shape",
        action="append",
        default=[],
        type=_shape,
        metavar="INPUT=3,224",
        help="without the batch's dimension, where the model leaves it open (default: 1)",
    )
    group.add_argument(
        "--body", type=Path, metavar="FILE", help="send this request, JSON or binary, instead"
    )


def _run(options: argparse.Namespace) -> int:
    try:
        from tidegate_load.command import run  # noqa: PLC0415 - numpy and an event loop
    except ModuleNotFoundError as error:
        message = f'{error.name} is not installed: pip install "tidegate[workbench]"'
        raise CommandError(message) from error
    return run(options)


def address(text: str) -> str:
    """Read HOST:PORT.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    bare = text.removeprefix("http://").rstrip("/")
    host, _, port = bare.rpartition(":")
    if not host or not port.isdecimal() or int(port) not in _PORTS or "/" in host:
        raise argparse.ArgumentTypeError("must be HOST:PORT; only plain HTTP is spoken")
    return bare


def _shape(text: str) -> tuple[str, list[int]]:
    name, equals, sizes = text.partition("=")
    shape = [int(one) if one.isdecimal() else 0 for one in sizes.split(",") if one]
    if not equals or any(one < 1 for one in shape):
        raise argparse.ArgumentTypeError("must be INPUT=SIZE,SIZE...")
    return name, shape


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".png", ".html"}:
        raise argparse.ArgumentTypeError("must end with .png or .html")
    return path


def count(text: str) -> int:
    """Read a whole number from 1 on.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    return _whole(text, 1)


def _seed(text: str) -> int:
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"must be a whole number from {least} on")
    return int(text)


def _factor(text: str) -> float:
    return _least(text, 1)


def _from_0(text: str) -> float:
    return _least(text, 0)


def _above_0(text: str) -> float:
    value = _least(text, 0)
    if not value:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def _least(text: str, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number, at least {least:g}")
    return value
