"""A picture that is kept current, also while the API server is away."""

from collections.abc import Callable, Iterator

import pytest
from rich.console import Console
from rich.text import Text
from shelf import Clock

from tidegate_cli.errors import ClusterError, NotFoundError
from tidegate_cli.watching import Look, watch


def looks(*seen: Look | Exception) -> Callable[[], Look]:
    left: Iterator[Look | Exception] = iter(seen)

    def look() -> Look:
        one = next(left)
        if isinstance(one, Exception):
            raise one
        return one

    return look


def run(clock: Clock, *seen: Look | Exception, terminal: bool = False) -> tuple[int, str]:
    screen = Console(width=60, force_terminal=terminal, record=True, quiet=False)
    with screen.capture() as captured:
        code = watch(looks(*seen), screen, clock, 2.0)
    return code, captured.get()


def test_a_picture_is_printed_anew_only_when_it_changes(clock: Clock) -> None:
    one, other = Text("one"), Text("other")
    code, shown = run(clock, Look(one), Look(one), Look(other), Look(other, ended=7))

    assert (code, shown.split()) == (7, ["one", "other"])
    assert clock.at == 1_006.0


def test_an_api_server_that_goes_away_is_waited_for(clock: Clock) -> None:
    away = ClusterError("cannot be reached")
    code, shown = run(clock, Look(Text("one")), away, away, Look(Text("two"), ended=0))

    assert code == 0
    assert "Not current since 1970-01-01 00:16:42Z: cannot be reached" in " ".join(shown.split())
    assert shown.rstrip().endswith("two")


def test_what_is_gone_is_not_waited_for(clock: Clock) -> None:
    with pytest.raises(NotFoundError):
        run(clock, Look(Text("one")), NotFoundError("deleted"))


def test_an_api_server_that_was_never_there_is_not_waited_for(clock: Clock) -> None:
    with pytest.raises(ClusterError):
        run(clock, ClusterError("cannot be reached"))


def test_on_a_terminal_the_last_picture_stays(clock: Clock) -> None:
    code, shown = run(clock, Look(Text("one")), Look(Text("two"), ended=0), terminal=True)

    assert code == 0
    assert "two" in shown
