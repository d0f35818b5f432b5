"""Pairs of shadow answers that disagreed, as sidecars keep them, side by side."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tidegate_cli import terminal
from tidegate_cli.cluster import SECRET, Cluster, Raw
from tidegate_cli.errors import NoSidecarError, NotFoundError
from tidegate_contract import names

"""Carries the token through the API server, which takes ``Authorization`` for itself."""

_VALUES: Final = 16
"""Of each tensor; -o json has all that the sidecar kept."""


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One request and both answers, each as named tensors in the form of KServe v2's JSON.

    ``at``: epoch seconds. A canary that failed has ``error`` in place of tensors.
    """

    at: float
    request: dict[str, Any] = {}
    parameters: Any = None
    stable: dict[str, Any] = {}
    canary: dict[str, Any] = {}
    difference: str = ""
    pod: str = ""


class _Answer(msgspec.Struct, frozen=True):
    pairs: list[Pair] = []


def decode(body: bytes) -> list[Pair]:
    """Read a sidecar's answer.

    Raises:
        msgspec.DecodeError: it is none.
    """
    return msgspec.json.decode(body, type=_Answer).pairs


def token(cluster: Cluster, namespace: str, model: str) -> str:
    """What opens the pairs of a model.

    Raises:
        NoSidecarError: there is none, so no pairs are kept.
        ClusterError: the Secret may not be read.
    """
    name = names.pairs_secret_name(model)
    try:
        data = cluster.get(SECRET, namespace, name).get("data", {})
    except NotFoundError as error:
        raise NoSidecarError(
            f"{model} keeps no pairs: they hold requests of your users, so sidecars keep them only "
            f"where Secret {name} with a key token is in namespace {namespace} (docs/cli.md)"
        ) from error
    if "token" not in data:
        raise NoSidecarError(f"Secret {name} in namespace {namespace} has no key token")
    return base64.b64decode(data["token"]).strip().decode("latin-1")  # as headers are


def headers(secret: str, *, direct: bool) -> Mapping[str, str]:
    """What a request for pairs carries: to the sidecar itself, or through the API server."""
    return {"Authorization": f"Bearer {secret}"} if direct else {names.HEADER_TOKEN: secret}


def newest(answers: Mapping[str, Sequence[Pair]], limit: int) -> list[Pair]:
    """The pairs of all pods, the newest first, each with its pod."""
    pairs = [
        msgspec.structs.replace(pair, pod=pod) for pod, kept in answers.items() for pair in kept
    ]
    return sorted(pairs, key=lambda pair: (-pair.at, pair.pod))[:limit]


def builtins(pair: Pair) -> Raw:
    """A pair for programs."""
    plain: Raw = msgspec.to_builtins(pair)
    return plain


def side_by_side(pairs: Iterable[Pair], stable: str, canary: str) -> RenderableType:
    """Each pair: when, where and how the answers differ; the request; both answers."""
    parts: list[RenderableType] = []
    for pair in pairs:
        head = Text.assemble(
            (terminal.clock(pair.at), "bold"),
            terminal.text(f"  {pair.pod}  ", "dim"),
            terminal.text(pair.difference, "yellow"),
        )
        answers = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, expand=True)
        answers.add_column(stable, header_style="cyan", ratio=1, overflow="fold")
        answers.add_column(canary, header_style="green", ratio=1, overflow="fold")
        for tensor in sorted({*pair.stable, *pair.canary}):
            both = (pair.stable.get(tensor), pair.canary.get(tensor))
            style = "" if both[0] == both[1] else "bold"
            answers.add_row(*(terminal.text(f"{tensor}: {_value(one)}", style) for one in both))
        asked = {**pair.request, **({"parameters": pair.parameters} if pair.parameters else {})}
        request = "; ".join(f"{name}: {_value(one)}" for name, one in asked.items())
        body = Group(terminal.text(f"request  {request}", "dim"), answers)
        parts += [head, Padding(body, (0, 0, 1, 2))]
    return Group(*parts)


def _value(value: Any) -> str:
    """A tensor as its type, its shape and its first values; anything else as it is."""
    match value:
        case None:
            return "(not given)"
        case str():
            return value
        case {"datatype": datatype, "shape": shape, "data": [*data]}:
            first = ", ".join(json.dumps(one, ensure_ascii=False) for one in data[:_VALUES])
            rest = ", …" if len(data) > _VALUES or value.get("truncated") else ""
            return f"{datatype} {json.dumps(shape)}: {first}{rest}"
        case _:
            return json.dumps(value, ensure_ascii=False)
