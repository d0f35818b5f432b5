"""Requests as they go over the wire, written before the first one is due."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from tidegate_cli.errors import CommandError
from tidegate_contract import names
from tidegate_load import model
from tidegate_load.model import Model
from tidegate_load.schedule import Schedule
from tidegate_load.users import User

VARIANTS: Final = 64
"""Different bodies of one user where they are random: more than wait at one time in most tests."""

_DEADLINE: Final = "tidegate-deadline-ms"


@dataclass(frozen=True, slots=True)
class Script:
    """What is sent: ``messages``, and for each arrival its place among them."""

    messages: Sequence[bytes]
    which: Sequence[int]


def script(
    host: str,
    asked: Model,
    users: Sequence[User],
    schedule: Schedule,
    shapes: Mapping[str, Sequence[int]],
    draw: np.random.Generator | None,
) -> Script:
    """Requests made to fit the model. ``draw``: of random values; None: zeros.

    The priority goes as the parameter that Triton knows, too; deadlines are read by sidecars only.

    Raises:
        CommandError: they cannot be made to fit.
    """
    variants = 1 if draw is None else VARIANTS
    kinds, which = np.unique(np.stack((schedule.users, schedule.rows)), axis=1, return_inverse=True)
    messages = []
    for user, rows in kinds.T.tolist():
        whose = users[user]
        for _ in range(variants):
            length, body = _body(asked, whose.priority, rows, shapes, draw)
            messages.append(_message(host, asked.path, whose.deadline, length, body))
    chosen = which.reshape(-1) * variants + np.arange(which.size) % variants
    return Script(messages, chosen.tolist())


def script_of_body(
    host: str, path: str, users: Sequence[User], schedule: Schedule, body: bytes
) -> Script:
    """One body for everybody; their priorities go as a header, which sidecars read.

    Raises:
        CommandError: it is no inference request, or rows were asked for beside its own.
    """
    if (schedule.rows != 1).any():
        raise CommandError("a --body has rows of its own: leave them out of users and trace")
    length = _json_length(body)
    messages = [_message(host, path, one.deadline, length, body, one.priority) for one in users]
    return Script(messages, schedule.users.tolist())


def _body(
    asked: Model,
    priority: int,
    rows: int,
    shapes: Mapping[str, Sequence[int]],
    draw: np.random.Generator | None,
) -> tuple[int, bytes]:
    """A request in KServe v2's binary form, and the length of its JSON."""
    inputs, data = [], b""
    for one in asked.inputs:
        shape = asked.shape(one, rows, shapes)
        values = model.tensor(one.datatype, shape, draw)
        size = {"binary_data_size": len(values)}
        inputs.append(
            {"name": one.name, "datatype": one.datatype, "shape": shape, "parameters": size}
        )
        data += values
    parameters = {"priority": priority, "binary_data_output": True}
    text = json.dumps({"inputs": inputs, "parameters": parameters}).encode()
    return len(text), text + data


def _message(
    host: str,
    path: str,
    deadline: float | None,
    json_length: int | None,
    body: bytes,
    priority: int | None = None,
) -> bytes:
    fields = [f"POST {path} HTTP/1.1", f"Host: {host}", f"Content-Length: {len(body)}"]
    if json_length is None:
        fields.append("Content-Type: application/json")
    else:
        fields.append("Content-Type: application/octet-stream")
        fields.append(f"Inference-Header-Content-Length: {json_length}")
    if priority is not None:
        fields.append(f"{names.HEADER_PRIORITY}: {priority}")
    if deadline is not None:
        fields.append(f"{_DEADLINE}: {max(round(deadline * 1e3), 1)}")
    return ("\r\n".join(fields) + "\r\n\r\n").encode() + body


def _json_length(body: bytes) -> int | None:
    """Bytes of JSON before the binary data of a body; None: it is JSON to its end."""
    text = body.decode("latin-1")  # a character for each byte, whatever the binary data
    try:
        found, end = json.JSONDecoder().raw_decode(text)
    except ValueError as error:
        raise CommandError(f"the body does not begin with JSON: {error}") from error
    if not isinstance(found, dict) or "inputs" not in found:
        raise CommandError("the body is no inference request: it has no inputs")
    return end if text[end:].strip() else None
