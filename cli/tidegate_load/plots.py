"""A run as pictures: traffic and latency over time, and the whole distribution by user."""

import io
from collections.abc import Sequence
from html import escape
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from rich.console import Console

from tidegate_load import report
from tidegate_load.schedule import Times
from tidegate_load.sender import Record
from tidegate_load.summary import Outcomes, Summary, outcomes
from tidegate_load.users import User

_POINTS: Final = 120
"""Along the time, at most."""
_FEWER: Final = 30
"""Along the time where each is a quantile, which a handful of answers does not have."""
_LEAST: Final = 0.1
"""Seconds that a point stands for, at least."""
_COLOURS: Final = {
    "in time": "#2c7a4b",
    "late": "#9bc2a8",
    "expired": "#c26a00",
    "rejected": "#b3261e",
    "errors": "#5b1a52",
    "no answer": "#a3a3a3",
}
_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>:root{{color-scheme:light;background:#fff}}
body{{font-family:sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}}
pre{{font-size:.85rem;overflow-x:auto}}svg{{width:100%;height:auto}}</style>
<h1>{title}</h1>
{table}
{picture}
</html>
"""


def drawn(suffix: str, record: Record, users: Sequence[User], summary: Summary) -> bytes:
    """A picture (``.png``), or a page that needs nothing else (``.html``), as a file's bytes."""
    figure = _figure(record, users)
    if suffix == ".png":
        figure.suptitle(f"{summary.model} at {summary.target}: {summary.pattern}")
        return _saved(figure, "png")
    svg = _saved(figure, "svg").decode()
    title = f"Load of {summary.model}"
    page = _PAGE.format(
        title=escape(title), table=_table(summary), picture=svg[svg.index("<svg") :]
    )
    return page.encode()


def _figure(record: Record, users: Sequence[User]) -> Figure:
    found = outcomes(record, users)
    figure = Figure(figsize=(10, 11), layout="constrained")
    traffic, latency, whole = figure.subplots(3)
    _traffic(traffic, found, _edges(found, _POINTS))
    _latency(latency, found, users, _edges(found, _FEWER))
    _distribution(whole, found, users)
    return figure


def _edges(found: Outcomes, most: int) -> Times:
    """Seconds that divide the run into equal parts, no more than so many."""
    end = max(float(found.at.max(initial=0)), _LEAST)
    return np.linspace(0, end, min(max(round(end / _LEAST), 1), most) + 1)


def _traffic(axes: Axes, found: Outcomes, edges: Times) -> None:
    parts = {
        "in time": found.in_time,
        "late": found.ok & ~found.in_time,
        "expired": found.expired,
        "rejected": found.rejected,
        "errors": found.errors,
        "no answer": ~found.done,
    }
    present = {name: mask for name, mask in parts.items() if mask.any()}
    counts = [np.histogram(found.at[mask], edges)[0] for mask in present.values()]
    rates = [np.append(one, one[-1]) / (edges[1] - edges[0]) for one in counts]
    colours = [_COLOURS[name] for name in present]
    if present:
        axes.stackplot(edges, rates, labels=list(present), colors=colours, step="post")
    axes.set(title="Requests by when they were due", ylabel="requests a second", xlabel="seconds")
    axes.yaxis.set_major_formatter("{x:,g}")
    _legend(axes)


def _latency(axes: Axes, found: Outcomes, users: Sequence[User], edges: Times) -> None:
    for i, one in enumerate(users):
        mask = found.ok & (found.users == i)
        if not mask.any():
            continue
        places = np.minimum(np.digitize(found.at[mask], edges), edges.size - 1) - 1
        order = np.argsort(places, kind="stable")
        present, first = np.unique(places[order], return_index=True)
        groups = np.split(found.latency[mask][order], first[1:])
        p95 = np.full(edges.size - 1, np.nan)  # a gap where nothing was answered
        p95[present] = [np.quantile(group, 0.95) * 1e3 for group in groups]
        axes.plot((edges[:-1] + edges[1:]) / 2, p95, label=one.name, marker=".")
    axes.set(title="Latency of answers 2xx, P95", ylabel="ms", xlabel="seconds", yscale="log")
    _plain(axes.yaxis)
    _legend(axes)


def _distribution(axes: Axes, found: Outcomes, users: Sequence[User]) -> None:
    for i, one in enumerate(users):
        latency = found.latency[found.ok & (found.users == i)]
        if latency.size:
            beyond = np.geomspace(1, 1 / latency.size, _POINTS)
            axes.plot(np.quantile(latency, 1 - beyond) * 1e3, beyond, label=one.name)
    axes.set(title="Share of answers 2xx that took longer", xlabel="ms", xscale="log", yscale="log")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share * 100:g}%")
    axes.grid(visible=True, alpha=0.3)
    _plain(axes.xaxis)
    _legend(axes)


def _plain(axis: Axis) -> None:
    """A logarithmic axis with 1, 2, 5, 10 in place of powers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Axes) -> None:
    if axes.has_data():
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    else:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "There were none.", ha="center", transform=axes.transAxes)


def _saved(figure: Figure, form: str) -> bytes:
    file = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tidegate"}):
        figure.savefig(file, format=form, dpi=120, metadata={"Date": None} if form == "svg" else {})
    return file.getvalue()


def _table(summary: Summary) -> str:
    """The table of the terminal, as HTML."""
    console = Console(record=True, file=io.StringIO(), width=110, highlight=False)
    console.print(report.table(summary))
    return console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
