"""``tidegate top``: looks, and shows what it saw until it is told to stop."""

import argparse
import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final

from rich.console import Console
from rich.live import Live

from tidegate_cli import cluster, lookup, sidecars, terminal
from tidegate_cli.errors import ClusterError, CommandError, NoSidecarError
from tidegate_contract.names import LABEL_MODEL
from tidegate_top import sources
from tidegate_top.picture import Fitted, picture
from tidegate_top.sources import Fetch
from tidegate_top.view import View, view

_ANY_MODEL = {"matchExpressions": [{"key": LABEL_MODEL, "operator": "Exists"}]}

_REDRAW: Final = 0.25
_FIND: Final = 5.0
"""Seconds after which it is asked anew which pods there are: a Deployment replaces them."""

_ADVICE: Final = ". --direct asks the pods' own addresses, where those can be reached from here"

Asked = Mapping[str, tuple[Fetch, int]]


def run(options: argparse.Namespace) -> int:
    """Show until ``q`` or Ctrl-C, or once; the exit code.

    Raises:
        NoSidecarError: not one answers at the first look.
        ClusterError: the API server cannot be reached, or refuses.
    """
    looks = Looks(_finder(options), "" if options.direct or options.addresses else _ADVICE)
    screen = terminal.console()
    if options.once or not screen.is_terminal:
        time.sleep(options.every)
        screen.print(picture(looks.look(), looks.title()))
        return 0
    with contextlib.suppress(KeyboardInterrupt):
        _show(screen, looks, options.every)
    return 0


class Looks:
    """Each look is compared with the one before. ``find``: says whom to ask. ``advice``: where
    nobody answers.
    """

    def __init__(self, find: Callable[[], Asked], advice: str) -> None:
        self._find = find
        self._asked, self._found_at = find(), time.monotonic()
        self._before, silent = sources.scrape_all(self._asked)
        if not self._before:
            reasons = "; ".join(f"{name}: {why}" for name, why in silent.items())
            raise NoSidecarError(f"no sidecar answered ({reasons}){advice}")

    def look(self) -> View:
        """Scrape, and show what happened since the look before."""
        if time.monotonic() - self._found_at >= _FIND:
            with contextlib.suppress(CommandError):  # those known are asked all the same
                self._asked = self._find()
            self._found_at = time.monotonic()
        now, silent = sources.scrape_all(self._asked)
        seen = view(self._before, now, silent)
        self._before = now
        return seen

    def title(self) -> str:
        """What stands above: when it was, and how many were asked."""
        return (
            f"{terminal.clock(time.time())}  "
            f"{len(self._before)} of {len(self._asked)} sidecars answer"
        )


def _finder(options: argparse.Namespace) -> Callable[[], Asked]:
    """What says whom to ask: the addresses given, else the pods that there are then."""
    if options.addresses:
        return partial(sources.addresses, options.addresses)
    try:
        connected = cluster.connect(options.kubeconfig, options.context)
    except ClusterError as error:
        raise ClusterError(f"{error}, or name sidecars by their addresses") from error
    namespace = options.namespace or connected.namespace

    def find() -> Asked:
        if options.model is None:
            found = sidecars.serving(connected, namespace, "a model", _ANY_MODEL)
        else:
            known = lookup.observe_one(connected, namespace, options.model)
            selector = next((one.spec.pod_selector for one in known.versions), None)
            found = sidecars.serving(connected, namespace, options.model, selector)
        return sources.pods(connected, found, direct=options.direct)

    return find


def _show(screen: Console, looks: Looks, every: float) -> None:
    with _keys() as pressed, Live(console=screen, screen=True, auto_refresh=False) as live:
        live.update(Fitted(picture(View([]), looks.title())), refresh=True)
        while True:
            until = time.monotonic() + every
            while (left := until - time.monotonic()) > 0:
                if pressed(min(left, _REDRAW)) == "q":
                    return
                live.refresh()  # the terminal may have another size now
            seen = looks.look()
            shown = picture(seen, f"{looks.title()}  (q: leave)")
            live.update(Fitted(shown), refresh=True)


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Waits for one key, without an echo, at most so many seconds; "" is none."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    tty.setcbreak(number)
    try:
        yield lambda seconds: _key(number, seconds)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _key(number: int, seconds: float) -> str:
    ready, _, _ = select.select([number], [], [], seconds)
    return os.read(number, 1).decode(errors="replace") if ready else ""


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""
