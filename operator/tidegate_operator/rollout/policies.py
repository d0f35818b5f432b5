"""A BatchPolicy's status: for which of its models it holds, on how many pods, and how these batch.

What a policy asks for may be more than can be: a strategy that is not installed, a target that one
row alone takes longer than, a memory limit that it does not fit into. It is applied as near as that
comes, and its status says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import starmap
from statistics import fmean, median
from typing import Final, NamedTuple

from tidegate_contract.acknowledgement import BatchLive
from tidegate_operator.api.batchpolicy import BatchPolicy, Live, Spec, Status
from tidegate_operator.api.meta import condition
from tidegate_operator.rollout.events import Event

TARGET_MET: Final = "TargetMet"
MEMORY_LIMIT_MET: Final = "MemoryLimitMet"
STRATEGY_INSTALLED: Final = "StrategyInstalled"
_NEVER_MET: Final = frozenset({"NotInstalled", "BelowCost", "BelowRow"})
"""Reasons that nothing but another policy, or other pods, take away."""
_AGAIN: Final = 1.1
"""A target is missed beyond so many times it, and met again within it: figures are never still."""
_NOTICEABLE: Final = 0.2
"""A figure has moved where it differs by more than this share of the larger."""
_QUEUED: Final = 10
"""Requests by which a queue's length must differ, too."""
_NOTES: Final = 4
_POWERS: Final = ("", "Ki", "Mi", "Gi", "Ti")


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A model's part. ``holder``: name of the policy that holds, None where no policy does.
    ``pods``/``total``: Ready pods that apply the table with it, of all Ready pods. ``revision``:
    that table's.
    """

    holder: str | None
    pods: int
    total: int
    revision: int


class _Word(NamedTuple):
    """A condition, but for its times."""

    type: str
    status: bool | None
    reason: str
    message: str


def tell(
    one: BatchPolicy, parts: Mapping[str, Applied], live: Iterable[Live], now: float
) -> Status:
    """The whole status. ``parts``: by model, of those models that anybody knows of. ``live``: what
    is known of how its models batch.
    """
    held = {model: part for model, part in parts.items() if part.holder == one.metadata.name}
    pods, total = sum(p.pods for p in held.values()), sum(p.total for p in held.values())
    live = [row for row in live if row.model in held]
    strategy = _strategy(one.spec, live)
    asked = [strategy, *filter(None, (_target(one, live), _memory(one.spec, live)))]
    phase, message = _standing(one, parts, pods, total)
    if phase == "Applied":
        phase = "Degraded" if strategy.status is False else phase
        message = "; ".join([message, *_remarks(asked, live)])
    newest = max((part.revision for part in held.values()), default=0)
    return Status(
        phase=phase,
        applied_pods=pods,
        total_pods=total,
        revision=(_applied_before(one) and one.status.revision) or newest,
        live=live,
        message=message,
        display=_display(one.spec, live, f"{pods}/{total}"),
        conditions=[
            condition(one.status.conditions, *word, now=now, generation=one.metadata.generation)
            for word in (*_kstatus(phase, message, strategy), *asked)
        ],
        observed_generation=one.metadata.generation,
    )


def summed(model: str, spec: Spec, told: Sequence[BatchLive]) -> Live:
    """What the pods say of a model, in one: sizes are their mean, costs the median pod's, the time
    is that of the slowest pod (quantiles of several cannot be made one), the rest adds up.
    """
    fixed = _middle([one.fixed_seconds for one in told])
    per_row = _middle([one.seconds_per_row for one in told])
    others = {one.strategy for one in told} - {"", spec.strategy}
    sizes = [one.batch_size for one in told if one.batch_size is not None]
    known = fixed is not None and per_row is not None
    return Live(
        model=model,
        strategy=min(others, default=spec.strategy),
        batch_size=round(fmean(sizes), 1) if sizes else None,
        cost=f"{_time(fixed)} + {_time(per_row)}*n" if known else "",
        fixed_seconds=fixed,
        seconds_per_row=per_row,
        queue_length=sum(one.queue_length for one in told),
        dropped=sum(one.dropped for one in told),
        p99=_rounded(max((one.p99 for one in told if one.p99 is not None), default=None)),
        row_bytes=max((one.row_bytes for one in told if one.row_bytes is not None), default=None),
        notes=sorted({note for one in told for note in one.notes})[:_NOTES],
    )


def moved(old: Status, new: Status) -> bool:
    """Whether a status says something new, or shows figures that differ noticeably."""
    if _meaning(old) != _meaning(new) or len(old.live) != len(new.live):
        return True
    return any(starmap(_news, zip(old.live, new.live, strict=True)))


def events(old: Status, new: Status) -> list[Event]:
    """What the change is worth telling."""
    told = []
    if new.phase == "Applied" != old.phase:
        told.append(Event("Normal", "PolicyApplied", new.message))
    if new.phase == "Waiting" and (old.phase, old.message) != (new.phase, new.message):
        told.append(Event("Normal", "WaitingForOwner", new.message))
    before = {one.reason for one in old.conditions}
    told += [
        Event("Warning", "InvalidSpec", one.message)
        for one in new.conditions
        if one.type in {STRATEGY_INSTALLED, TARGET_MET, MEMORY_LIMIT_MET}
        and one.reason in _NEVER_MET - before
    ]
    return told


def _applied_before(one: BatchPolicy) -> bool:
    """Whether all pods applied this very policy: the tables that come after carry it along."""
    status = one.status
    current = status.observed_generation == one.metadata.generation
    return status.phase in {"Applied", "Degraded"} and current


def _standing(
    one: BatchPolicy, parts: Mapping[str, Applied], pods: int, total: int
) -> tuple[str, str]:
    """The phase, and the sentence that goes with it."""
    mine = {None, one.metadata.name}
    others = [
        f"{model} by {part.holder}" for model, part in parts.items() if part.holder not in mine
    ]
    unknown = [model for model in one.spec.models if model not in parts]
    if others:
        listed = ", ".join(others)
        return "Waiting", f"An older BatchPolicy holds: {listed}; delete it, or this one"
    if unknown:
        return "Pending", f"No ModelVersion of {', '.join(unknown)} is served yet"
    if (pods < total or not total) and not _applied_before(one):
        return "Applying", f"{pods} of {total} pods apply it"
    return "Applied", "All pods apply it"


def _kstatus(phase: str, message: str, strategy: _Word) -> list[_Word]:
    """The conditions that tools wait for."""
    ready = strategy.reason if phase == "Degraded" else phase
    waiting = phase == "Waiting"
    return [
        _Word("Ready", phase == "Applied", ready, message),
        _Word("Reconciling", phase in {"Applying", "Pending"}, phase, message),
        _Word("Stalled", phase == "Degraded", ready, message),
        _Word("WaitingForOwner", waiting, "OlderPolicy" if waiting else "Holds", message),
    ]


def _strategy(spec: Spec, live: Sequence[Live]) -> _Word:
    """Whether the strategy is the one that runs."""
    others = [row for row in live if row.strategy != spec.strategy]
    if others:
        where = [
            f"{row.strategy} runs for {row.model} in place of {spec.strategy}" for row in others
        ]
        why = dict.fromkeys(note for row in others for note in row.notes)
        return _Word(STRATEGY_INSTALLED, False, "NotInstalled", "; ".join([*where, *why]))
    if not live:
        return _Word(STRATEGY_INSTALLED, None, "NotTold", "No pod has told yet")
    return _Word(STRATEGY_INSTALLED, True, "Installed", f"{spec.strategy} runs")


def _target(one: BatchPolicy, live: Sequence[Live]) -> _Word | None:
    """Whether the target latency is met, or can be; None where there is none."""
    target = one.spec.target
    if target is None:
        return None
    missed = {
        said.reason
        for said in one.status.conditions
        if said.type == TARGET_MET and said.status == "False"
    }
    below = target if "BelowCost" in missed else target * _AGAIN
    for row in live:
        least = (row.fixed_seconds or 0.0) + (row.seconds_per_row or 0.0)
        if least > below:
            message = (
                f"targetLatency {_time(target)} cannot be met: a batch of 1 of {row.model} takes "
                f"{_time(least)}; it is applied as near as possible"
            )
            return _Word(TARGET_MET, False, "BelowCost", message)
    above = target if "P99AboveTarget" in missed else target * _AGAIN
    for row in live:
        if row.p99 is not None and row.p99 > above:
            message = f"99% of {row.model}'s requests take up to {_time(row.p99)}"
            return _Word(TARGET_MET, False, "P99AboveTarget", message)
    seen = any(row.p99 is not None for row in live)
    if not seen:
        return _Word(TARGET_MET, None, "NoTraffic", "Too few requests lately to say")
    return _Word(TARGET_MET, True, "WithinTarget", f"99% are answered within {_time(target)}")


def _memory(spec: Spec, live: Sequence[Live]) -> _Word | None:
    """Whether batches can be kept within the memory limit; None where there is none."""
    if spec.memory is None:
        return None
    known = [(row.model, row.row_bytes) for row in live if row.row_bytes is not None]
    for model, row in known:
        if row > spec.memory:
            message = (
                f"memoryLimit {spec.memory_limit} cannot be met: a row of {model} takes "
                f"{_size(row)}; such rows go one by one"
            )
            return _Word(MEMORY_LIMIT_MET, False, "BelowRow", message)
    if not known:
        return _Word(MEMORY_LIMIT_MET, None, "NoTraffic", "No row was sent lately to tell by")
    return _Word(MEMORY_LIMIT_MET, True, "WithinLimit", f"Batches stay within {spec.memory_limit}")


def _remarks(asked: Sequence[_Word], live: Sequence[Live]) -> list[str]:
    """What keeps an applied policy from doing as it says."""
    said = [word.message for word in asked if word.status is False]
    notes = dict.fromkeys(note for row in live for note in row.notes)
    return said + [note for note in notes if not any(note in one for one in said)]


def _display(spec: Spec, live: Sequence[Live], applied: str) -> dict[str, str]:
    slowest = max((row.p99 for row in live if row.p99 is not None), default=None)
    sizes = sorted(round(row.batch_size) for row in live if row.batch_size is not None)
    size = "-".join(str(n) for n in sorted({sizes[0], sizes[-1]})) if sizes else "-"
    return {
        "models": ",".join(spec.models),
        "strategy": ",".join(sorted({row.strategy for row in live})) or spec.strategy,
        "batch": f"{size}/{spec.max_batch_size}" if spec.max_batch_size else size,
        "applied": applied,
        "p99": "-" if slowest is None else _time(slowest),
    }


def _meaning(status: Status) -> tuple[object, ...]:
    return (
        status.phase,
        status.applied_pods,
        status.total_pods,
        status.revision,
        status.observed_generation,
        [(one.type, one.status, one.reason) for one in status.conditions],
    )


def _news(before: Live, after: Live) -> bool:
    if (before.model, before.notes) != (after.model, after.notes):
        return True
    queues = before.queue_length, after.queue_length
    if abs(queues[0] - queues[1]) >= _QUEUED and _differ(*queues):
        return True
    return any(_differ(*pair) for pair in zip(_figures(before), _figures(after), strict=True))


def _figures(row: Live) -> tuple[float | None, ...]:
    """The figures whose every noticeable change is news."""
    costs = row.fixed_seconds, row.seconds_per_row, row.row_bytes
    return row.batch_size, *costs, row.p99, row.dropped


def _differ(before: float | None, after: float | None) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(before - after) > _NOTICEABLE * max(before, after)


def _middle(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return _rounded(median(known)) if known else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def _time(seconds: float | None) -> str:
    """A time as people read it: ``1.25s``, ``12.3ms``, ``0.051ms``."""
    value = seconds or 0.0
    return f"{value:.3g}s" if value >= 1 else f"{1000 * value:.3g}ms"


def _size(octets: int) -> str:
    """Bytes as people read them: ``512``, ``1.5Ki``, ``2Gi``."""
    power = min((max(1, octets).bit_length() - 1) // 10, len(_POWERS) - 1)
    return f"{octets / 1024**power:.4g}{_POWERS[power]}"
