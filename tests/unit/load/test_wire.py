"""Requests as bytes: read back by the rules of KServe v2's binary form."""

import json
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor

from tidegate_cli.errors import CommandError
from tidegate_load import wire
from tidegate_load.model import _TYPES, Input, Model, tensor
from tidegate_load.schedule import Schedule
from tidegate_load.users import User

PATH = "/v2/models/m/infer"
X = Input("x", "FP32", [-1, 4])
WORDS = Input("words", "BYTES", [-1, -1, 2])
MODEL = Model(PATH, [X, WORDS], batches=True)
USERS = (
    User(name="a", priority=1, deadline=0.25),
    User(name="b", priority=7),
)


def schedule(*whose: tuple[int, int]) -> Schedule:
    """One request after the other, each of (user, rows)."""
    users, rows = (np.array(column) for column in zip(*whose, strict=True))
    return Schedule(np.arange(len(whose), dtype=float), users, rows, float(len(whose)))


def read(message: bytes) -> tuple[dict[str, str], bytes]:
    head, _, body = message.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST {PATH} HTTP/1.1"
    fields = dict(line.lower().split(": ", 1) for line in lines[1:])
    assert int(fields["content-length"]) == len(body)
    return fields, body


def parts(message: bytes) -> tuple[dict[str, str], dict[str, Any], list[bytes]]:
    fields, body = read(message)
    length = int(fields["inference-header-content-length"])
    header, rest = json.loads(body[:length]), body[length:]
    blobs = []
    for one in header["inputs"]:
        size = one["parameters"]["binary_data_size"]
        blobs.append(rest[:size])
        rest = rest[size:]
    assert not rest
    return fields, header, blobs


def test_each_user_and_size_has_its_own_request() -> None:
    made = wire.script("h:1", MODEL, USERS, schedule((0, 1), (1, 2), (0, 1), (0, 2)), {}, None)

    assert len(made.messages) == 3
    fields, header, blobs = parts(made.messages[made.which[1]])
    assert header["parameters"]["priority"] == 7
    assert "tidegate-deadline-ms" not in fields
    assert [one["shape"] for one in header["inputs"]] == [[2, 4], [2, 1, 2]]
    assert blobs == [bytes(2 * 4 * 4), bytes(4 * 4)]
    fields, header, _ = parts(made.messages[made.which[0]])
    assert header["parameters"]["priority"] == 1
    assert fields["tidegate-deadline-ms"] == "250"
    assert made.which[0] == made.which[2] != made.which[3]


def test_random_requests_differ_and_depend_on_the_seed_alone() -> None:
    def make(seed: int) -> wire.Script:
        draw = np.random.default_rng(seed)
        return wire.script("h:1", MODEL, USERS, schedule(*[(0, 1)] * 100), {}, draw)

    made = make(1)
    assert len(set(made.messages)) == wire.VARIANTS
    assert set(made.which) == set(range(wire.VARIANTS))
    assert make(1) == made != make(2)


def test_a_shape_that_the_model_leaves_open_can_be_given() -> None:
    made = wire.script("h:1", MODEL, USERS, schedule((0, 3)), {"words": [5, 2]}, None)

    assert parts(made.messages[0])[1]["inputs"][1]["shape"] == [3, 5, 2]


@pytest.mark.parametrize("shape", [[4, 3], [2], []])
def test_a_shape_that_does_not_fit_is_refused(shape: list[int]) -> None:
    with pytest.raises(CommandError, match="words has shape"):
        wire.script("h:1", MODEL, USERS, schedule((0, 1)), {"words": shape}, None)


def test_a_model_without_batches_takes_one_row() -> None:
    single = Model(PATH, [Input("x", "FP32", [3, -1])], batches=False)

    made = wire.script("h:1", single, USERS, schedule((0, 1)), {}, None)
    assert parts(made.messages[0])[1]["inputs"][0]["shape"] == [3, 1]
    with pytest.raises(CommandError, match="takes no batches"):
        wire.script("h:1", single, USERS, schedule((0, 2)), {}, None)


@pytest.mark.parametrize("datatype", [*_TYPES, "BYTES"])
@pytest.mark.parametrize("seed", [None, 3])
def test_tensors_have_the_size_of_their_type(datatype: str, seed: int | None) -> None:
    made = tensor(datatype, [2, 3], None if seed is None else np.random.default_rng(seed))

    if datatype == "BYTES":
        assert deserialize_bytes_tensor(made).size == 6
        return
    size = 2 if datatype == "BF16" else np.dtype(_TYPES[datatype]).itemsize
    assert len(made) == 6 * size
    assert any(made) == (seed is not None)
    if datatype == "BOOL":
        assert set(made) <= {0, 1}


def test_bf16_is_the_upper_half_of_a_float() -> None:
    made = np.frombuffer(tensor("BF16", [50], np.random.default_rng(1)), np.uint16)

    floats = (made.astype(np.uint32) << 16).view(np.float32)
    assert ((floats >= 0) & (floats <= 1)).all()
    assert len(set(floats.tolist())) > 10


def test_a_type_that_is_none_is_refused() -> None:
    with pytest.raises(CommandError, match="datatype FP4"):
        tensor("FP4", [1], None)


@pytest.mark.parametrize(
    ("body", "length"),
    [
        (b'{"inputs": []}', None),
        (b'{"inputs": []}\n', None),
        (b'{"inputs": []}\xff\x00\x80', 14),
        ('{"inputs": [], "id": "grüße"}'.encode() + b"\x01", 31),
    ],
)
def test_a_body_of_ones_own_goes_as_it_is(body: bytes, length: int | None) -> None:
    made = wire.script_of_body("h:1", PATH, USERS, schedule((1, 1), (0, 1)), body)

    fields, sent = read(made.messages[made.which[0]])
    assert sent == body
    assert fields["tidegate-priority"] == "7"
    assert fields.get("inference-header-content-length") == (length and str(length))


@pytest.mark.parametrize("body", [b"", b"tide", b"[1]", b'{"id": "1"}', b"\x80"])
def test_a_body_that_is_no_request_is_refused(body: bytes) -> None:
    with pytest.raises(CommandError, match="the body"):
        wire.script_of_body("h:1", PATH, USERS, schedule((0, 1)), body)


def test_a_body_has_rows_of_its_own() -> None:
    with pytest.raises(CommandError, match="rows of its own"):
        wire.script_of_body("h:1", PATH, USERS, schedule((0, 2)), b'{"inputs": []}')
