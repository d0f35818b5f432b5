"""A view as it stands in the terminal."""

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tidegate_cli import terminal
from tidegate_top.scrape import Hardware
from tidegate_top.view import Row, View

_MANY = 10_000
"""Requests that are counted by thousands: names need the room."""
_FULL = 0.9
"""A share of the machine from which on it is marked."""


def picture(shown: View, title: str) -> RenderableType:
    """All of it, under a line of its own."""
    parts: list[RenderableType] = [Text(title, "bold"), Text()]
    if shown.rows:
        parts.append(_models(shown.rows))
    else:
        parts.append(Text("No request has come yet.", "dim"))
    if shown.hardware:
        parts += [Text(), _machines(shown)]
    for pod, why in shown.silent.items():
        parts += [Text(), terminal.text(f"{pod}: {why}", "yellow")]
    return Group(*parts)


class Fitted:
    """What fits into the terminal, and how much does not."""

    def __init__(self, whole: RenderableType) -> None:
        self._whole = whole

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._whole, options.reset_height(), pad=False)
        room = options.size.height
        left = len(lines) - room + 1 if len(lines) > room else 0
        for line in lines[: room - 1] if left else lines:
            yield from line
            yield Segment.line()
        if left:
            yield Text(f"… {left} more lines than the terminal has", "dim", no_wrap=True)


def _models(rows: Sequence[Row]) -> Table:
    levels = sorted({level for one in rows for level in one.queue})
    table = _table("POD", "MODEL")
    for name in ("OK/S", "P95", "ERR", "EXP", "REJ", "BATCH", "SENT"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        table.add_column(f"Q{level}", justify="right", no_wrap=True)
    for one in rows:
        table.add_row(
            _Name(one.pod),
            _Name(one.model),
            terminal.figure(one.throughput),
            terminal.milliseconds(one.p95),
            *(_bad(share) for share in (one.errors, one.expired, one.rejected)),
            "-" if one.batch is None else f"{one.batch:.1f}",
            str(one.in_flight),
            *(_waiting(one.queue.get(level, 0)) for level in levels),
            style="bold" if one.pod == "all" else "",
        )
    return table


def _machines(shown: View) -> Table:
    table = _table("POD")
    for name in ("CPU", "MEMORY"):
        table.add_column(name, justify="right", no_wrap=True)
    gpus = max(len(one.gpus) for one in shown.hardware.values())
    for i in range(gpus):
        table.add_column(f"GPU {i}", justify="right", no_wrap=True)
        table.add_column("MEMORY", justify="right", no_wrap=True)
    for pod, one in shown.hardware.items():
        table.add_row(_Name(pod), *_machine(one))
    return table


def _machine(one: Hardware) -> list[Text]:
    cells = [_used(one.cpu), _memory(one.memory, one.memory_total)]
    for gpu in one.gpus:
        cells += [_used(gpu.used), _memory(gpu.memory, gpu.memory_total)]
    return cells


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in columns:
        table.add_column(name)  # may wrap, as rich takes what is missing from such columns first
    return table


class _Name:
    """A name on one line, of which the end stays where there is no room for all of it: by that
    differ the pods of one Deployment.
    """

    def __init__(self, name: str) -> None:
        self._shown = terminal.text(name).plain

    def __rich_measure__(self, _: Console, __: ConsoleOptions) -> Measurement:
        return Measurement(1, len(self._shown))

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        name, room = self._shown, max(options.max_width, 2)
        if len(name) > room:
            name = f"…{name[1 - room :]}"
        yield Text(name, no_wrap=True)


def _bad(share: float | None) -> Text:
    return Text(terminal.share(share), "red" if share else "dim")


def _waiting(count: int) -> Text:
    shown = str(count) if count < _MANY else f"{count / 1000:.0f}k"
    return Text(shown, "" if count else "dim")


def _used(share: float | None) -> Text:
    if share is None:
        return Text("-", "dim")
    return Text(f"{share:.0%}", "yellow" if share >= _FULL else "")


def _memory(used: float | None, total: float | None) -> Text:
    if used is None or not total:
        return Text("-", "dim")
    style = "yellow" if used / total >= _FULL else ""
    return Text(f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB", style)
