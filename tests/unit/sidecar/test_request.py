"""Inference requests: read strictly, and never anything but a 4xx for rubbish."""

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidegate_contract.acknowledgement import Tensor
from tidegate_sidecar.core.refusal import Refusal
from tidegate_sidecar.core.request import Buffer, Decoder, Interface, Plan

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
OUTPUTS = {"y": "FP32", "t": "BYTES"}
X_JSON = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}


def take(
    interface: Interface, body: bytes, json_length: int | None, decoder: Decoder | None = None
) -> tuple[Plan, list[Buffer]]:
    """Everything that is done to a request before it is let in."""
    decoded, start = (decoder or Decoder()).decode(body, json_length)
    plan = Plan.of(decoded.call, interface)
    return plan, plan.take(decoded, body, start)


def request(header: Any, data: bytes = b"") -> tuple[bytes, int | None]:
    text = json.dumps(header).encode()
    return text + data, len(text)


@pytest.fixture
def plain(make: Any) -> Interface:
    outputs = [Tensor(name=name, datatype=of, shape=[2]) for name, of in OUTPUTS.items()]
    return Interface(make.version(outputs=outputs))


def changed(**fields: Any) -> dict[str, Any]:
    return {"inputs": [X | fields]}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ([], "Expected `object`"),
        ({}, "`inputs`"),
        ({"inputs": []}, "inputs"),
        ({"inputs": {}}, "$.inputs"),
        ({"inputs": [5]}, "$.inputs[0]"),
        ({"inputs": [X, X]}, "inputs: a name stands there twice"),
        ({"inputs": [X], "id": 7}, "$.id"),
        ({"inputs": [X], "parameters": []}, "$.parameters"),
        ({"inputs": [X], "parameters": {"priority": "high"}}, "parameters.priority"),
        ({"inputs": [X], "parameters": {"priority": 1.0}}, "parameters.priority"),
        ({"inputs": [X], "parameters": {"priority": True}}, "parameters.priority"),
        ({"inputs": [X], "parameters": {"priority": -1}}, "parameters.priority"),
        ({"inputs": [X], "parameters": {"timeout": "1s"}}, "parameters.timeout"),
        ({"inputs": [X], "parameters": {"sequence_id": -1}}, "parameters.sequence_id"),
        ({"inputs": [X], "parameters": {"sequence_id": 1.5}}, "parameters.sequence_id"),
        ({"inputs": [X], "parameters": {"sequence_end": "no"}}, "parameters.sequence_end"),
        ({"inputs": [X], "parameters": {"triton_x": 1}}, "parameters.triton_x"),
        ({"inputs": [X], "parameters": {"a": None}}, "parameters.a"),
        ({"inputs": [X], "parameters": {"a": [1]}}, "parameters.a"),
        ({"inputs": [X], "parameters": {"a": 2**63}}, "parameters.a"),
        ({"inputs": [X], "parameters": {"binary_data_output": 1}}, "binary_data_output"),
        ({"inputs": [X], "outputs": "y"}, "$.outputs"),
        ({"inputs": [X], "outputs": [{}]}, "$.outputs[0]"),
        ({"inputs": [X], "outputs": [{"name": "z"}]}, "outputs[0].name"),
        ({"inputs": [X], "outputs": [{"name": "y"}, {"name": "y"}]}, "outputs"),
        (
            {"inputs": [X], "outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]},
            "outputs[0].parameters.binary_data",
        ),
        (
            {"inputs": [X], "outputs": [{"name": "y", "parameters": {"classification": -1}}]},
            "outputs[0].classification",
        ),
        (
            {
                "inputs": [X],
                "outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}],
            },
            "outputs[0].parameters",
        ),
        (
            {"inputs": [X], "outputs": [{"name": "t", "parameters": {"classification": 1}}]},
            "outputs[0].parameters.classification",
        ),
        ({"inputs": [X], "parameters": {"a\0b": 1}}, "parameters: a name"),
        ({"inputs": [X], "parameters": {"a": "b" * 70_000}}, "parameters: more than"),
        ({"inputs": [X], "parameters": dict.fromkeys(map(str, range(5000)), 1)}, "parameters"),
        ({"inputs": [X], "parameters": {"sequence_id": 2**64}}, "sequence_id"),
        ({"inputs": [X], "parameters": {"sequence_id": "é" * 65}}, "parameters.sequence_id"),
        ({"inputs": [X] * 5000}, "inputs: more than"),
        ({"inputs": [X], "outputs": [{"name": "y"}] * 5000}, "outputs: more than"),
        (changed(name="z"), "inputs[0].name"),
        (changed(name="z" * 100_000), "inputs[0].name"),
        (changed(datatype="FP99"), "inputs[0].datatype"),
        (changed(datatype="INT32"), "inputs[0].datatype"),
        (changed(shape=2), "$.inputs[0].shape"),
        (changed(shape=[1, 2.0]), "$.inputs[0].shape[1]"),
        (changed(shape=[1, "2"]), "$.inputs[0].shape[1]"),
        (changed(shape=[True, 2]), "$.inputs[0].shape[0]"),
        (changed(shape=[-1, 2]), "inputs[0].shape"),
        (changed(shape=[2**62, 2**62]), "inputs[0].shape"),
        (changed(shape=[2**63, 2]), "inputs[0].shape"),
        (changed(shape=[10**30, 2]), "inputs[0].shape"),
        (changed(shape=[1] * 100), "inputs[0].shape"),
        (changed(shape=[2]), "inputs[0].shape"),
        (changed(shape=[2, 1]), "inputs[0].shape"),
        (changed(shape=[2, 2]), "inputs[0]"),
        (changed(shape=[0, 2], parameters={"binary_data_size": 0}), "inputs[0].shape"),
        (changed(parameters={"binary_data_size": 4}), "inputs[0]"),
        (changed(parameters={"binary_data_size": -8}), "binary_data_size"),
        (changed(parameters={"binary_data_size": "8"}), "binary_data_size"),
        (changed(parameters={"binary_data_size": 8.0}), "binary_data_size"),
        (changed(parameters={"shared_memory_region": "r"}), "shared memory"),
        (changed(parameters={}), "inputs[0]"),
        (changed(data=[1, 2]), "inputs[0]"),
        (changed(parameters={}, data=[1]), "inputs[0].data"),
        (changed(parameters={}, data=[1, 2, 3]), "inputs[0].data"),
        (changed(parameters={}, data=None), "inputs[0].data"),
        (changed(parameters={}, data="ab"), "inputs[0].data"),
        (
            changed(shape=[65_537, 2], parameters={"binary_data_size": 8 * 65_537}),
            "batch-size must be <= 65536",
        ),
    ],
)
def test_a_clients_mistake_is_named(plain: Interface, header: Any, said: str) -> None:
    size = 0
    if isinstance(header, dict):
        for one in header.get("inputs") or []:
            declared = one.get("parameters", {}).get("binary_data_size") if one != 5 else 0
            size += declared if isinstance(declared, int) and declared > 0 else 0
    with pytest.raises(Refusal) as caught:
        take(plain, *request(header, bytes(size)))
    assert 400 <= caught.value.status < 500
    assert said in caught.value.message
    assert len(caught.value.message) < 10_000


