"""A view as it stands in the terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidegate_cli import terminal
from tidegate_top.scrape import Hardware
from tidegate_top.view import Row, View

_FULL = 0.9
"""A share of the machine from which on it is marked."""


def picture(shown: View, title: str) -> RenderableType:
    """All of it, under a line of its own."""
    parts: list[RenderableType] = [Text(title, "bold"), Text()]
    if shown.rows:
        parts.append(_models(shown.rows))
    else:
        parts.append(Text("No sidecar has said anything yet.", "dim"))
    if shown.hardware:
        parts += [Text(), _machines(shown)]
    for pod, why in shown.silent.items():
        parts += [Text(), terminal.text(f"{pod}: {why}", "yellow")]
    return Group(*parts)


def _models(rows: Sequence[Row]) -> Table:
    levels = sorted({level for one in rows for level in one.queue})
    table = _table("POD", "MODEL")
    for name in ("OK/S", "P95", "ERRORS", "EXPIRED", "REJECTED", "BATCH", "SENT"):
        table.add_column(name, justify="right", no_wrap=True)
    for level in levels:
        table.add_column(f"Q{level}", justify="right", no_wrap=True)
    for one in rows:
        table.add_row(
            terminal.text(one.pod),
            terminal.text(one.model),
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
        table.add_row(terminal.text(pod), *_machine(one))
    return table


def _machine(one: Hardware) -> list[Text]:
    cells = [_used(one.cpu), _memory(one.memory, one.memory_total)]
    for gpu in one.gpus:
        cells += [_used(gpu.used), _memory(gpu.memory, gpu.memory_total)]
    return cells


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in columns:
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    return table


def _bad(share: float | None) -> Text:
    return Text(terminal.share(share), "red" if share else "dim")


def _waiting(count: int) -> Text:
    return Text(f"{count:,}", "" if count else "dim")


def _used(share: float | None) -> Text:
    if share is None:
        return Text("-", "dim")
    return Text(f"{share:.0%}", "yellow" if share >= _FULL else "")


def _memory(used: float | None, total: float | None) -> Text:
    if used is None or not total:
        return Text("-", "dim")
    style = "yellow" if used / total >= _FULL else ""
    return Text(f"{used / 2**30:.1f}/{total / 2**30:.1f} GiB", style)
