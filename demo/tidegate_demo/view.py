"""What a person sees: set-up ticking off, each act live, and the summary.

On a terminal the current act redraws in place; anywhere else a plain line comes every two seconds.
"""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.rule import Rule
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from tidegate_contract import names
from tidegate_demo.ledger import ArmFigures

WIDTH: Final = 100
BAR: Final = 64
PLAIN_EVERY_SECONDS: Final = 2.0
COLOURS: Final = {names.ARM_STABLE: "cyan", names.ARM_CANARY: "green"}
VERDICTS: Final = {"Pass": "green", "Fail": "bold red", "Error": "yellow", "NoData": "yellow"}
NOBODY: Final = ArmFigures(rate=0.0, failed=0, p95=None, version=None)
PHASES: Final = {"Succeeded": "bold green", "RolledBack": "bold red", "Failed": "bold red"}


@dataclass(frozen=True)
class Snapshot:
    """A moment of an act. ``rollout`` is the object as the API server has it, or empty."""

    seconds: float
    rollout: Mapping[str, Any]
    arms: Mapping[str, ArmFigures]
    sent: int


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
        for text in output.splitlines():
            self.console.print(Text(f"    {text}", "dim"), no_wrap=True, overflow="ellipsis")

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

    def show(self, snapshot: Snapshot) -> None:
        """Show a moment."""
        if self._live:
            self._live.update(_panel(snapshot), refresh=True)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + PLAIN_EVERY_SECONDS
            self.console.print(_line(snapshot), soft_wrap=True)

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


def _panel(snapshot: Snapshot) -> RenderableType:
    status = snapshot.rollout.get("status", {})
    parts: list[RenderableType] = [Text()]
    if snapshot.rollout:
        parts += [_headline(status), Text()]
    parts += [_bar(snapshot.arms), _arms(snapshot.arms)]
    # While it runs the status holds the evidence of its last change only; when it has ended, its
    # message has been told as an event.
    if status.get("phase", "") in PHASES:
        parts += [Text(), _metrics(status.get("metrics", []))]
    elif message := status.get("message"):
        parts += [Text(), Text(message, "italic")]
    clock = Text(f"{snapshot.seconds:.0f} s · {snapshot.sent:,} requests sent", "dim")
    return Padding(Group(*parts, clock), (0, 2))


def _headline(status: Mapping[str, Any]) -> Text:
    phase = status.get("phase", "") or "Pending"
    line = Text.assemble((f"{phase:<12}", PHASES.get(phase, "bold")))
    weight = status.get("weight", 0)
    current = status.get("currentStep", 0)
    for number, step in enumerate(status.get("plan", []), start=1):
        passed = number < current or phase == "Succeeded"
        style = "green" if passed else "bold" if number == current else "dim"
        left_at = number == current and phase in ("RolledBack", "RollingBack")
        mark = " ✓" if passed else " ✗" if left_at else ""
        line.append(f"  {step['percent']}%{mark}", "red" if left_at else style)
    verdict = status.get("verdict", "")
    line.append(f"     weight {weight}%")
    line.append(f"     {verdict}", VERDICTS.get(verdict, ""))
    return line


def _bar(arms: Mapping[str, ArmFigures]) -> Text:
    total = sum(figures.rate for figures in arms.values())
    bar = Text()
    if not total:
        return Text("·" * BAR, "dim")
    canary = round(BAR * arms.get(names.ARM_CANARY, NOBODY).rate / total)
    bar.append("█" * (BAR - canary), COLOURS[names.ARM_STABLE])
    bar.append("█" * canary, COLOURS[names.ARM_CANARY])
    return bar


def _arms(arms: Mapping[str, ArmFigures]) -> Table:
    table = Table.grid(padding=(0, 2))
    order = sorted(arms, key=lambda arm: (arm != names.ARM_STABLE, arm))
    for arm in order:
        figures = arms[arm]
        table.add_row(
            Text(f"{arm:<8}", COLOURS.get(arm, "red")),
            f"version {figures.version}" if figures.version else "",
            f"{figures.rate:6.1f} req/s",
            f"p95 {_milliseconds(figures.p95):>7}",
            Text(f"{figures.failed} failed", "red" if figures.failed else "dim"),
        )
    return table


def _metrics(metrics: Sequence[Mapping[str, Any]]) -> Table:
    table = Table.grid(padding=(0, 2))
    for metric in metrics:
        verdict = metric.get("verdict", "")
        table.add_row(
            f"{metric['name']:<8}",
            Text(f"{verdict:<12}", VERDICTS.get(verdict, "")),
            f"stable {_share(metric.get('stable'))}",
            f"canary {_share(metric.get('canary'))}",
            Text(metric.get("reason", ""), "dim"),
        )
    return table


def _line(snapshot: Snapshot) -> str:
    status = snapshot.rollout.get("status", {})
    steps = f"step {status.get('currentStep', 0)}/{status.get('totalSteps', 0)}"
    head = f"{status.get('phase') or 'Pending'} {steps} weight {status.get('weight', 0)}%"
    arms = "  ".join(
        f"{arm} {figures.rate:.0f}/s p95 {_milliseconds(figures.p95)} {figures.failed} failed"
        for arm, figures in sorted(snapshot.arms.items(), reverse=True)
    )
    return f"  {snapshot.seconds:4.0f}s  {head if snapshot.rollout else 'serving'}  {arms}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _share(share: float | None) -> str:
    return "  -  " if share is None else f"{share * 100:4.1f}%"