@pytest.mark.parametrize(
    ("body", "json_length"),
    [
        (b"", None),
        (b"rubbish", None),
        (b'{"inputs": [NaN]}', None),
        (b'{"inputs": [], "id": "\xff"}', None),
        (b'{"inputs": [], "id": "\\ud800"}', None),
        (b'{"inputs": [' + b"[" * 100_000, None),
        (b'{"inputs": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", None),
        (json.dumps({"inputs": [X_JSON]}).encode() + b" x", None),
        (json.dumps({"inputs": [X]}).encode() + bytes(8), None),  # no length of the JSON given
        (json.dumps({"inputs": [X]}).encode() + bytes(8), 10),
        (json.dumps({"inputs": [X]}).encode() + bytes(8), 10_000),
        (json.dumps({"inputs": [X]}).encode() + bytes(7), len(json.dumps({"inputs": [X]}))),
        (json.dumps({"inputs": [X]}).encode() + bytes(9), len(json.dumps({"inputs": [X]}))),
        (b"1234567", 0),
        (b"", 0),
    ],
)
def test_what_is_no_request_is_refused(
    plain: Interface, body: bytes, json_length: int | None
) -> None:
    with pytest.raises(Refusal) as caught:
        take(plain, body, json_length)
    assert 400 <= caught.value.status < 500


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
_values = st.one_of(
    _json,
    st.sampled_from(["x", "y", "FP32", "BYTES", "INT64", [1, 2], [2, 2], [-1], [[1.5, 2]], 8, 1]),
)


@st.composite
def nearly_requests(draw: st.DrawFn) -> tuple[bytes, int | None]:
    """A good request with a few fields replaced, cut or followed by rubbish."""
    whole = json.loads(json.dumps({"inputs": [X], "outputs": [{"name": "y"}], "parameters": {}}))
    for _ in range(draw(st.integers(0, 3))):
        target = draw(st.sampled_from([whole, whole["inputs"], whole["outputs"]]))
        if isinstance(target, list) and target and isinstance(target[0], dict):
            target = target[0]
            if isinstance(target.get("parameters"), dict) and draw(st.booleans()):
                target = target["parameters"]
        keys = ["id", "name", "shape", "datatype", "data", "parameters", "binary_data_size"]
        keys += ["priority", "classification", "sequence_id", "binary_data"]
        if isinstance(target, dict):
            target[draw(st.sampled_from(keys))] = draw(_values)
    text = json.dumps(whole).encode()
    body = text + bytes(draw(st.sampled_from([8, 0, 7, 16])))
    if draw(st.integers(0, 9)) == 0:
        body = body[: draw(st.integers(0, len(body)))]
    return body, draw(st.sampled_from([len(text), None, 0, 1, len(body)]))


@given(nearly_requests() | st.tuples(st.binary(), st.none() | st.integers(0, 50)))
@settings(max_examples=1500, deadline=None)
def test_rubbish_gets_a_4xx_or_is_exactly_what_it_says(
    make: Any, sent: tuple[bytes, int | None]
) -> None:
    """What gets through has the sizes that the version takes: nothing else reaches Triton."""
    refused = None
    try:
        plan, buffers = take(Interface(make.version()), *sent)
    except Refusal as refusal:
        refused = refusal
    if refused:
        assert 400 <= refused.status < 500
        assert refused.message
    else:
        assert [len(buffer) for buffer in buffers] == [plan.rows * 8]
        assert 1 <= plan.rows <= 8
        assert plan.group.inputs == (("x", "FP32", (2,)),)


def test_json_and_binary_are_the_same_to_triton(plain: Interface) -> None:
    data = struct.pack("<2f", 1, 2)
    binary = take(plain, *request({"inputs": [X]}, data))
    texts = [X_JSON, X_JSON | {"data": [[1, 2]]}, X_JSON | {"data": [1.0, 2.0]}]
    for text in texts:
        plan, buffers = take(plain, json.dumps({"inputs": [text]}).encode(), None)
        assert [bytes(b) for b in buffers] == [bytes(b) for b in binary[1]] == [data]
        assert plan.group == binary[0].group


def test_inputs_are_taken_by_name_whatever_their_order(make: Any) -> None:
    tensors = [Tensor(name=n, datatype="INT32", shape=[1]) for n in ("a", "b", "c")]
    interface = Interface(make.version(inputs=tensors))

    def one(name: str, value: int | None) -> dict[str, Any]:
        form: dict[str, Any] = {"parameters": {"binary_data_size": 4}}
        if value is not None:
            form = {"data": [value]}
        return {"name": name, "datatype": "INT32", "shape": [1, 1]} | form

    header = {"inputs": [one("c", None), one("b", 2), one("a", None)]}
    plan, buffers = take(interface, *request(header, struct.pack("<2i", 3, 1)))
    assert [bytes(b) for b in buffers] == [struct.pack("<i", i) for i in (1, 2, 3)]
    other = {"inputs": [one("a", None), one("b", None), one("c", None)]}
    assert take(interface, *request(other, bytes(12)))[0].group == plan.group


def test_missing_and_optional_inputs(make: Any) -> None:
    optional = Tensor(name="o", datatype="FP32", shape=[1], optional=True)
    x = Tensor(name="x", datatype="FP32", shape=[2])
    body = request({"inputs": [X]}, bytes(8))
    assert take(Interface(make.version(inputs=[x, optional])), *body)[0].rows == 1
    with pytest.raises(Refusal, match="inputs: 'z' is missing"):
        take(
            Interface(make.version(inputs=[x, Tensor(name="z", datatype="FP32", shape=[1])])), *body
        )


def test_batches_of_the_inputs_must_agree(make: Any) -> None:
    tensors = [Tensor(name=n, datatype="INT32", shape=[1]) for n in ("a", "b")]
    interface = Interface(make.version(inputs=tensors))
    inputs = [
        {"name": n, "datatype": "INT32", "shape": [rows, 1], "data": [1] * rows}
        for n, rows in (("a", 1), ("b", 2))
    ]
    with pytest.raises(Refusal, match="first dimensions"):
        take(interface, json.dumps({"inputs": inputs}).encode(), None)


def test_what_is_not_in_the_group(plain: Interface) -> None:
    """Requests that differ only in these share a batch."""
    groups = {
        take(plain, *request({"inputs": [X]} | fields, bytes(8)))[0].group
        for fields in (
            {},
            {"id": "a"},
            {"parameters": {"priority": 1, "timeout": 5, "binary_data_output": True}},
            {"outputs": [{"name": "y"}]},
            {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]},
        )
    }
    assert len(groups) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"parameters": {"temperature": 0.5}},
        {"parameters": {"sequence_id": 5}},
        {"outputs": [{"name": "y", "parameters": {"classification": 2}}]},
    ],
)
def test_what_is_in_the_group(plain: Interface, fields: dict[str, Any]) -> None:
    usual, _ = take(plain, *request({"inputs": [X]}, bytes(8)))
    special, _ = take(plain, *request({"inputs": [X]} | fields, bytes(8)))
    assert usual.group != special.group
    assert special.group.alone == ("sequence_id" in str(fields))


