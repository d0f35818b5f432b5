"""Models as one document for programs: what was asked, what is so, and how it came to be."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from tidegate_cli.cluster import ROLLOUT, TEST, Raw
from tidegate_cli.models import Model

FORMAT: Final = "tidegate.dev/export/v1"
"""Grows by one where a field changes its meaning or goes; new fields come without."""

_OWN_PLACE: Final = ("history", "conditions")
_OPERATORS_OWN: Final = ("checkpoint",)


def document(models: Iterable[Model]) -> Raw:
    """The shape that docs/cli.md describes. Equal clusters give equal documents."""
    return {"format": FORMAT, "models": [_model(one) for one in models]}


def _model(model: Model) -> Raw:
    table = model.table
    by_age = sorted(
        model.trials, key=lambda one: (one.metadata.creation_timestamp, one.metadata.name)
    )
    owner = table.owner if table else None
    return {
        "namespace": model.namespace,
        "model": model.name,
        "revision": table.revision if table else None,
        "owner": {"kind": owner.kind, "name": owner.name} if owner else None,
        "split": [
            {"arm": arm.name, "version": arm.version, "percent": arm.weight / 100}
            for arm in sorted(table.split if table else [], key=lambda arm: (arm.name, arm.version))
        ],
        "baseline": [
            {"version": version, "percent": value}
            for version, value in sorted(model.baseline.items())
        ],
        "versions": [_object(one.raw) for one in model.versions],
        "rollouts": [_object(one.raw) for one in by_age if one.kind == ROLLOUT],
        "tests": [_object(one.raw) for one in by_age if one.kind == TEST],
        "problems": list(model.problems),
    }


def _object(raw: Raw) -> Raw:
    status: Mapping[str, Any] = raw.get("status", {})
    kept = (*_OWN_PLACE, *_OPERATORS_OWN)
    return {
        "name": raw["metadata"]["name"],
        "created": raw["metadata"].get("creationTimestamp"),
        "labels": raw["metadata"].get("labels", {}),
        "spec": raw["spec"],
        "status": {key: value for key, value in status.items() if key not in kept},
        "history": status.get("history", []),
        "conditions": sorted(status.get("conditions", []), key=lambda one: str(one["type"])),
    }
