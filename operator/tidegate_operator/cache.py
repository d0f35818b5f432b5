"""The objects as last seen, by model: fed by watch events, read by the reconciler.

Nothing here cannot be rebuilt by listing. Objects arrive out of order (a watch event may be older
than what a write has just returned), so the higher resourceVersion wins.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tidegate_contract import names
from tidegate_contract.table import RoutingTable, TableError
from tidegate_contract.table import decode as decode_table
from tidegate_operator.adapters.cluster import CONFIG_MAP, POD
from tidegate_operator.api import batchpolicy, canaryrollout, modelversion
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import InvalidObjectError, convert
from tidegate_operator.api.modelversion import ModelVersion
from tidegate_operator.api.quantity import epoch
from tidegate_operator.rollout.observation import StoredTable

Raw = dict[str, Any]
ModelKey = tuple[str, str]
KINDS: Final = (modelversion.KIND, canaryrollout.KIND, batchpolicy.KIND, POD, CONFIG_MAP)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """The part of a Pod that matters here."""

    name: str
    uid: str
    address: str
    labels: Mapping[str, str]
    ready: bool
    ready_since: float
    terminating: bool


Typed = ModelVersion | CanaryRollout | BatchPolicy | PodSeen | RoutingTable | None


@dataclass(slots=True)
class Cache:
    """All objects of the kinds that the operator decides from."""

    _raw: dict[str, dict[tuple[str, str], Raw]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    _typed: dict[str, dict[tuple[str, str], Typed]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    _gone: dict[str, dict[tuple[str, str], int]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    _last_tables: dict[ModelKey, RoutingTable] = field(default_factory=dict)
    invalid: dict[tuple[str, str, str], str] = field(default_factory=dict)

    def put(self, kind: str, raw: Raw) -> bool:
        """Take in an object unless a newer one is here, or its deletion was seen; says whether it
        was taken.
        """
        key = _key(raw)
        old = self._raw[kind].get(key)
        if old is not None and _age(old) >= _age(raw):
            return False
        if _age(raw) <= self._gone[kind].get(key, -1):
            return False
        self._raw[kind][key] = raw
        try:
            self._typed[kind][key] = _typed(kind, raw)
            self.invalid.pop((kind, *key), None)
        except InvalidObjectError as error:
            self._typed[kind].pop(key, None)
            self.invalid[kind, *key] = str(error)
            _log.warning("%s %s/%s does not fit: %s", kind, *key, error)
        content = self._typed[kind].get(key)
        if isinstance(content, RoutingTable):
            self._last_tables[content.namespace, content.model] = content
        return True

    def remove(self, kind: str, raw: Raw) -> None:
        """Forget an object, unless another one took its name since. ``raw``: as it was last."""
        key = _key(raw)
        self._gone[kind][key] = max(_age(raw), self._gone[kind].get(key, -1))
        old = self._raw[kind].get(key)
        if old is not None and old["metadata"]["uid"] == raw["metadata"]["uid"]:
            del self._raw[kind][key]
            self._typed[kind].pop(key, None)
            self.invalid.pop((kind, *key), None)

    def replace(self, kind: str, listed: Iterable[Raw], revision: int) -> None:
        """Make a kind what a list of that revision says: deletions that no watch told are noticed
        here. What watches told since the list was made stands.
        """
        there = {(_key(raw), raw["metadata"]["uid"]) for raw in listed}
        for raw in listed:
            self.put(kind, raw)
        for raw in list(self._raw[kind].values()):
            if (_key(raw), raw["metadata"]["uid"]) not in there and _age(raw) <= revision:
                self.remove(kind, raw)
        self._gone[kind] = {key: age for key, age in self._gone[kind].items() if age > revision}

    def raw(self, kind: str, namespace: str, name: str) -> Raw | None:
        """An object as it came."""
        return self._raw[kind].get((namespace, name))

    def models(self) -> set[ModelKey]:
        """Every model that any object names."""
        found = {
            (namespace, one.spec.model)
            for kind in (modelversion.KIND, canaryrollout.KIND)
            for (namespace, _), one in self._typed[kind].items()
            if isinstance(one, ModelVersion | CanaryRollout)
        }
        found |= {
            (namespace, model)
            for (namespace, _), one in self._typed[batchpolicy.KIND].items()
            if isinstance(one, BatchPolicy)
            for model in one.spec.models
        }
        tables = {
            (namespace, raw["metadata"].get("labels", {}).get(names.LABEL_MODEL, ""))
            for (namespace, _), raw in self._raw[CONFIG_MAP].items()
        }
        return found | {key for key in tables if key[1]}

    def concerned(self, kind: str, raw: Raw) -> set[ModelKey]:
        """The models that a change of this object may matter to."""
        namespace = raw["metadata"]["namespace"]
        match kind:
            case "BatchPolicy":
                return {(namespace, model) for model in raw["spec"].get("models", [])}
            case "Pod":
                return {key for key in self.models() if key[0] == namespace}
            case "ConfigMap":
                model = raw["metadata"].get("labels", {}).get(names.LABEL_MODEL)
                return {(namespace, model)} if model else set()
            case _:
                return {(namespace, raw["spec"]["model"])}

    def unfit(self, key: ModelKey) -> list[tuple[str, Raw, str]]:
        """The model's objects that do not fit our types: kind, object, and what is wrong."""
        found = []
        for (kind, *where), problem in self.invalid.items():
            raw = self._raw[kind][where[0], where[1]]
            if kind != CONFIG_MAP and key in self.concerned(kind, raw):
                found.append((kind, raw, problem))
        return found

    def versions(self, key: ModelKey) -> tuple[ModelVersion, ...]:
        """The model's ModelVersions."""
        return tuple(
            one
            for (namespace, _), one in self._typed[modelversion.KIND].items()
            if isinstance(one, ModelVersion) and (namespace, one.spec.model) == key
        )

    def rollouts(self, key: ModelKey) -> tuple[CanaryRollout, ...]:
        """The model's CanaryRollouts."""
        return tuple(
            one
            for (namespace, _), one in self._typed[canaryrollout.KIND].items()
            if isinstance(one, CanaryRollout) and (namespace, one.spec.model) == key
        )

    def phases(self) -> Counter[str]:
        """How many CanaryRollouts are in each phase."""
        return Counter(
            one.status.phase or "New"
            for one in self._typed[canaryrollout.KIND].values()
            if isinstance(one, CanaryRollout)
        )

    def policies(self, namespace: str) -> tuple[BatchPolicy, ...]:
        """All BatchPolicies of a namespace."""
        return tuple(
            one
            for (where, _), one in self._typed[batchpolicy.KIND].items()
            if isinstance(one, BatchPolicy) and where == namespace
        )

    def pods(self, key: ModelKey) -> tuple[PodSeen, ...]:
        """The pods that the model's versions select and that have not ended."""
        selector = self._selector(key)
        return tuple(
            one
            for (namespace, _), one in self._typed[POD].items()
            if isinstance(one, PodSeen)
            and namespace == key[0]
            and selector.matches(dict(one.labels))
        )

    def _selector(self, key: ModelKey) -> modelversion.Selector:
        """The versions' common selector; where they differ, that of the one with the traffic."""
        table = self.last_table(key)
        leading = table.default_version if table else None
        first = min(
            self.versions(key),
            key=lambda one: (one.spec.version != leading, one.metadata.age_order),
            default=None,
        )
        if first is None:
            return modelversion.Selector(match_labels={names.LABEL_MODEL: key[1]})
        return first.spec.selector

    def table(self, key: ModelKey) -> StoredTable | None:
        """The model's table; where its text is none, with the last good one seen."""
        where = (key[0], names.routing_table_name(key[1]))
        raw = self._raw[CONFIG_MAP].get(where)
        if raw is None:
            return None
        content = self._typed[CONFIG_MAP].get(where)
        good = content if isinstance(content, RoutingTable) else self._last_tables.get(key)
        return StoredTable(
            uid=raw["metadata"]["uid"],
            resource_version=raw["metadata"]["resourceVersion"],
            table=good,
            problem=self.invalid.get((CONFIG_MAP, *where)),
        )

    def last_table(self, key: ModelKey) -> RoutingTable | None:
        """The last good table seen, also after its deletion."""
        return self._last_tables.get(key)

    def forget_table(self, key: ModelKey) -> None:
        """After the operator itself removed it."""
        self._last_tables.pop(key, None)


