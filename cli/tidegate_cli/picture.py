"""A model as a person looks at it: the live split, who owns it, and the evidence so far."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from tidegate_cli import terminal
from tidegate_cli.cluster import ROLLOUT
from tidegate_cli.models import Model
from tidegate_cli.objects import Metric, ModelVersion, Trial
from tidegate_contract import names

_BAR: Final = 40
_WHOLE: Final = 100.0
_COLOURS: Final = {
    names.ARM_STABLE: "cyan",
    names.ARM_CONTROL: "cyan",
    names.ARM_CANARY: "green",
    names.ARM_TREATMENT: "green",
}
_HISTORY: Final = 6
_BELOW: Final = (0, 2, 1, 2)


def pictures(models: Sequence[Model], *, detailed: bool = False) -> RenderableType:
    """All models, one below the other. ``detailed``: with the history of what moves the traffic."""
    return Group(*(picture(one, detailed=detailed) for one in models))


def picture(model: Model, *, detailed: bool = False) -> RenderableType:
    """One model: split, versions, the owner whole, the others in a line each, and the problems.
    Without an owner the rollout or test that ended last takes its place.
    """
    shown = model.owner or next((one for one in model.trials if one.finished), None)
    others = [one for one in model.trials if one is not shown and (detailed or not one.finished)]
    parts: list[RenderableType] = [_split(model), Text(), _versions(model)]
    if found := sorted({v for one in model.versions for v in one.status.undeclared}):
        listed = ", ".join(str(version) for version in found)
        parts.append(
            terminal.text(f"Undeclared: {listed}. kubectl tidegate discover {model.name}", "yellow")
        )
    if behind := [one for one in model.versions if _is_behind(one)]:
        listed = ", ".join(str(one.spec.version) for one in behind)
        words = f"Spec behind live: {listed}. kubectl tidegate catch-up {model.name}"
        parts.append(terminal.text(words, "yellow"))
    if shown is not None:
        parts += [Text(), *_trial(shown, owns=shown is model.owner)]
        if detailed and shown.status.history:
            parts += [Text(), _history(shown)]
    if others:
        parts += [Text(), *(_line(one) for one in others)]
    parts += [terminal.text(f"! {one}", "yellow") for one in model.problems]
    return Group(_title(model), Padding(Group(*parts), _BELOW))


def _title(model: Model) -> RenderableType:
    where = f" in namespace {model.namespace}"
    if model.table:
        where += f", routing table {model.table.revision}"
    title = Text.assemble(terminal.text(model.name, "bold"), terminal.text(where, "dim"))
    return Rule(title, align="left", style="dim")


def _split(model: Model) -> RenderableType:
    if model.table is None:
        return Text("No routing table: no version has the traffic yet.", "yellow")
    grid = Table.grid(padding=(0, 2))
    for arm in sorted(model.table.split, key=lambda one: (-one.weight, one.version)):
        weight, colour = arm.weight / 100, _COLOURS.get(arm.name, "")
        bar = Text("█" * round(weight / _WHOLE * _BAR), colour)
        grid.add_row(
            terminal.text(arm.name, colour),
            f"version {arm.version}",
            Text(f"{terminal.percent(weight):>5}"),
            bar,
        )
    if mirror := model.table.mirror:
        copied = terminal.percent(mirror.weight / 100)
        grid.add_row(
            Text(names.ARM_SHADOW, "dim"),
            f"version {mirror.version}",
            "",
            Text(f"gets a copy of {copied} of stable's requests", "dim"),
        )
    return grid


def _versions(model: Model) -> RenderableType:
    if not model.versions:
        return Text("No ModelVersion names this model.", "yellow")
    figures = [
        (column, key)
        for column, key in (("REQUESTS", "requests"), ("ERRORS", "errors"), ("P95", "p95"))
        if any(one.status.display.get(key) for one in model.versions)
    ]
    heads = ("VERSION", "PHASE", "LIFECYCLE", "TRAFFIC", "PODS", *(head for head, _ in figures))
    grid = _table(*heads, "MESSAGE", wraps="MESSAGE")
    for one in model.versions:
        status = one.status
        grid.add_row(
            str(one.spec.version),
            terminal.text(status.phase or "-", "" if status.phase == "Ready" else "yellow"),
            terminal.text(status.lifecycle or one.spec.lifecycle),
            terminal.percent(status.traffic_percent),
            f"{status.pods.ready}/{status.pods.total}",
            *(terminal.text(status.display.get(key, "-")) for _, key in figures),
            terminal.text(status.message, "dim"),
        )
    return grid


def _is_behind(one: ModelVersion) -> bool:
    """Whether its spec asks for another share than is live."""
    behind = one.condition("SpecBehind")
    return behind is not None and behind.status == "True"


def _trial(trial: Trial, *, owns: bool) -> Iterable[RenderableType]:
    status = trial.status
    yield Text.assemble(
        terminal.text(f"{trial.kind} {trial.metadata.name}", "bold"),
        Text(" owns the traffic" if owns else "", "dim"),
        Text(" · suspended" if trial.spec.suspend and not trial.finished else "", "yellow"),
    )
    yield _state(trial)
    if status.message:
        yield terminal.text(status.message, "italic")
    if status.plan:
        yield _plan(trial)
    if status.metrics:
        yield Text()
        yield _metrics(trial)


def _state(trial: Trial) -> Text:
    """Phase, step, verdict, requests and pods in one line, as far as there is any of them."""
    status = trial.status
    facts = [terminal.phase(status.phase)]
    if status.current_step and not trial.finished:
        step = f"step {status.current_step} of {status.total_steps}"
        facts.append(Text(f"{step} at {status.weight}%"))
    if status.verdict:
        facts.append(terminal.verdict(status.verdict))
    counted = status.step_requests or status.samples
    if any(counted.values()):
        what = "requests" if status.step_requests else "samples"
        numbers = " + ".join(f"{counted.get(arm, 0):,}" for arm in _arms(trial))
        facts.append(Text(f"{numbers} {what}"))
    if status.revision.wanted and not trial.finished:
        acked = f"{status.revision.acknowledged_pods}/{status.revision.total_pods}"
        facts.append(Text(f"applied by {acked} pods"))
    if status.estimated_end and not trial.finished:
        facts.append(terminal.text(f"ends about {status.estimated_end}"))
    return Text(" · ").join(facts)


def _plan(trial: Trial) -> Text:
    status = trial.status
    line = Text("plan")
    done = len(status.plan) + 1 if status.phase == "Succeeded" else status.current_step
    for number, step in enumerate(status.plan, start=1):
        passed, here = number < done, number == done
        fell = here and status.phase in {"RollingBack", "RolledBack"}
        style = "red" if fell else "green" if passed else "bold" if here else "dim"
        mark = " ✗" if fell else " ✓" if passed else " ◂" if here else ""
        gate = " (gate)" if step.gate and not passed else ""
        line.append(f"  {step.percent}%{gate}{mark}", style)
    if 0 < done <= len(status.plan) and not trial.finished:
        step = status.plan[done - 1]
        if step.duration:
            runs = "" if status.clock_running_since else ", standing still"
            elapsed = terminal.duration(status.step_elapsed)
            line.append(f"   {elapsed} of {step.duration}{runs}")
    return line


def _arms(trial: Trial) -> tuple[str, str]:
    if trial.kind == ROLLOUT:
        return names.ARM_STABLE, names.ARM_CANARY
    return names.ARM_CONTROL, names.ARM_TREATMENT


def _metrics(trial: Trial) -> RenderableType:
    """Each metric: rates by arm, what they differ by with its interval, evidence; then the reasons,
    which are sentences.
    """
    metrics, arms = trial.status.metrics, _arms(trial)
    compared = "RATIO" if trial.kind == ROLLOUT else "LIFT"
    heads = ["METRIC", "VERDICT", *(arm.upper() for arm in arms), compared, "INTERVAL", "EVIDENCE"]
    optional = {
        compared: any(one.ratio is not None or one.lift is not None for one in metrics),
        "INTERVAL": any(one.interval for one in metrics),
        "EVIDENCE": any(one.evidence is not None for one in metrics),
        "P": any(one.p is not None for one in metrics),
    }
    heads = [one for one in [*heads, "P"] if optional.get(one, True)]
    grid = _table(*heads)
    for one in metrics:
        cells = _cells(one, trial, arms, compared)
        grid.add_row(*(cells[head] for head in heads))
    reasons = Table.grid(padding=(0, 2, 0, 0))
    for one in metrics:
        if one.reason:
            reasons.add_row(terminal.text(f"{one.name}:", "dim"), terminal.text(one.reason, "dim"))
    return Group(grid, reasons)


def _cells(
    metric: Metric, trial: Trial, arms: tuple[str, str], compared: str
) -> Mapping[str, RenderableType]:
    shown = terminal.figure if metric.name in trial.spec.valued else terminal.share
    is_ratio = trial.kind == ROLLOUT or metric.name in trial.spec.guarded
    difference = terminal.figure if is_ratio else shown
    evidence = terminal.figure(metric.evidence)
    if metric.threshold is not None:
        evidence += f" of {terminal.figure(metric.threshold)}"
    interval = " to ".join(difference(one) for one in metric.interval or ())
    rates = {arm.upper(): shown(getattr(metric, arm)) for arm in arms}
    return {
        "METRIC": terminal.text(metric.name + (" (dry run)" if metric.dry_run else "")),
        "VERDICT": terminal.verdict(metric.verdict),
        **rates,
        compared: terminal.figure(metric.ratio) if is_ratio else terminal.share(metric.lift),
        "INTERVAL": interval or "-",
        "EVIDENCE": evidence,
        "P": terminal.figure(metric.p),
    }


def _history(trial: Trial) -> RenderableType:
    grid = _table("TIME", "FROM", "TO", "WEIGHT", "REASON", wraps="REASON")
    for one in trial.status.history[-_HISTORY:]:
        grid.add_row(
            terminal.text(one.time[:19].replace("T", " ")),
            terminal.text(one.from_),
            terminal.phase(one.to),
            terminal.percent(one.weight),
            terminal.text(one.reason, "dim"),
        )
    return grid


def _line(trial: Trial) -> RenderableType:
    return Text.assemble(
        terminal.text(f"{trial.kind} {trial.metadata.name}: "),
        terminal.phase(trial.status.phase),
        terminal.text(f" · {trial.status.message}" if trial.status.message else "", "dim"),
    )


def _table(*heads: str, wraps: str = "") -> Table:
    """A table without lines, whose column of prose, if any, takes the rest of the width."""
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for head in heads:
        grid.add_column(head, no_wrap=head != wraps, overflow="fold")
    return grid
