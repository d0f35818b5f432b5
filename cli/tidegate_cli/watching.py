"""The same picture, kept current: in place on a terminal, else printed anew when it changes."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live

from tidegate_cli import terminal
from tidegate_cli.errors import ClusterError
from tidegate_cli.verbs import Pause


@dataclass(frozen=True, slots=True)
class Look:
    """What one look saw. ``ended``: the exit code with which to stop, None to go on."""

    picture: RenderableType
    ended: int | None = None


def watch(look: Callable[[], Look], screen: Console, pause: Pause, every: float) -> int:
    """Look every so many seconds until a look says that it is over.

    An API server that goes away after the first look is waited for: the last picture stays, and
    says so.

    Raises:
        CommandError: the first look failed, or what was watched is gone.
        KeyboardInterrupt: the person has seen enough.
    """
    seen = look()
    with _shown(screen) as show:
        show(seen.picture)
        while seen.ended is None:
            pause.sleep(every)
            try:
                seen = look()
                show(seen.picture)
            except ClusterError as error:
                trouble = f"Not current since {terminal.clock(pause.now())}: {error}"
                show(Group(seen.picture, terminal.text(trouble, "bold yellow")))
    return seen.ended


@contextlib.contextmanager
def _shown(screen: Console) -> Iterator[Callable[[RenderableType], None]]:
    """How a picture is shown; the last one stays."""
    if screen.is_terminal:
        with Live(console=screen, auto_refresh=False) as live:
            yield lambda picture: live.update(picture, refresh=True)
        return
    before: list[str] = []

    def print_if_new(picture: RenderableType) -> None:
        lines = [segment.text for segment in screen.render(picture)]
        if lines != before:
            screen.print(picture)
            before[:] = lines

    yield print_if_new