def _typed(kind: str, raw: Raw) -> Typed:
    match kind:
        case "ModelVersion":
            return convert(raw, ModelVersion)
        case "CanaryRollout":
            return convert(raw, CanaryRollout)
        case "BatchPolicy":
            return convert(raw, BatchPolicy)
        case "Pod":
            return _pod(raw)
        case _:
            data = raw.get("data", {})
            try:
                return decode_table(data.get(names.TABLE_KEY, ""), data.get(names.DIGEST_KEY, ""))
            except TableError as error:
                raise InvalidObjectError(str(error)) from error


def _pod(raw: Raw) -> PodSeen | None:
    status = raw.get("status", {})
    if status.get("phase") in {"Succeeded", "Failed"}:
        return None
    conditions: list[dict[str, str]] = status.get("conditions", [])
    ready = next((one for one in conditions if one["type"] == "Ready"), {})
    return PodSeen(
        name=raw["metadata"]["name"],
        uid=raw["metadata"]["uid"],
        address=status.get("podIP", ""),
        labels=raw["metadata"].get("labels", {}),
        ready=ready.get("status") == "True",
        ready_since=epoch(ready["lastTransitionTime"]) if "lastTransitionTime" in ready else 0.0,
        terminating="deletionTimestamp" in raw["metadata"],
    )


def _key(raw: Raw) -> tuple[str, str]:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


def _age(raw: Raw) -> int:
    """Resource versions are comparable as numbers (KEP-5504, Kubernetes 1.35)."""
    return int(raw["metadata"].get("resourceVersion") or 0)
