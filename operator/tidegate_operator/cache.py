"""The objects as last seen, by model: fed by watch events, read by the reconciler.

Nothing here cannot be rebuilt by listing. Objects arrive out of order (a watch event may be older
than what a write has just returned), so the higher resourceVersion wins. Of each object only what
decisions rest on is kept: there may be tens of thousands.
"""

import hashlib
import logging
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from sys import intern
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from tidegate_contract import names
from tidegate_contract.table import RoutingTable, TableError
from tidegate_contract.table import decode as decode_table
from tidegate_operator.adapters.cluster import CONFIG_MAP, POD
from tidegate_operator.api import abtest, batchpolicy, canaryrollout, modelversion
from tidegate_operator.api.abtest import ABTest
from tidegate_operator.api.batchpolicy import BatchPolicy
from tidegate_operator.api.canaryrollout import CanaryRollout
from tidegate_operator.api.meta import InvalidObjectError, Metadata
from tidegate_operator.api.modelversion import ModelVersion, Selector
from tidegate_operator.api.quantity import epoch
from tidegate_operator.rollout.observation import StoredTable

Raw = dict[str, Any]
ModelKey = tuple[str, str]
Name = tuple[str, str]
"""Namespace and name of an object."""
Identity = tuple[str, str, str]
"""Namespace, name and uid."""
Place = tuple[str, ...]
"""A namespace; or namespace, key and value of a label in it."""
KINDS: Final = (
    modelversion.KIND,
    canaryrollout.KIND,
    abtest.KIND,
    batchpolicy.KIND,
    POD,
    CONFIG_MAP,
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PodSeen:
    """The part of a Pod that matters here."""

    namespace: str
    name: str
    uid: str
    address: str
    labels: dict[str, str]
    ready: bool
    ready_since: float
    terminating: bool


class _Packed(NamedTuple):
    """An object of ours as compressed JSON: as objects of Python it takes many times as much
    memory, and is needed once in a look. ``status_at``: where its status begins; ``mark``: what
    tells this status from others.
    """

    kind: str
    text: bytes
    status_at: int
    mark: bytes
    phase: str


class _PackedTable(NamedTuple):
    """A stored table likewise; ``text``: of the table, where there is one."""

    uid: str
    resource_version: str
    text: bytes | None
    problem: str | None


class _Selecting(NamedTuple):
    """Which pods a ModelVersion wants; ``age``: sorts the oldest first."""

    model: ModelKey
    selector: Selector
    version: int
    age: tuple[float, str]


@dataclass(frozen=True, slots=True)
class Misfit:
    """An object that does not fit our types, and why."""

    kind: str
    metadata: Raw
    problem: str


Content = _Packed | PodSeen | _PackedTable | Misfit | None
"""None: there, and none of our business."""
_DECODERS: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    modelversion.KIND: msgspec.json.Decoder(ModelVersion, strict=False),
    canaryrollout.KIND: msgspec.json.Decoder(CanaryRollout, strict=False),
    abtest.KIND: msgspec.json.Decoder(ABTest, strict=False),
    batchpolicy.KIND: msgspec.json.Decoder(BatchPolicy, strict=False),
}
_KEPT_METADATA: Final = (
    *("name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"),
)
_TABLE: Final = msgspec.json.Decoder(RoutingTable)
_UNPACKED: Final = 256
"""Objects that are kept as such, too: those of the models that are looked at just now."""
_QUICKLY: Final = 1
T = TypeVar("T", bound=_Packed | bytes)


@dataclass(frozen=True, slots=True)
class _Seen:
    """An object as last seen. ``models``: those that it names."""

    uid: str
    revision: int
    content: Content
    models: tuple[ModelKey, ...]