def test_models_without_a_batch_dimension(make: Any) -> None:
    interface = Interface(
        make.version(
            max_batch_size=0,
            batchable=False,
            inputs=[Tensor(name="x", datatype="FP32", shape=[-1, 2])],
        )
    )
    header = {"inputs": [X | {"shape": [3, 2], "parameters": {"binary_data_size": 24}}]}
    plan, _ = take(interface, *request(header, bytes(24)))
    assert (plan.rows, plan.group.inputs[0][2], plan.group.alone) == (1, (3, 2), True)


def test_a_body_without_json(make: Any) -> None:
    interface = Interface(make.version(inputs=[Tensor(name="x", datatype="INT16", shape=[-1, 2])]))
    plan, buffers = take(interface, bytes(range(12)), 0)
    assert plan.call.inputs[0].shape == (1, 3, 2)
    assert bytes(buffers[0]) == bytes(range(12))
    assert plan.call.outputs[0].binary
    two = Interface(
        make.version(inputs=[Tensor(name=n, datatype="INT8", shape=[1]) for n in ("a", "b")])
    )
    texts = Interface(make.version(inputs=[Tensor(name="x", datatype="BYTES", shape=[1])]))
    for other in (two, texts):
        with pytest.raises(Refusal) as caught:
            take(other, b"ab", 0)
        assert 400 <= caught.value.status < 500


