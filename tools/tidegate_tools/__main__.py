"""The command line: `setup` makes everything ready once, `path` says where a program is."""

import argparse
import sys
import threading
from collections.abc import Callable

from tidegate_tools import binaries, cache, triton
from tidegate_tools.gobuild import BuildFailed
from tidegate_tools.progress import Board
from tidegate_tools.triton import TritonUnavailable
from tidegate_tools.wheels import FetchFailed

DESCRIPTION = """\
Pinned tools for Tidegate's tests and demo: a real control plane, Prometheus, helm, Triton.

A program is taken from $KUBEBUILDER_ASSETS, from the PATH (where its version will do) or
from the cache; what is missing is built from pinned Go modules or fetched by hash.
The cache: $TIDEGATE_CACHE, else $XDG_CACHE_HOME/tidegate, else ~/.cache/tidegate.
"""


def main() -> int:
    """Runs a subcommand; the exit status."""
    options = _parser().parse_args()
    try:
        return int(options.run(options))
    except (BuildFailed, FetchFailed, TritonUnavailable) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was finished is kept, run it again", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tidegate_tools",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    setup = commands.add_parser(
        "setup", help="build and fetch all that is missing (10 minutes at first, then none)"
    )
    everything = [*binaries.NAMES, "triton"]
    setup.add_argument(
        "names",
        nargs="*",
        choices=[*everything, []],
        metavar="NAME",
        help=f"only these; without any, all of {', '.join(everything)}",
    )
    setup.set_defaults(run=_setup)
    path = commands.add_parser("path", help="print where a program is, making it if need be")
    path.add_argument("name", choices=[*binaries.NAMES, "triton"], metavar="NAME")
    path.epilog = f"NAME is one of {', '.join(binaries.NAMES)}, or triton (its environment)"
    path.set_defaults(run=_path)
    listing = commands.add_parser("list", help="what is there, and what is missing")
    listing.set_defaults(run=_list)
    return parser


def _setup(options: argparse.Namespace) -> int:
    """Go builds use every core, so they go one after the other; downloads go beside them."""
    wanted = options.names or [*binaries.NAMES, "triton"]

    def builds() -> None:
        for bundle in (binaries.KUBERNETES, binaries.PROMETHEUS):
            for program in bundle.programs:
                if program in wanted:
                    binaries.ensure(program, board)

    def downloads() -> None:
        if "helm" in wanted:
            binaries.ensure("helm", board)
        if "triton" in wanted:
            triton.ensure(board)

    with Board() as board:
        _side_by_side(builds, downloads)
        board.say(f"all tools are ready; cache: {cache.root()}")
    return 0


def _side_by_side(*lanes: Callable[[], None]) -> None:
    """Runs each in a thread that Ctrl-C need not wait for: what it started is tethered."""
    errors: list[Exception] = []

    def run(lane: Callable[[], None]) -> None:
        try:
            lane()
        except Exception as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    threads = [threading.Thread(target=run, args=(lane,), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _path(options: argparse.Namespace) -> int:
    print(triton.ensure() if options.name == "triton" else binaries.ensure(options.name))
    return 0


def _list(_options: argparse.Namespace) -> int:
    found = {name: binaries.find(name) for name in binaries.NAMES}
    for name, place in {**found, "triton": triton.find()}.items():
        print(f"{name:24} {place or 'missing'}")
    return 0 if all(found.values()) and triton.find() else 1


if __name__ == "__main__":
    sys.exit(main())
