"""What every object has: metadata, conditions, and the way from the API server's JSON to types."""

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from tidegate_operator.api.quantity import epoch, timestamp

T = TypeVar("T")


class InvalidObjectError(ValueError):
    """An object that the CRD let through but that does not fit our types; says which field."""


class Wire(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of everything that is read from or written to the API server: camelCase, immutable."""


class Stored(Wire, frozen=True, kw_only=True):
    """Base of the objects themselves. ``status_json``: the status as it is stored, unknown fields
    included; as text, since as objects of Python it takes many times as much memory.
    """

    status_json: bytes = b"{}"

    @property
    def raw_status(self) -> dict[str, Any]:
        """The status as it is stored."""
        status: dict[str, Any] = msgspec.json.decode(self.status_json)
        return status


class Metadata(Wire, frozen=True, kw_only=True):
    """The part of ``metadata`` that decisions rest on."""

    name: str
    namespace: str
    uid: str
    resource_version: str = ""
    generation: int = 1
    creation_timestamp: str = "1970-01-01T00:00:00Z"
    annotations: dict[str, str] = {}

    @property
    def age_order(self) -> tuple[float, str]:
        """Sorts objects oldest first; the uid settles equal times."""
        return epoch(self.creation_timestamp), self.uid


class Condition(Wire, frozen=True, kw_only=True):
    """A Kubernetes condition."""

    type: str
    status: str
    reason: str
    message: str = ""
    last_transition_time: str
    observed_generation: int = 0


def condition(
    before: list[Condition],
    type_: str,
    status: bool | None,
    reason: str,
    message: str,
    *,
    now: float,
    generation: int,
) -> Condition:
    """A condition that keeps its transition time unless its status changed. None is Unknown."""
    word = {True: "True", False: "False", None: "Unknown"}[status]
    since = timestamp(now)
    for old in before:
        if old.type == type_ and old.status == word:
            since = old.last_transition_time
    return Condition(
        type=type_,
        status=word,
        reason=reason,
        message=message,
        last_transition_time=since,
        observed_generation=generation,
    )


def wire(value: Any) -> Any:
    """A typed value as the API server stores it: what is None is not there."""
    return _without_none(msgspec.to_builtins(value, str_keys=True))


def _without_none(value: Any) -> Any:
    match value:
        case dict():
            return {key: _without_none(one) for key, one in value.items() if one is not None}
        case list():
            return [_without_none(one) for one in value]
        case _:
            return value


def convert(raw: Mapping[str, Any], type_: type[T]) -> T:
    """Turn the API server's JSON into a typed object; its status is kept as it was, too.

    Raises:
        InvalidObjectError: naming the field, as a path.
    """
    try:
        status = msgspec.json.encode(raw.get("status", {}))
        return msgspec.convert({**raw, "statusJson": status}, type_, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidObjectError(str(error)) from error
