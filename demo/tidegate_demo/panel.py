"""A moment of an act as a person sees it: where the rollout or test is, who gets what, and how the
evidence stands. Whatever is shown of the arms' traffic is from the clients' own book.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tidegate_contract import names
from tidegate_demo.ledger import ArmFigures

BAR: Final = 64
COLOURS: Final = {
    names.ARM_STABLE: "cyan",
    names.ARM_UNASSIGNED: "bright_black",
    names.ARM_CONTROL: "cyan",
    names.ARM_CANARY: "green",
    names.ARM_TREATMENT: "green",
}
"""Of the arms, in the order in which they are shown."""
VERDICTS: Final = {
    "Pass": "green",
    "TreatmentWins": "green",
    "Fail": "bold red",
    "Error": "yellow",
    "NoData": "yellow",
}
ROLLOUT_ARMS: Final = (names.ARM_STABLE, names.ARM_CANARY)
TEST_ARMS: Final = (names.ARM_CONTROL, names.ARM_TREATMENT)
PHASES: Final = {
    "Succeeded": "bold green",
    "Finished": "bold green",
    "RolledBack": "bold red",
    "Failed": "bold red",
    "Stopped": "bold red",
}


@dataclass(frozen=True)
class Snapshot:
    """A moment of an act. ``brought``: its rollout or test as the API server has it, or empty."""

    seconds: float
    brought: Mapping[str, Any]
    arms: Mapping[str, ArmFigures]
    sent: int


def whole(snapshot: Snapshot) -> RenderableType:
    """The moment whole, for a terminal that redraws it."""
    status = snapshot.brought.get("status", {})
    parts: list[RenderableType] = [Text()]
    if snapshot.brought:
        parts += [_headline(snapshot.brought), Text()]
    parts += [_bar(snapshot.arms), _arms(snapshot.arms)]
    compared = TEST_ARMS if snapshot.brought.get("kind") == "ABTest" else ROLLOUT_ARMS
    metrics = status.get("metrics", [])
    if any(metric.get(arm) is not None for metric in metrics for arm in compared):
        parts += [Text(), _metrics(metrics, compared)]
    # When it has ended, its message has been told as an event.
    if (message := status.get("message")) and status.get("phase") not in PHASES:
        parts += [Text(), Text(message, "italic")]
    clock = Text(f"{snapshot.seconds:.0f} s · {snapshot.sent:,} requests sent", "dim")
    return Padding(Group(*parts, clock), (0, 2))


def _headline(brought: Mapping[str, Any]) -> Text:
    status = brought.get("status", {})
    phase = status.get("phase", "") or "Pending"
    line = Text.assemble((f"{phase:<12}", PHASES.get(phase, "bold")))
    current = status.get("currentStep", 0)
    for number, step in enumerate(status.get("plan", []), start=1):
        passed = number < current or phase == "Succeeded"
        style = "green" if passed else "bold" if number == current else "dim"
        left_at = number == current and phase in ("RolledBack", "RollingBack")
        mark = " ✓" if passed else " ✗" if left_at else ""
        line.append(f"  {step['percent']}%{mark}", "red" if left_at else style)
    verdict = status.get("verdict", "")
    line.append(f"     weight {status.get('weight', 0)}%")
    line.append(f"     {verdict}", VERDICTS.get(verdict, ""))
    return line


def _bar(arms: Mapping[str, ArmFigures]) -> Text:
    """The arms' shares of what was answered; what is rounded away goes to the first."""
    total = sum(figures.rate for figures in arms.values())
    if not total:
        return Text("·" * BAR, "dim")
    shares = {arm: round(BAR * arms[arm].rate / total) for arm in _ordered(arms)}
    first = next(iter(shares))
    shares[first] += BAR - sum(shares.values())
    return Text.assemble(*(("█" * share, _colour(arm)) for arm, share in shares.items()))


def _arms(arms: Mapping[str, ArmFigures]) -> Table:
    table = Table.grid(padding=(0, 2))
    for arm in _ordered(arms):
        figures = arms[arm]
        table.add_row(
            Text(f"{arm:<10}", _colour(arm)),
            f"version {figures.version}" if figures.version else "",
            f"{figures.rate:6.1f} req/s",
            f"p95 {_milliseconds(figures.p95):>7}",
            Text(f"{figures.failed} failed", "red" if figures.failed else "dim"),
            _said(figures),
        )
    return table


def _ordered(arms: Mapping[str, ArmFigures]) -> list[str]:
    order = list(COLOURS)
    return sorted(arms, key=lambda arm: (order.index(arm) if arm in order else len(order), arm))


def _colour(arm: str) -> str:
    return COLOURS.get(arm, "red")


def _said(figures: ArmFigures) -> str:
    """What users reported of an arm."""
    if figures.correct is None:
        return ""
    return f"{figures.correct:.1%} right of {figures.reports:,} reported"


def _metrics(metrics: Sequence[Mapping[str, Any]], arms: tuple[str, str]) -> Table:
    """Each metric: both arms, what lies between them with its interval, and how sure that is."""
    lift, sure = ("lift", "p") if arms == TEST_ARMS else ("ratio", "evidence")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in ("metric", "", *arms, lift, "interval", sure, ""):
        table.add_column(head, justify="right" if head in arms else "left", no_wrap=True)
    for metric in metrics:
        verdict = metric.get("verdict", "")
        table.add_row(
            metric["name"],
            Text(verdict, VERDICTS.get(verdict, "")),
            *(_share(metric.get(arm)) for arm in arms),
            *_between(metric),
            _figure(metric.get("p")) if sure == "p" else _evidence(metric),
            Text("dry run" if metric.get("dryRun") else "", "dim"),
        )
    return table


def _between(metric: Mapping[str, Any]) -> tuple[str, str]:
    """How far apart the arms are, and between which bounds that surely lies: of a lift those of
    the difference, in points.
    """
    interval, lift, ratio = metric.get("interval") or (), metric.get("lift"), metric.get("ratio")
    if lift is not None:
        return f"{lift:+.1%}", points(interval)
    return _figure(ratio), " to ".join(map(_figure, interval))


def points(interval: Sequence[float]) -> str:
    """Both ends of an interval of shares, in percentage points."""
    return " to ".join(f"{100 * end:+.1f}" for end in interval) + " points" if interval else ""


def _evidence(metric: Mapping[str, Any]) -> str:
    """Of harm, against where it suffices to roll back."""
    if metric.get("evidence") is None:
        return "-"
    return f"{_figure(metric['evidence'])} of {_figure(metric.get('threshold'))}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if 10 <= value < 1e5 else f"{value:.2g}"  # noqa: PLR2004


def in_a_line(snapshot: Snapshot) -> str:
    """The moment in a line, for a file."""
    status = snapshot.brought.get("status", {})
    head = status.get("phase") or "Pending"
    if "totalSteps" in status:
        head += f" step {status['currentStep']}/{status['totalSteps']}"
    head += f" weight {status.get('weight', 0)}%"
    arms = "  ".join(_briefly(arm, snapshot.arms[arm]) for arm in _ordered(snapshot.arms))
    return f"  {snapshot.seconds:4.0f}s  {head if snapshot.brought else 'serving'}  {arms}"


def _briefly(arm: str, figures: ArmFigures) -> str:
    failed = f" {figures.failed} failed" if figures.failed else ""
    return f"{arm} {figures.rate:.0f}/s {_milliseconds(figures.p95)}{failed}"


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def _share(share: float | None) -> str:
    return "  -  " if share is None else f"{share * 100:4.1f}%"