@dataclass(slots=True)
class Cache:
    """All objects of the kinds that the operator decides from."""

    _seen: dict[str, dict[Name, _Seen]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )
    _gone: dict[str, dict[Name, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    _by_model: dict[str, dict[ModelKey, dict[str, _Seen]]] = field(
        default_factory=lambda: {kind: defaultdict(dict) for kind in KINDS}
    )
    _unpacked: dict[_Packed | bytes, Any] = field(default_factory=dict)
    _pods: dict[Place, dict[str, PodSeen]] = field(default_factory=lambda: defaultdict(dict))
    _selecting: dict[Place, dict[str, _Selecting]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _selectors: dict[ModelKey, dict[str, _Selecting]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _misfits: dict[tuple[str, Name], Misfit] = field(default_factory=dict)
    _last_tables: dict[ModelKey, bytes] = field(default_factory=dict)

    def put(self, kind: str, raw: Raw) -> set[ModelKey]:
        """Take in an object unless a newer one is here, or its deletion was seen; gives the models
        that this matters to, none where nothing changed that does.
        """
        name = _name(raw)
        revision = _age(raw)
        old = self._seen[kind].get(name)
        if old is not None and old.revision >= revision:
            return set()
        if revision <= self._gone[kind].get(name, -1):
            return set()
        content = self._read(kind, raw)
        seen = _Seen(raw["metadata"]["uid"], revision, content, _models(kind, raw))
        if kind == POD and old is not None and old.content == content:
            self._seen[kind][name] = seen
            return set()
        concerned = self._forget(kind, name)
        self._seen[kind][name] = seen
        self._index(kind, name, seen)
        return concerned | self._concerned(seen)

    def remove(self, kind: str, raw: Raw) -> set[ModelKey]:
        """Forget an object, unless another one took its name since; gives the models that this
        matters to. ``raw``: as it was last.
        """
        name = _name(raw)
        self._gone[kind][name] = max(_age(raw), self._gone[kind].get(name, -1))
        old = self._seen[kind].get(name)
        if old is not None and old.uid == raw["metadata"]["uid"]:
            return self._forget(kind, name)
        return set()

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """Forget an object that a write has found gone."""
        self._forget(kind, (namespace, name))

    def retain(self, kind: str, there: AbstractSet[Identity], revision: int) -> set[ModelKey]:
        """Forget what a list of that revision does not have: deletions that no watch told. What
        watches told since the list was made stands. Gives the models that this matters to.
        """
        concerned: set[ModelKey] = set()
        for name, seen in list(self._seen[kind].items()):
            if (*name, seen.uid) not in there and seen.revision <= revision:
                self._gone[kind][name] = max(seen.revision, self._gone[kind].get(name, -1))
                concerned |= self._forget(kind, name)
        self._gone[kind] = {key: age for key, age in self._gone[kind].items() if age > revision}
        return concerned

    def models(self) -> set[ModelKey]:
        """Every model that any object names."""
        return {key for kind in self._by_model.values() for key, those in kind.items() if those}

    def unfit(self, key: ModelKey) -> list[Misfit]:
        """The model's objects that do not fit our types."""
        return [
            misfit
            for (kind, name), misfit in self._misfits.items()
            if kind != CONFIG_MAP and key in self._seen[kind][name].models
        ]

    def versions(self, key: ModelKey) -> tuple[ModelVersion, ...]:
        """The model's ModelVersions."""
        return self._of(modelversion.KIND, key)

    def rollouts(self, key: ModelKey) -> tuple[CanaryRollout, ...]:
        """The model's CanaryRollouts."""
        return self._of(canaryrollout.KIND, key)

    def tests(self, key: ModelKey) -> tuple[ABTest, ...]:
        """The model's ABTests."""
        return self._of(abtest.KIND, key)

    def policies(self, key: ModelKey) -> tuple[BatchPolicy, ...]:
        """The BatchPolicies that name the model."""
        return self._of(batchpolicy.KIND, key)

    def batch_policies(self) -> Iterator[BatchPolicy]:
        """Every BatchPolicy, each as it is when its turn comes."""
        known = self._seen[batchpolicy.KIND]
        for name in list(known):
            seen = known.get(name)
            if seen is not None and isinstance(seen.content, _Packed):
                yield self._unpack(seen.content)

    def status_mark(self, kind: str, meta: Metadata) -> bytes:
        """The mark of an object's status as it was last seen; b"" where it is gone, or another
        one.
        """
        seen = self._seen[kind].get((meta.namespace, meta.name))
        if seen is None or seen.uid != meta.uid or not isinstance(seen.content, _Packed):
            return b""
        return seen.content.mark

    def phases(self) -> Counter[str]:
        """How many CanaryRollouts are in each phase."""
        return Counter(
            seen.content.phase or "New"
            for seen in self._seen[canaryrollout.KIND].values()
            if isinstance(seen.content, _Packed)
        )

    def statuses(self, key: ModelKey) -> dict[str, tuple[str, bytes]]:
        """By uid, the phase of the model's rollouts and tests, and the mark of their status."""
        return {
            seen.uid: (seen.content.phase, seen.content.mark)
            for kind in (canaryrollout.KIND, abtest.KIND)
            for seen in self._by_model[kind].get(key, {}).values()
            if isinstance(seen.content, _Packed)
        }

    def revisions(self, key: ModelKey) -> tuple[int, ...]:
        """What changes whenever any object of the model does, but for its pods."""
        return tuple(
            seen.revision for kind in self._by_model.values() for seen in kind.get(key, {}).values()
        )

    def pods(self, key: ModelKey) -> tuple[PodSeen, ...]:
        """The pods that the model's versions select and that have not ended."""
        selector = self._selector(key)
        candidates = self._pods.get(_place(key[0], selector), {})
        return tuple(pod for pod in candidates.values() if selector.matches(pod.labels))

    def sharing(self, pods: Iterable[PodSeen]) -> set[ModelKey]:
        """The models that any of these pods may serve."""
        return {key for pod in pods for key in self._served(pod)}

    @property
    def tables(self) -> int:
        """How many models have had one."""
        return len(self._last_tables)

    def table(self, key: ModelKey) -> StoredTable | None:
        """The model's table; where its text is none, with the last good one seen."""
        seen = self._seen[CONFIG_MAP].get((key[0], names.routing_table_name(key[1])))
        if seen is None or not isinstance(seen.content, _PackedTable):
            return None
        uid, resource_version, text, problem = seen.content
        return StoredTable(
            uid=uid,
            resource_version=resource_version,
            table=self._table(text) if text else self.last_table(key),
            problem=problem,
        )

    def last_table(self, key: ModelKey) -> RoutingTable | None:
        """The last good table seen, also after its deletion."""
        text = self._last_tables.get(key)
        return None if text is None else self._table(text)

    def forget_table(self, key: ModelKey) -> None:
        """After the operator itself removed it."""
        self._last_tables.pop(key, None)

    def _read(self, kind: str, raw: Raw) -> Content:
        try:
            return _content(kind, raw)
        except InvalidObjectError as error:
            metadata = {k: raw["metadata"][k] for k in ("name", "namespace", "uid")}
            _log.warning("%s %s/%s does not fit: %s", kind, *_name(raw), error)
            return Misfit(kind, metadata, str(error))

    def _index(self, kind: str, name: Name, seen: _Seen) -> None:
        match seen.content:
            case None:
                pass
            case Misfit() as misfit:
                self._misfits[kind, name] = misfit
            case PodSeen() as pod:
                for where in _places(pod):
                    self._pods[where][pod.name] = pod
            case content:
                for key in seen.models:
                    self._by_model[kind][key][name[1]] = seen
                if kind == modelversion.KIND and isinstance(content, _Packed):
                    one: ModelVersion = self._unpack(content)
                    selecting = _Selecting(
                        seen.models[0],
                        one.selector,
                        one.spec.version,
                        one.metadata.age_order,
                    )
                    self._selecting[_place(name[0], one.selector)][name[1]] = selecting
                    self._selectors[seen.models[0]][name[1]] = selecting
                if isinstance(content, _PackedTable) and content.text is not None:
                    table = self._table(content.text)
                    self._last_tables[table.namespace, table.model] = content.text

    def _forget(self, kind: str, name: Name) -> set[ModelKey]:
        """Take an object out of everything; gives the models that it mattered to."""
        seen = self._seen[kind].pop(name, None)
        if seen is None:
            return set()
        concerned = self._concerned(seen)
        self._misfits.pop((kind, name), None)
        if isinstance(seen.content, PodSeen):
            for where in _places(seen.content):
                _drop(self._pods, where, seen.content.name)
        if kind == modelversion.KIND and isinstance(seen.content, _Packed):
            selector = self._selectors[seen.models[0]][name[1]].selector
            _drop(self._selecting, _place(name[0], selector), name[1])
            _drop(self._selectors, seen.models[0], name[1])
        for key in seen.models:
            _drop(self._by_model[kind], key, name[1])
        return concerned

    def _concerned(self, seen: _Seen) -> set[ModelKey]:
        if isinstance(seen.content, PodSeen):
            return self._served(seen.content)
        return set(seen.models)

    def _served(self, pod: PodSeen) -> set[ModelKey]:
        """The models that select a pod, by their versions' selectors or by its label."""
        found = set()
        model = pod.labels.get(names.LABEL_MODEL)
        if model is not None:
            found.add((pod.namespace, model))
        for where in _places(pod):
            for one in self._selecting.get(where, {}).values():
                if one.selector.matches(pod.labels):
                    found.add(one.model)
        return found

    def _of(self, kind: str, key: ModelKey) -> tuple[Any, ...]:
        found = self._by_model[kind].get(key, {}).values()
        return tuple(self._unpack(one.content) for one in found if isinstance(one.content, _Packed))

    def _unpack(self, packed: _Packed) -> Any:
        return self._once(packed, _unpack)

    def _table(self, text: bytes) -> RoutingTable:
        table: RoutingTable = self._once(text, _unpacked_table)
        return table

    def _once(self, packed: T, unpack: Callable[[T], Any]) -> Any:
        """What was packed, as it is unless it was needed just before."""
        known = self._unpacked.get(packed)
        if known is None:
            known = self._unpacked[packed] = unpack(packed)
            if len(self._unpacked) > _UNPACKED:
                del self._unpacked[next(iter(self._unpacked))]
        return known

    def _selector(self, key: ModelKey) -> Selector:
        """The versions' common selector; where they differ, that of the one with the traffic."""
        known = list(self._selectors.get(key, {}).values())
        if not known:
            return Selector(match_labels={names.LABEL_MODEL: key[1]})
        selector = known[0].selector
        if all(one.selector == selector for one in known):
            return selector
        table = self.last_table(key)
        leading = table.default_version if table else None
        return min(known, key=lambda one: (one.version != leading, one.age)).selector


def mark(status: bytes) -> bytes:
    """What tells a status, in JSON, from every other one of its object."""
    return hashlib.blake2b(status, digest_size=16).digest()


def identity(raw: Raw) -> Identity:
    """What tells an object from every other of its kind, also of its name."""
    return *_name(raw), raw["metadata"]["uid"]


def _content(kind: str, raw: Raw) -> Content:
    """The part of an object that matters.

    Raises:
        InvalidObjectError: it does not fit our types.
    """
    match kind:
        case "Pod":
            return _pod(raw)
        case "ConfigMap":
            return _table(raw)
        case _:
            return _pack(kind, raw)


def _pack(kind: str, raw: Raw) -> _Packed:
    metadata = {key: raw["metadata"][key] for key in _KEPT_METADATA if key in raw["metadata"]}
    annotations = raw["metadata"].get("annotations", {})
    ours = {key: value for key, value in annotations.items() if key.startswith(names.GROUP)}
    rest = msgspec.json.encode({"metadata": {**metadata, "annotations": ours}, "spec": raw["spec"]})
    status = msgspec.json.encode(raw.get("status", {}))
    begun = rest[:-1] + b',"status":'
    packed = _Packed(
        kind,
        zlib.compress(begun + status + b"}", _QUICKLY),
        len(begun),
        mark(status),
        intern(raw.get("status", {}).get("phase", "")),
    )
    try:
        _unpack(packed)
    except msgspec.ValidationError as error:
        raise InvalidObjectError(str(error)) from error
    return packed


def _unpack(packed: _Packed) -> Any:
    text = zlib.decompress(packed.text)
    typed = _DECODERS[packed.kind].decode(text)
    msgspec.structs.force_setattr(typed, "status_json", text[packed.status_at : -1])
    return typed


def _unpacked_table(text: bytes) -> RoutingTable:
    return _TABLE.decode(zlib.decompress(text))


def _pod(raw: Raw) -> PodSeen | None:
    status = raw.get("status", {})
    if status.get("phase") in {"Succeeded", "Failed"}:
        return None
    conditions: list[dict[str, str]] = status.get("conditions", [])
    ready = next((one for one in conditions if one["type"] == "Ready"), {})
    labels = raw["metadata"].get("labels", {})
    return PodSeen(
        namespace=intern(raw["metadata"]["namespace"]),
        name=raw["metadata"]["name"],
        uid=raw["metadata"]["uid"],
        address=status.get("podIP", ""),
        labels={intern(key): intern(value) for key, value in labels.items()},
        ready=ready.get("status") == "True",
        ready_since=epoch(ready["lastTransitionTime"]) if "lastTransitionTime" in ready else 0.0,
        terminating="deletionTimestamp" in raw["metadata"],
    )


def _table(raw: Raw) -> _PackedTable:
    data, metadata = raw.get("data", {}), raw["metadata"]
    text, problem = data.get(names.TABLE_KEY, ""), None
    packed = None
    try:
        decode_table(text, data.get(names.DIGEST_KEY, ""))
        packed = zlib.compress(text.encode(), _QUICKLY)
    except TableError as error:
        problem = str(error)
        _log.warning("ConfigMap %s/%s holds no routing table: %s", *_name(raw), error)
    return _PackedTable(metadata["uid"], metadata["resourceVersion"], packed, problem)


def _models(kind: str, raw: Raw) -> tuple[ModelKey, ...]:
    """The models that an object names."""
    namespace = intern(raw["metadata"]["namespace"])
    match kind:
        case "BatchPolicy":
            models = raw["spec"].get("models", [])
        case "Pod":
            models = []
        case "ConfigMap":
            model = raw["metadata"].get("labels", {}).get(names.LABEL_MODEL)
            models = [model] if model else []
        case _:
            models = [raw["spec"]["model"]]
    return tuple((namespace, intern(model)) for model in models)


def _place(namespace: str, selector: Selector) -> Place:
    """Where to look for what a selector matches."""
    return next(((namespace, *pair) for pair in selector.match_labels.items()), (namespace,))


def _places(pod: PodSeen) -> Iterator[Place]:
    """Where a pod can be found."""
    yield (pod.namespace,)
    for pair in pod.labels.items():
        yield (pod.namespace, *pair)


def _drop(index: dict[Any, dict[str, Any]], where: Any, name: str) -> None:
    """Take a name out of an index; what is empty then goes, too."""
    those = index.get(where)
    if those is not None:
        those.pop(name, None)
        if not those:
            del index[where]


def _name(raw: Raw) -> Name:
    return raw["metadata"]["namespace"], raw["metadata"]["name"]


def _age(raw: Raw) -> int:
    """Resource versions are comparable as numbers (KEP-5504, Kubernetes 1.35)."""
    return int(raw["metadata"].get("resourceVersion") or 0)
