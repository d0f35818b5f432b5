"""The command line of ``tidegate top``: read without loading what runs it."""

import argparse
from typing import Final

EXAMPLES: Final = (
    "top",
    "top --model digits -n serving",
    "top 10.0.3.7 10.0.3.8:9002",
    "top 127.0.0.1 --once",
)


def add(word: argparse.ArgumentParser) -> None:
    """Add what may be said, and what runs it."""
    word.set_defaults(run=_run)
    word.add_argument(
        "addresses",
        nargs="*",
        metavar="HOST[:PORT]",
        help="of sidecars (port 9002); default: the cluster's pods",
    )
    word.add_argument("--model", help="pods that serve it; default: any")
    word.add_argument("-n", "--namespace", help="default: that of the context")
    word.add_argument("--context", help="of the kubeconfig; default: the current one")
    word.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, ~/.kube/config")
    word.add_argument(
        "--direct",
        action="store_true",
        help="ask the pods' own addresses, not through the API server",
    )
    word.add_argument(
        "--every", type=seconds, default=1.0, metavar="SECONDS", help="between looks (default 1)"
    )
    word.add_argument("--once", action="store_true", help="print one view, then end")


def _run(options: argparse.Namespace) -> int:
    from tidegate_top.command import run  # noqa: PLC0415 - the cluster's client

    return run(options)


def seconds(text: str) -> float:
    """Read a number of seconds.

    Raises:
        argparse.ArgumentTypeError: it is none, or not above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return value
