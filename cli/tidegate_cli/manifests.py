"""ModelVersions to write: of versions that nobody has declared, and as the live split has them."""

from collections.abc import Iterable
from typing import Any, Final

from tidegate_cli.cluster import MODEL_VERSION, Raw
from tidegate_cli.models import Model
from tidegate_cli.objects import ModelVersion
from tidegate_contract import names

_KEPT: Final = ("Active", "Deprecated")
"""Lifecycles under which a version keeps the traffic that its spec asks for."""


def undeclared(model: Model, reported: Iterable[Iterable[int]]) -> list[int]:
    """Versions that some pod's Triton has and no ModelVersion names."""
    declared = {one.spec.version for one in model.versions}
    return sorted({version for pod in reported for version in pod} - declared)


def declaration(model: Model, version: int) -> Raw:
    """A ModelVersion for a version that was found: Testing, so that it gets no traffic."""
    spec: dict[str, Any] = {"model": model.name, "version": version, "lifecycle": "Testing"}
    if selector := next((one.spec.pod_selector for one in model.versions), None):
        spec["podSelector"] = selector
    # The contract derives names behind a prefix; a ModelVersion's has none.
    derived = names.object_name("", model.name).removeprefix("-")
    return _manifest({"name": f"{derived}-{version}", "namespace": model.namespace}, spec)


def behind(model: Model) -> list[ModelVersion]:
    """The versions whose share the operator has changed since their spec was written."""
    conditions = ((one, one.condition("SpecBehind")) for one in model.versions)
    return [one for one, found in conditions if found and found.status == "True"]


def caught_up(model: Model, version: ModelVersion) -> Raw:
    """The version's ModelVersion as the baseline has it: applied, it moves nothing."""
    share = model.baseline.get(version.spec.version, 0.0)
    spec = {**version.raw["spec"], "trafficPercent": round(share)}
    if share and version.spec.lifecycle not in _KEPT:
        spec["lifecycle"] = "Active"
    meta = version.metadata
    kept: Raw = {"name": meta.name, "namespace": meta.namespace}
    if meta.labels:
        kept["labels"] = meta.labels
    return _manifest(kept, spec)


def _manifest(metadata: Raw, spec: Raw) -> Raw:
    return {
        "apiVersion": f"{names.GROUP}/{names.API_VERSION}",
        "kind": MODEL_VERSION,
        "metadata": metadata,
        "spec": spec,
    }
