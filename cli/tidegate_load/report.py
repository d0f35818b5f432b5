"""What a person sees of a run: a line each second, and a table at the end."""

from typing import Final, Self

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tidegate_load.schedule import Schedule
from tidegate_load.sender import Record
from tidegate_load.summary import LATE, Figures, Quantiles, Summary

_COLUMNS: Final = (
    *("PRIO", "SENT", "OK/S", "P50", "P95", "P99"),
    *("IN TIME", "EXPIRED", "REJECTED", "ERRORS"),
)


_WIDEST: Final = 1000
"""Columns that no table needs."""


class Progress:
    """A line for each second: in place on a terminal, else one under the other."""

    def __init__(self, screen: Console, schedule: Schedule) -> None:
        self._screen = screen
        self._live = Live(console=screen, auto_refresh=False, transient=True)
        self._seconds = schedule.seconds
        self._before = 0, 0, 0.0

    def __enter__(self) -> Self:
        if self._screen.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, record: Record) -> None:
        """Say what came since the last line."""
        line = self._line(record)
        if self._screen.is_terminal:
            self._live.update(line, refresh=True)
        else:
            self._screen.print(line, soft_wrap=True)

    def _line(self, record: Record) -> Text:
        ended, due, at = self._before
        self._before = record.ended, record.due, record.elapsed
        span = record.elapsed - at
        new = record.answered[ended : record.ended].astype(np.int64)
        ok = new[record.status[new] // 100 == 2]  # noqa: PLR2004 - HTTP's success
        waits = record.done[ok] - record.schedule.times[ok]
        p99 = float(np.quantile(waits, 0.99)) if ok.size else np.nan
        bad = new.size - ok.size
        return Text.assemble(
            (f"{min(record.elapsed, self._seconds):4.0f}/{self._seconds:.0f} s", "bold"),
            f"  {(record.due - due) / span:6,.0f} due/s",
            f"  {ok.size / span:6,.0f} ok/s",
            f"  p99 {_ms(p99 * 1e3):>6} ms",
            (f"  {bad / span:5,.0f} bad/s", "red" if bad else "dim"),
            f"  {record.due - record.ended:5,} open",
        )


def show(console: Console, summary: Summary) -> None:
    """Print the summary. A terminal that is too narrow for the table breaks its lines: cut, figures
    were lost.
    """
    own, wide = console.width, console.options.update_width(_WIDEST)
    for part in _parts(summary):
        needed = console.measure(part, options=wide).maximum if isinstance(part, Table) else 0
        console.width = max(own, needed)
        console.print(part)


def table(summary: Summary) -> RenderableType:
    """The summary as tables and sentences."""
    return Group(*_parts(summary))


def _parts(summary: Summary) -> tuple[Text | Table, ...]:
    return (*_headlines(summary), Text(), _figures(summary), Text(), *_sentences(summary))


def _figures(summary: Summary) -> Table:
    shown = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    shown.add_column("USER", no_wrap=True)
    for name in _COLUMNS:
        shown.add_column(name, justify="right", no_wrap=True)
    for one in summary.users:
        shown.add_row(one.name, str(one.priority), *_cells(one.figures))
    shown.add_row("all", "", *_cells(summary.total), style="bold")
    return shown


def _headlines(summary: Summary) -> tuple[Text, Text]:
    where = f"{summary.model} at {summary.target}: {summary.pattern}, seed {summary.seed}"
    what = f"{summary.total.scheduled:,} requests in {summary.seconds:.1f} s"
    ended = ", interrupted" if summary.interrupted else ""
    return Text(where, "bold"), Text(f"{what}{ended}; latencies in ms since each was due")


def _cells(of: Figures) -> list[str | Text]:
    quantiles = of.latency
    times = (quantiles.p50, quantiles.p95, quantiles.p99) if quantiles else (np.nan,) * 3
    return [
        f"{of.sent:,}",
        f"{of.throughput:,.1f}",
        *map(_ms, times),
        f"{of.in_time / of.scheduled:.1%}" if of.scheduled else "-",
        *(
            Text(f"{count:,}", "red" if count else "dim")
            for count in (of.expired, of.rejected, of.errors)
        ),
    ]


def _sentences(summary: Summary) -> list[Text]:
    total, said = summary.total, []
    if summary.fairness is not None:
        said.append(Text(f"Fairness (Jain) of answers in time: {summary.fairness:.3f}"))
    error = summary.arrival_error
    if error is not None:
        late = f"p50 {_ms(error.p50)}, p99 {_ms(error.p99)}, at most {_ms(error.max)}"
        said.append(Text(f"Late by (ms): {late}"))
    others = {status: n for status, n in summary.statuses.items() if not status.startswith("2")}
    if others:
        said.append(Text("Statuses: " + ", ".join(f"{n:,} x {one}" for one, n in others.items())))
    if total.unanswered or total.unsent:
        left = f"At the end {total.unanswered:,} had no answer"
        words = f"{left}, {total.unsent:,} were not sent for want of a connection"
        said.append(Text(words, "yellow"))
    if error is not None and error.p99 > LATE * 1e3:
        said.append(Text(_doubt(summary, error), "bold yellow"))
    return said


def _doubt(summary: Summary, error: Quantiles) -> str:
    late = f"1% of the requests went more than {_ms(error.p99)} ms late"
    if summary.delayed * 100 > summary.total.sent:
        return (
            f"{late}: {summary.delayed:,} found no connection free. Latencies count that wait; "
            "raise --connections if the callers would not have waited so"
        )
    return f"{late}: this machine is too busy, or too slow for the rate. Latencies count that, too"


def _ms(value: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"  # noqa: PLR2004