@pytest.mark.parametrize("number", [0, 1, 6, 2**63 - 1])
def test_priority_and_timeout_are_any_unsigned_integer(number: int) -> None:
    body, length = request({"inputs": [X]}, bytes(8))
    decoded, _ = Decoder().decode(body, length)
    assert (decoded.priority, decoded.timeout) == (None, 0)
    for name in ("priority", "timeout"):
        body, length = request({"inputs": [X], "parameters": {name: number}}, bytes(8))
        decoded, _ = Decoder().decode(body, length)
        assert getattr(decoded, name) == number
        assert decoded.call.parameters == b"{}"  # who differs in these may share a batch
        body, length = request({"inputs": [X], "parameters": {name: 2**64}}, bytes(8))
        with pytest.raises(Refusal, match=name):  # msgspec: beyond 64 bits there is no integer
            Decoder().decode(body, length)


def test_a_sequence_has_any_number_of_64_bits() -> None:
    """Clients draw them by chance."""
    for number in (1, 2**63, 2**64 - 1):
        body, length = request({"inputs": [X], "parameters": {"sequence_id": number}}, bytes(8))
        call = Decoder().decode(body, length)[0].call
        assert (call.alone, call.parameters) == (True, b'{"sequence_id":%d}' % number)


def test_empty_inputs_are_not_ranked(make: Any) -> None:
    open_ended = Interface(make.version(inputs=[Tensor(name="x", datatype="FP32", shape=[-1])]))
    empty = X | {"shape": [1, 0], "parameters": {"binary_data_size": 0}}
    wanted: dict[str, Any] = {"name": "y"}
    take(open_ended, *request({"inputs": [empty], "outputs": [wanted]}))
    wanted["parameters"] = {"classification": 1}
    with pytest.raises(Refusal, match=r"outputs\[0\].parameters.classification"):
        take(open_ended, *request({"inputs": [empty], "outputs": [wanted]}))
    take(open_ended, *request({"inputs": [X], "outputs": [wanted]}, bytes(8)))


def test_a_group_is_told_in_short(plain: Interface) -> None:
    sent = request({"inputs": [X], "parameters": {"a": "b" * 10_000}}, bytes(8))
    assert len(str(take(plain, *sent)[0].group)) < 1000


def test_equal_headers_are_read_once_and_only_short_ones_without_data() -> None:
    decoder = Decoder()
    body, length = request({"inputs": [X], "id": "7"}, bytes(8))
    assert decoder.decode(body, length)[0] is decoder.decode(body[:-1] + b"\1", length)[0]
    inline = json.dumps({"inputs": [X_JSON]}).encode()
    assert decoder.decode(inline, None)[0] is not decoder.decode(inline, None)[0]
    for i in range(3000):
        other, length = request({"inputs": [X], "id": str(i)}, bytes(8))
        assert decoder.decode(other, length)[0].id == b'"%d"' % i
    assert len(decoder._remembered) <= 1024


def test_a_group_is_told_by_all_that_keeps_it_apart(plain: Interface) -> None:
    told = set()
    for more in ({}, {"outputs": [{"name": "y", "parameters": {"classification": 3}}]}):
        for parameters in ({}, {"seed": 1}):
            sent = request({"inputs": [X], "parameters": parameters, **more}, bytes(8))
            told.add(str(take(plain, *sent)[0].group))
    assert len(told) == 4
