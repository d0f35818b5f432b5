"""Who sends: users, each with a share of the traffic, a priority and a deadline."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from tidegate_cli.errors import CommandError

_UNITS: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One kind of caller.

    ``share``: of the requests, in proportion to the others' shares. ``deadline``: seconds until an
    answer is worth nothing; None: there is no such time. ``rows``: of each request's batch.
    """

    name: str
    share: float = 1.0
    priority: int = 3
    deadline: float | None = None
    rows: int = 1


DEFAULT: Final = (
    User(name="vip", share=5, priority=1, deadline=0.1),
    User(name="premium", share=15, priority=2, deadline=0.25),
    User(name="regular", share=50, priority=3, deadline=1.0),
    User(name="batch", share=20, priority=4, deadline=10.0),
    User(name="background", share=10, priority=5, deadline=30.0),
)


def chosen(file: Path | None, changes: Iterable[str]) -> tuple[User, ...]:
    """The users of a file, else the default ones, with changes such as ``vip:share=9,rows=4``.

    Raises:
        CommandError: the file or a change says something else than users.
    """
    users = {one.name: one for one in (DEFAULT if file is None else read(file))}
    for change in changes:
        name, _, fields = change.partition(":")
        if not name:
            raise CommandError(f"--user {change}: a name comes first, as in vip:share=9")
        given = dict(_field(change, one) for one in fields.split(",") if one)
        before = msgspec.to_builtins(users[name]) if name in users else {"name": name}
        users[name] = _user({**before, **given}, f"--user {change}")
    _check(list(users.values()))
    return tuple(users.values())


def read(file: Path) -> list[User]:
    """A YAML or JSON list of users; ``deadline`` is written as ``100ms``, ``2s`` or ``1m``.

    Raises:
        CommandError: it cannot be read, or says something else.
    """
    try:
        found = msgspec.yaml.decode(file.read_bytes(), type=list[dict[str, object]])
    except (OSError, msgspec.DecodeError) as error:
        raise CommandError(f"{file} is no list of users: {error}") from error
    users = [_user(one, f"{file}, user {i}") for i, one in enumerate(found, 1)]
    if len({one.name for one in users}) != len(users):
        raise CommandError(f"{file}: two users have one name")
    return users


def seconds(text: str) -> float:
    """``100ms``, ``2s``, ``1m``.

    Raises:
        ValueError: it is no duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no duration such as 100ms, 2s or 1m")
    return float(found[1]) * _UNITS[found[2]]


def _user(fields: dict[str, object], where: str) -> User:
    try:
        deadline = fields.get("deadline")
        if isinstance(deadline, str):
            fields = {**fields, "deadline": seconds(deadline) if deadline else None}
        return msgspec.convert(fields, User, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        raise CommandError(f"{where}: {error}") from error


def _field(change: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise CommandError(f"--user {change}: {text!r} is no FIELD=VALUE")
    return key, value


def _check(users: Sequence[User]) -> None:
    """Refuse users of whom no traffic can be made."""
    for one in users:
        if not 0 <= one.share < float("inf"):
            raise CommandError(f"user {one.name}: share must be a number from 0 on")
        if one.priority < 1 or one.rows < 1:
            raise CommandError(f"user {one.name}: priority and rows must be at least 1")
        if one.deadline is not None and one.deadline <= 0:
            raise CommandError(f"user {one.name}: deadline must be above 0")
    if not any(one.share for one in users):
        raise CommandError("no user has a share of the traffic")
