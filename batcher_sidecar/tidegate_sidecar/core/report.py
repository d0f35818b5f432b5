"""The profile as a page for people: one file, no script, nothing fetched."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

Json = Mapping[str, Any]

_COLOURS: Final = {
    "queue": "#4e79a7",
    "formation": "#f28e2b",
    "processing": "#59a14f",
    "distribution": "#b07aa1",
}
_QUANTILES: Final = ("p50", "p95", "p99")
_WIDTH: Final = 640
_BAR: Final = 22
_LETTER: Final = 7
"""Width of a letter in a picture, at most on the average."""
_PLOT_HEIGHT: Final = 180
_ROWS: Final = (0, 16, 32, 48, 64)
"""Along the axis of the picture of costs."""
_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem;
  padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: .6rem 0 1.4rem }
th, td { padding: .2rem .8rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
svg text { font: 12px system-ui, sans-serif }
.colour { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem }
.key { margin-right: 1rem }
.wide { overflow-x: auto }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd }
  th, td { border-color: #444 } svg text { fill: #ddd } a { color: #8ab4f8 } }
"""


def render(profile: Json, source: str = "") -> str:
    """Write the answer of ``/profile`` as HTML. ``source``: whose it is, and of when."""
    models = profile["models"]
    parts = [f"<p>{escape(source)}</p>" if source else ""]
    if len(models) > 1:
        links = " · ".join(f'<a href="#{escape(one)}">{escape(one)}</a>' for one in models)
        parts.append(f"<p>{links}</p>")
    parts += [_model(name, one) for name, one in models.items()]
    if not models:
        parts.append("<p>No model is served here.</p>")
    body = "".join(parts)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Where the time goes</title>'
        '<meta name="viewport" content="width=device-width">'
        f"<style>{_STYLE}</style><h1>Where the time goes</h1>{body}</html>\n"
    )


def _model(name: str, profile: Json) -> str:
    strategy, waiting = escape(str(profile["strategy"])), profile["waiting"]
    memory = f"; {escape(profile['memory'])}" if profile["memory"] else ""
    wait = "1 request waits" if waiting == 1 else f"{waiting:,} requests wait"
    title = f'<h2 id="{escape(name)}">{escape(name)}</h2>'
    head = f"{title}<p>Strategy {strategy}; {wait}{memory}.</p>"
    requests = profile["requests"]
    if not requests:
        return f"{head}<p>No request was answered yet.</p>"
    return (
        f"{head}<h3>Mean time of a request, by stage</h3>{_key()}{_bars(requests)}"
        f"<h3>Quantiles</h3>{_quantiles(requests)}{_batches(profile['batches'])}"
    )


def _key() -> str:
    keys = (f'<span class="key">{_colour(of)}{stage}</span> ' for stage, of in _COLOURS.items())
    return f"<p>{''.join(keys)}</p>"


def _bars(requests: Sequence[Json]) -> str:
    """One bar for each version and level, as long as its mean time."""
    longest = max(map(_mean, requests)) or 1.0
    label = max(len(_title(one)) for one in requests) * _LETTER
    room = max(_WIDTH - label - 80, 200)
    rows = []
    for i, one in enumerate(requests):
        top = i * (_BAR + 8)
        left = float(label)
        rows.append(f'<text x="0" y="{top + 16}">{_title(one)}</text>')
        for stage, colour in _COLOURS.items():
            seconds = one["stages"][stage]["mean"] or 0.0
            width = seconds / longest * room
            percent = one["stages"][stage]["percent"]
            rows.append(
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" '
                f'fill="{colour}"><title>{stage}: {_time(seconds)}, {percent:.1f}%</title></rect>'
            )
            left += width
        rows.append(f'<text x="{left + 6:.1f}" y="{top + 16}">{_time(_mean(one))}</text>')
    return _svg(len(requests) * (_BAR + 8), rows, label + room + 80)


def _quantiles(requests: Sequence[Json]) -> str:
    """A table with a row for each stage of each version and level."""
    head = "".join(f"<th>{column}" for column in ("stage", "mean", *_QUANTILES, "of all"))
    return _table(f"<tr><th><th>requests{head}{''.join(map(_stages, requests))}")


