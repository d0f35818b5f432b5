"""The command behind ``make demo``: tells the story, and leaves nothing running unless asked to."""

import argparse
import signal
import sys
from typing import Final

from tidegate_demo import keeping
from tidegate_demo.cluster import CHECKOUT, ClusterError
from tidegate_demo.story import Story, StoryBroken
from tidegate_demo.view import Screen
from tidegate_demo.world import PortTaken, Which, World
from tidegate_tools.gobuild import BuildFailed
from tidegate_tools.processes import ProcessFailed
from tidegate_tools.triton import TritonUnavailable
from tidegate_tools.wheels import FetchFailed

DIRECTORY: Final = CHECKOUT / ".run" / "demo"
PID_FILE: Final = CHECKOUT / ".run" / "demo.pid"
INTERRUPTED: Final = 130
TROUBLE: Final = (
    BuildFailed,
    ClusterError,
    FetchFailed,
    PortTaken,
    ProcessFailed,
    StoryBroken,
    TimeoutError,
    TritonUnavailable,
)


def main() -> int:
    """Tell the story, or stop a demo that was kept; 0 only if all that the demo claims happened."""
    options = _parser().parse_args()
    if options.stop:
        return keeping.stop(PID_FILE)
    if options.keep:
        return keeping.detached([f"--cluster={options.cluster}"])
    try:
        with keeping.claimed(PID_FILE):
            return tell(options.cluster, options.report_to)
    except BlockingIOError:
        print("A demo is running from this checkout already. To stop it: make demo-stop")
        return 1


def tell(which: Which, report_to: int | None) -> int:
    """Bring the world up, tell the story, take the world down; the exit status."""
    screen = Screen()
    screen.title("Tidegate", "a new version of a model gets traffic while the evidence is good")
    try:
        with World(DIRECTORY, screen, which=which) as world:
            held = all(check.held for check in Story(world, screen).tell().checks)
            screen.say("It all happened." if held else "Not all of it happened.", "bold")
            if report_to is not None:
                keeping.keep(world, screen, status=int(not held), report_to=report_to)
    except KeyboardInterrupt:
        screen.say("Interrupted; nothing is left running.")
        return INTERRUPTED
    except TROUBLE as error:
        screen.say(str(error), "red")
        return 1
    return int(not held)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tidegate_demo", description=__doc__)
    parser.add_argument(
        "--cluster",
        choices=["embedded", "current"],
        default="embedded",
        help="embedded: a control plane of the demo's own; current: the kubeconfig at hand, "
        "from which everything is removed afterwards",
    )
    parser.add_argument("--keep", action="store_true", help="leave everything running")
    parser.add_argument("--stop", action="store_true", help="stop what --keep has left running")
    parser.add_argument("--report-to", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
