"""The command line of ``tidegate tune``: read without loading what runs it."""

import argparse
from math import inf
from pathlib import Path
from typing import Final

from tidegate_cli.errors import CommandError
from tidegate_load import options as load

EXAMPLES: Final = (
    "tune digits --fixed 4ms --per-row 200us --rate 900 --output policy.yaml",
    "tune digits --url 10.0.0.7:9000 --rate 900 --output policy.yaml",
    "tune digits --url 127.0.0.1:9000 --policy digits -n models --trials 30 --plot search.png",
)


def add(word: argparse.ArgumentParser) -> None:
    """Add what may be said, and what runs it."""
    word.set_defaults(run=_run)
    word.add_argument("model", metavar="MODEL", help="as Triton names it")
    _where(word.add_argument_group("where to try"))
    load.traffic(word)
    _search(word.add_argument_group("search"))
    out = word.add_argument_group("results")
    out.add_argument("--output", type=Path, metavar="FILE", help="the policy (default: shown)")
    out.add_argument(
        "--journal",
        type=Path,
        metavar="FILE",
        help="every trial; one that is there is continued (default: tune-MODEL.journal)",
    )
    out.add_argument("--plot", type=_picture, metavar="FILE", help="a picture: .png, .svg or .pdf")


def _where(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--url",
        type=load.address,
        metavar="HOST:PORT",
        help="of a sidecar: its model's cost and batch size are read there (port 9002 beside it)",
    )
    group.add_argument(
        "--policy",
        metavar="NAME",
        help="try on the real thing: this BatchPolicy is changed for each trial, traffic goes to "
        "--url, and the policy is put back at the end; without it, trials are simulated",
    )
    group.add_argument("-n", "--namespace", help="of the policy; default: that of the context")
    group.add_argument("--context", help="of the kubeconfig; default: the current one")
    group.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, ~/.kube/config")
    group.add_argument(
        "--fixed",
        type=_time,
        metavar="TIME",
        help="that every batch takes, such as 4ms; default, as of the next three: what --url says",
    )
    group.add_argument(
        "--per-row", type=_time, metavar="TIME", help="that each row adds to it, such as 200us"
    )
    group.add_argument(
        "--most", type=load.count, metavar="N", help="rows that the model takes at once"
    )
    group.add_argument(
        "--slots",
        type=load.count,
        metavar="N",
        help="batches that the model runs at a time: its instances (without --url: 1)",
    )


def _search(group: "argparse._ArgumentGroup") -> None:
    group.add_argument(
        "--trials", type=load.count, default=40, metavar="N", help="in all (default 40)"
    )
    group.add_argument(
        "--weights",
        type=_weights,
        default=(0.4, 0.3, 0.2, 0.1),
        metavar="T,L,U,F",
        help="of throughput, latency, utilisation and fairness (default .4,.3,.2,.1)",
    )
    group.add_argument(
        "--target",
        type=_time,
        default=1.0,
        metavar="TIME",
        help="p99 for users without a deadline (default 1s)",
    )


def _run(options: argparse.Namespace) -> int:
    try:
        from tidegate_tune.command import run  # noqa: PLC0415 - an optimiser takes a second
    except ModuleNotFoundError as error:
        message = f'{error.name} is not installed: pip install "tidegate[workbench]"'
        raise CommandError(message) from error
    return run(options)


_UNITS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


def _time(text: str) -> float:
    number = text.rstrip("mus")
    unit = text[len(number) :]
    try:
        seconds = float(number) * _UNITS[unit]
    except (KeyError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError("must be a time such as 200us, 4ms or 1s")
    return seconds


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix not in {".png", ".svg", ".pdf"}:
        raise argparse.ArgumentTypeError("must end with .png, .svg or .pdf")
    return path


def _weights(text: str) -> tuple[float, ...]:
    try:
        weights = tuple(float(one) for one in text.split(","))
    except ValueError:
        weights = ()
    if len(weights) != 4 or not all(0 <= one < inf for one in weights) or not sum(weights):  # noqa: PLR2004 - four parts
        raise argparse.ArgumentTypeError("must be four numbers from 0 on, not all 0")
    return weights
