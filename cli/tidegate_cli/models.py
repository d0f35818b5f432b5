"""Everything that concerns one model, read together as the operator reads it."""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from tidegate_cli.cluster import Raw
from tidegate_cli.objects import ModelVersion, Trial, View, read
from tidegate_contract import names, table
from tidegate_contract.table import RoutingTable, TableError

T = TypeVar("T", bound=View)


@dataclass(frozen=True, slots=True)
class Model:
    """One model of one namespace. ``trials``: the owner first, then those that wait, oldest first,
    then the finished ones, newest first. ``problems``: what could not be read, and why.
    """

    namespace: str
    name: str
    versions: tuple[ModelVersion, ...] = ()
    trials: tuple[Trial, ...] = ()
    table: RoutingTable | None = None
    problems: tuple[str, ...] = ()

    @property
    def owner(self) -> Trial | None:
        """The rollout or test that decides the split now."""
        uid = self.table.owner.uid if self.table and self.table.owner else None
        return next((one for one in self.trials if one.metadata.uid == uid), None)

    @property
    def baseline(self) -> dict[int, float]:
        """Percent by version of the split that holds without an owner; empty without a table."""
        shares = self.table.baseline if self.table else []
        return {one.version: one.weight / 100 for one in shares}


@dataclass(frozen=True, slots=True)
class Objects:
    """What the API server has, by kind. ``problem``: why there are no routing tables."""

    versions: Sequence[Raw] = ()
    trials: Sequence[Raw] = ()
    tables: Sequence[Raw] = ()
    problem: str = ""


def gather(objects: Objects) -> list[Model]:
    """Sort objects by model, in the order of namespace and name."""
    parts: dict[tuple[str, str], _Parts] = {}
    for raw in objects.versions:
        part = _part(parts, raw, raw["spec"]["model"])
        part.take(raw, ModelVersion, part.versions)
    for raw in objects.trials:
        part = _part(parts, raw, raw["spec"]["model"])
        part.take(raw, Trial, part.trials)
    for raw in objects.tables:
        _part(parts, raw, raw["metadata"]["labels"][names.LABEL_MODEL]).take_table(raw)
    return [part.model(*key, objects.problem) for key, part in sorted(parts.items())]


class _Parts:
    def __init__(self) -> None:
        self.versions: list[ModelVersion] = []
        self.trials: list[Trial] = []
        self.table: RoutingTable | None = None
        self.problems: list[str] = []

    def take(self, raw: Raw, type_: type[T], into: list[T]) -> None:
        """Add an object; one whose status is not understood with what every status has."""
        try:
            into.append(read(raw, type_))
        except msgspec.ValidationError as error:
            name = f"{raw['kind']} {raw['metadata']['name']}"
            self.problems.append(f"{name} is not understood, perhaps by its age: {error}")
            kept = {key: raw.get("status", {}).get(key, "") for key in ("phase", "message")}
            with contextlib.suppress(msgspec.ValidationError):
                bare = read({**raw, "status": kept}, type_)
                into.append(msgspec.structs.replace(bare, raw=raw))

    def take_table(self, raw: Raw) -> None:
        data = raw.get("data", {})
        try:
            self.table = table.decode(data.get(names.TABLE_KEY, ""), data.get(names.DIGEST_KEY, ""))
        except TableError as error:
            name = raw["metadata"]["name"]
            self.problems.append(f"routing table {name}: {error}")

    def model(self, namespace: str, name: str, problem: str) -> Model:
        owner = self.table.owner.uid if self.table and self.table.owner else None
        return Model(
            namespace,
            name,
            tuple(sorted(self.versions, key=lambda one: one.spec.version)),
            _ordered(self.trials, owner),
            self.table,
            (*self.problems, *((problem,) if problem else ())),
        )


def _part(parts: dict[tuple[str, str], _Parts], raw: Raw, model: str) -> _Parts:
    return parts.setdefault((raw["metadata"]["namespace"], model), _Parts())


def _ordered(trials: Iterable[Trial], owner: str | None) -> tuple[Trial, ...]:
    by_age = sorted(trials, key=lambda one: (one.metadata.creation_timestamp, one.metadata.uid))
    mine = [one for one in by_age if one.metadata.uid == owner]
    waiting = [one for one in by_age if one not in mine and not one.finished]
    over = [one for one in reversed(by_age) if one not in mine and one.finished]
    return (*mine, *waiting, *over)