def _stages(one: Json) -> str:
    rows = []
    for i, stage in enumerate(_COLOURS):
        of = one["stages"][stage]
        first = f"<td>{_title(one)}<td>{one['requests']:,}" if i == 0 else "<td><td>"
        times = "".join(f"<td>{_time(of[column])}" for column in ("mean", *_QUANTILES))
        rows.append(f"<tr>{first}<td>{stage}{times}<td>{of['percent']:.1f}%")
    return "".join(rows)


def _batches(batches: Sequence[Json]) -> str:
    """What was learned of each group's cost, and what was decided lately and why."""
    if not batches:
        return ""
    rows = "".join(
        f"<tr><td>{_colour(_line_colour(i))}version {one['lane']}, {escape(str(one['group']))}"
        f"<td>{one['batches']:,}<td>{_time(one['fixed'])}<td>{_time(one['per_row'])}"
        f"<td>{escape(one['reason'])}"
        for i, one in enumerate(batches)
    )
    head = "<tr><th>group<th>batches<th>fixed<th>each row<th>last decision"
    table = f"<h3>What batches cost</h3>{_table(head + rows)}"
    return table + _costs(batches) + _reasons(batches)


def _costs(batches: Sequence[Json]) -> str:
    """The learned a + b n of each group over the rows of a batch."""
    most, height, left = _ROWS[-1], _PLOT_HEIGHT, 70
    longest = max(one["fixed"] + one["per_row"] * most for one in batches) or 1.0
    lines = [
        f'<path d="M{left} 10V{height}H{_WIDTH}" fill="none" stroke="currentColor"/>',
        f'<text x="{left - 6}" y="18" text-anchor="end">{_time(longest)}</text>',
        f'<text x="{left - 6}" y="{height}" text-anchor="end">0</text>',
    ]
    for rows in _ROWS[1:]:
        at_rows = left + (_WIDTH - left) * rows / most
        unit = " rows" if rows == most else ""
        lines.append(f'<text x="{at_rows}" y="{height + 16}" text-anchor="end">{rows}{unit}</text>')
    for i, one in enumerate(batches):
        at = [height - (height - 10) * one["fixed"] / longest]
        at.append(at[0] - (height - 10) * one["per_row"] * most / longest)
        lines.append(
            f'<line x1="{left}" y1="{at[0]:.1f}" x2="{_WIDTH}" y2="{at[1]:.1f}" '
            f'stroke="{_line_colour(i)}" stroke-width="2">'
            f"<title>version {one['lane']}, {escape(str(one['group']))}</title></line>"
        )
    return f"<p>Time of a batch by its rows, as learned.</p>{_svg(height + 24, lines)}"


def _reasons(batches: Sequence[Json]) -> str:
    counts: dict[str, int] = {}
    for one in batches:
        for reason, count in one["reasons"].items():
            counts[reason] = counts.get(reason, 0) + count
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    whole = sum(counts.values()) or 1
    rows = "".join(
        f"<tr><td>{escape(reason)}<td>{count:,}<td>{count / whole:.1%}" for reason, count in ordered
    )
    table = _table(f"<tr><th>reason<th>decisions<th>of all{rows}")
    return f"<h3>Why batches were as they were</h3>{table}"


def _svg(height: int, parts: Iterable[str], width: int = _WIDTH) -> str:
    drawn = f'<svg width="{width}" height="{height}" role="img">{"".join(parts)}</svg>'
    return f'<div class="wide">{drawn}</div>'


def _table(rows: str) -> str:
    return f'<div class="wide"><table>{rows}</table></div>'


def _colour(colour: str) -> str:
    return f'<span class="colour" style="background:{colour}"></span>'


def _line_colour(place: int) -> str:
    """Of a group's line: as its place in the table goes."""
    colours = list(_COLOURS.values())
    return colours[place % len(colours)]


def _title(one: Json) -> str:
    name = f" ({escape(one['name'])})" if one["name"] else ""
    return f"version {one['version']}, level {one['level']}{name}"


def _mean(one: Json) -> float:
    return sum(stage["mean"] or 0.0 for stage in one["stages"].values())


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"
