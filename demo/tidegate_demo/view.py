"""What a person sees: set-up ticking off, each act live, and the summary.

On a terminal the current act redraws in place; anywhere else a plain line comes every two seconds.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tidegate_demo import panel

WIDTH: Final = 100
INDENT: Final = 4
"""Of what a command prints; less where it just fits then."""
PLAIN_EVERY_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Check:
    """One claim of the demo, whether it held, and what shows it."""

    claim: str
    held: bool
    shown: str


class Screen:
    """The terminal, or the file that stands for it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, width=_width())
        self._live: Live | None = None
        self._next_line = 0.0

    def title(self, text: str, subtitle: str) -> None:
        """The demo's name and what it is."""
        self.console.print()
        self.console.print(Text(f"  {text}", "bold"), Text(subtitle, "dim"), sep="  ")
        self.console.print()

    @contextlib.contextmanager
    def step(self, what: str, detail: str) -> Iterator[None]:
        """A step of the set-up: ticks while it takes, and says how long it took."""
        started = time.monotonic()
        waiting = Live(_Waiting(what, detail, started), console=self.console, transient=True)
        if self.console.is_terminal:
            waiting.start()
        try:
            yield
        except BaseException:
            waiting.stop()
            self.console.print(_step_line("✗", "red", what, detail, started))
            raise
        waiting.stop()
        self.console.print(_step_line("✓", "green", what, detail, started))

    def act(self, number: int, title: str, says: str) -> None:
        """The heading of an act."""
        self.console.print()
        self.console.print(Rule(f"[bold]{number}  {title}[/]", align="left", style="dim"))
        for line in says.splitlines():
            self.say(line)

    def command(self, line: str, output: str) -> None:
        """A command as it was run, and what it printed."""
        self.console.print()
        self.console.print(Text(f"  $ {line}", "bold"))
        lines = [text.rstrip(" ─") for text in output.splitlines()]
        widest = max(map(len, lines), default=0)
        indent = INDENT if not WIDTH - INDENT < widest <= WIDTH - 2 else 2
        for text in lines:
            shown = Text(" " * indent + text, "dim")
            self.console.print(shown, no_wrap=True, overflow="ellipsis")

    def event(self, seconds: float, warning: bool, reason: str, message: str) -> None:
        """An event of the cluster, as it came."""
        row = Table.grid(padding=(0, 1))
        row.add_row(
            Text(f"  {seconds:4.0f}s", "dim"),
            Text(f"{reason:<20}", "yellow" if warning else "cyan"),
            Text(message),
        )
        self.console.print(row)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Show snapshots in place for as long as the block runs; the last one stays."""
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, auto_refresh=False) as self._live:
            yield
        self._live = None

    def show(self, snapshot: panel.Snapshot) -> None:
        """Show a moment."""
        if self._live:
            self._live.update(panel.whole(snapshot), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_EVERY_SECONDS
            self.console.print(panel.in_a_line(snapshot), soft_wrap=True)

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table of the summary; all but the first column are figures."""
        self.console.print()
        self.say(title, "bold")
        table = Table(box=None, padding=(0, 2), header_style="dim")
        for position, column in enumerate(columns):
            table.add_column(column, justify="right" if position else "left")
        for row in rows:
            table.add_row(*row)
        self.console.print(table)

    def checks(self, checks: Sequence[Check]) -> None:
        """The claims, each with what shows it."""
        table = Table.grid(padding=(0, 1))
        table.add_column(width=1)
        table.add_column(min_width=46)
        table.add_column(style="dim")
        for check in checks:
            mark = Text("✓", "green") if check.held else Text("✗", "bold red")
            table.add_row(mark, check.claim, check.shown)
        self.console.print()
        self.console.print(Padding(table, (0, 2), expand=False))
        self.console.print()

    def say(self, text: str = "", style: str = "") -> None:
        """A line."""
        self.console.print(Text(f"  {text}", style), soft_wrap=True)


def _width() -> int | None:
    """As wide as reads well; None leaves a narrower terminal as it is."""
    console = Console()
    return None if console.is_terminal and console.width < WIDTH else WIDTH


class _Waiting:
    """A step that is not over yet."""

    def __init__(self, what: str, detail: str, started: float) -> None:
        self._what, self._detail, self._started = what, detail, started
        self._spinner = Spinner("dots", style="cyan")

    def __rich__(self) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        row.add_row("", self._spinner, _step_text(self._what, self._detail, self._started))
        return row


def _step_line(mark: str, colour: str, what: str, detail: str, started: float) -> Text:
    return Text.assemble("  ", (mark, colour), " ", _step_text(what, detail, started))


def _step_text(what: str, detail: str, started: float) -> Text:
    elapsed = time.monotonic() - started
    return Text.assemble(f"{what:<17}", (f"{detail:<52}", "dim"), (f"{elapsed:5.1f} s", "dim"))
