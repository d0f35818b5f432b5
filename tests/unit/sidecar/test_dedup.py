"""Equal requests: found out, waiting for one answer, and answered from what was kept."""

import json
from math import inf
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import Deduplication
from tidegate_sidecar.core.counters import Counters
from tidegate_sidecar.core.dedup import (
    ENTRY_BYTES,
    Cache,
    Carrier,
    Deduplicator,
    Key,
    key,
    late_ones,
)
from tidegate_sidecar.core.exchange import Cut, Rows
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.request import Decoder, Group, Interface, Plan
from tidegate_sidecar.core.version import VersionInfo

TENSORS = [Tensor(name=name, datatype="INT8", shape=[-1]) for name in "ab"]
OUTPUTS = [Tensor(name=name, datatype="INT8", shape=[-1]) for name in ("y", "z")]
INTERFACE = Interface(
    VersionInfo(
        version=1,
        max_batch_size=8,
        batchable=True,
        instances=1,
        inputs=tuple(TENSORS),
        outputs=tuple(OUTPUTS),
    )
)
COUNTERS = Counters()
FIXED = ENTRY_BYTES + len(b"{}")
"""Bytes that an answer to a request without parameters of its own takes beside its tensors."""


def request(
    *outputs: str, a: bytes = b"a", b: bytes = b"b", arm: str = "stable", **fields: Any
) -> Pending:
    """A request of one row that asks for some outputs, all where none is named."""
    described = [
        {
            "name": name,
            "datatype": "INT8",
            "shape": [1, len(data)],
            "parameters": {"binary_data_size": len(data)},
        }
        for name, data in (("a", a), ("b", b))
    ]
    body = {"inputs": described, "outputs": [{"name": name} for name in outputs]} | fields
    header = json.dumps(body).encode()
    decoded, start = Decoder().decode(header + a + b, len(header))
    pending = Pending(None, decoded, header + a + b, start, 3, 0.0)
    plan = Plan.of(decoded.call, INTERFACE)
    pending.assign(arm, 1, plan, COUNTERS.tally(arm, 1, 3))
    return pending


def key_of(pending: Pending, version: int = 1) -> Key:
    return key(version, pending.plan.group, pending.rows, pending.buffers)


def answer(size: int = 8) -> Rows:
    return Rows(b"", {"y": Cut("INT8", (1, size), (memoryview(bytes(size)),))})


def test_what_makes_requests_equal() -> None:
    one = key_of(request(id="1"))
    assert key_of(request("y", id="2", parameters={"priority": 1, "timeout": 5})) == one
    values = [{"name": n, "datatype": "INT8", "shape": [1, 1], "data": [ord(n)]} for n in "ba"]
    body = json.dumps({"inputs": values}).encode()
    decoded, start = Decoder().decode(body, None)
    in_json = Pending(None, decoded, body, start, 1, 0.0)
    in_json.assign("canary", 1, Plan.of(decoded.call, INTERFACE), COUNTERS.tally("canary", 1, 1))
    assert key_of(in_json) == one


@pytest.mark.parametrize(
    "other",
    [
        request(a=b"x"),
        request(a=b"b", b=b"a"),
        request(a=b"ab", b=b""),
        request(a=b"", b=b"ab"),
        request(parameters={"temperature": 1}),
        request(outputs=[{"name": "y", "parameters": {"classification": 1}}]),
    ],
)
def test_what_makes_them_differ(other: Pending) -> None:
    assert key_of(other) != key_of(request())


def test_versions_are_never_mixed() -> None:
    assert key_of(request(), 2) != key_of(request(), 1)


@given(st.data())
@settings(max_examples=300)
def test_a_bit_makes_another_request(data: st.DataObject) -> None:
    inputs = data.draw(st.lists(st.binary(max_size=20), min_size=1, max_size=3))
    group = Group((("a", "INT8", (1,)),), (), b"{}", batched=True, alone=False)
    same = [memoryview(b"--" + one)[2:] for one in inputs]
    assert key(1, group, 1, same) == key(1, group, 1, inputs)
    place = data.draw(st.integers(0, len(inputs) - 1))
    changed = list(inputs)
    if inputs[place] and data.draw(st.booleans()):
        bit = data.draw(st.integers(0, 8 * len(inputs[place]) - 1))
        flipped = bytearray(inputs[place])
        flipped[bit // 8] ^= 1 << bit % 8
        changed[place] = bytes(flipped)
    else:  # the same bytes, laid out otherwise
        joined = b"".join(inputs)
        cut = data.draw(st.integers(0, len(joined)))
        changed = [joined[:cut], joined[cut:]]
    if changed != inputs:
        assert key(1, group, 1, changed) != key(1, group, 1, inputs)


def meet(made: Deduplicator, pending: Pending) -> Carrier:
    """Let a request in as the runtime does."""
    its_key = key_of(pending)
    return made.join(its_key, pending) or made.carry(its_key, pending)


@pytest.fixture
def made() -> Deduplicator:
    deduplicator = Deduplicator()
    deduplicator.configure(Deduplication())
    return deduplicator


def test_equal_requests_share_a_carrier_that_asks_for_all(made: Deduplicator) -> None:
    one, other = request("y"), request("z", arm="canary")
    carrier = meet(made, one)
    assert meet(made, other) is carrier
    assert carrier.outputs == {"y", "z"}
    assert set(made.waiting) == {one, other}
    assert made.answered(carrier, answer(), 0.0) == [one, other]
    assert not made.waiting
    assert meet(made, request("y")) is not carrier


def test_what_is_sent_takes_in_who_wants_no_more_than_it_asks_for(made: Deduplicator) -> None:
    carrier = meet(made, request("y"))
    made.sent(carrier)
    assert meet(made, request("y")) is carrier
    second = meet(made, request("y", "z"))
    assert second is not carrier
    assert carrier.outputs == {"y"}
    assert meet(made, request("z")) is second


def test_a_carrier_goes_with_the_last_of_its_callers(made: Deduplicator) -> None:
    one, other = request(), request()
    carrier = meet(made, one)
    meet(made, other)
    assert made.leave(one) is None
    assert made.leave(one) is None
    assert made.leave(other) is carrier
    assert meet(made, request()) is not carrier
    assert made.leave(request()) is None


def test_what_is_sent_is_awaited_for_those_who_have_gone(made: Deduplicator) -> None:
    """They count by what becomes of it."""
    one = request()
    carrier = meet(made, one)
    made.sent(carrier)
    assert made.leave(one) is None
    assert made.part(carrier) == [one]


def test_a_version_that_is_loaded_anew_is_another(made: Deduplicator) -> None:
    one = request()
    carrier = meet(made, one)
    made.cache.keep(key_of(request(a=b"x")), ["y"], answer(), 0.0)
    made.forget(2)
    assert len(made.cache) == 1
    made.forget(1)
    assert len(made.cache) == 0
    assert made.find(key_of(request(a=b"x")), request("y"), 0.0) is None
    assert meet(made, request()) is not carrier
    assert made.answered(carrier, answer(), 0.0) == [one]
    assert len(made.cache) == 0


def test_turned_off_live_those_who_wait_are_answered(made: Deduplicator) -> None:
    one = request()
    carrier = meet(made, one)
    made.configure(None)
    assert not made.on
    assert made.answered(carrier, answer(), 0.0) == [one]
    assert len(made.cache) == 0


def test_deadlines_in_flight_are_each_callers_own(made: Deduplicator) -> None:
    early, later = request(), request()
    early.answer_by, later.answer_by = 1.0, 2.0
    carrier = meet(made, early)
    meet(made, later)
    assert made.due == inf  # the queue minds what is in it
    made.sent(carrier)
    assert made.due == 1.0
    assert made.overdue(0.5) == []
    assert made.overdue(1.0) == [early]
    early.cancelled = True
    assert made.due == 2.0
    newcomer = request()
    newcomer.answer_by = 1.5
    meet(made, newcomer)
    assert made.due == 1.5
    assert made.overdue(3.0) == [later, newcomer]
    assert made.due == inf


def test_who_is_late_when_a_carrier_expires() -> None:
    hurried, patient, gone = request(), request(), request()
    hurried.answer_by, patient.answer_by, gone.send_by = 5.0, 9.0, 1.0
    carrier = Carrier(hurried, key_of(hurried))
    carrier.answer_by = 5.0
    everybody = [hurried, patient, gone]
    assert late_ones(everybody, carrier, 2.0) == {gone}
    assert late_ones(everybody[:2], carrier, 2.0) == {hurried}  # cannot be met
    assert late_ones(everybody, carrier, 6.0) == {hurried, gone}


def test_an_answer_that_was_kept(made: Deduplicator) -> None:
    carrier = meet(made, request("y"))
    made.answered(carrier, answer(), now=0.0)
    found = made.find(carrier.key, request("y"), 9.9)
    assert found
    assert bytes(found.outputs["y"].data) == bytes(8)
    assert made.find(carrier.key, request("y", "z"), 9.9) is None
    assert made.find(carrier.key, request("y"), 10.0) is None
    assert made.cache.size == 0


def test_what_is_kept_holds_no_whole_batch() -> None:
    batch = memoryview(bytes(1000))
    rows = Rows(b"", {"y": Cut("INT8", (1, 8), (batch[8:12], batch[12:16]))})
    cache = Cache()
    cache.configure(Deduplication())
    cache.keep(key_of(request()), ["y"], rows, 0.0)
    found = cache.find(key_of(request()), ["y"], 0.0)
    assert found
    assert found.outputs["y"].data.obj == bytes(8)
    assert cache.size == FIXED + 8
    cache.keep(key_of(request(parameters={"a": "b" * 1000})), ["y"], rows, 0.0)
    assert cache.size > 2 * FIXED + 1000  # its key is kept, too


class CacheMachine(RuleBasedStateMachine):
    """The cache before a model of it: a list of what was kept, the longest unused first."""

    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()
        self.settings = Deduplication(ttl=5.0, max_entries=3, max_bytes=3 * FIXED)
        self.cache.configure(self.settings)
        self.model: list[tuple[Key, int, float]] = []
        self.now = 0.0

    def make_room(self, entries: int, size: int) -> None:
        while self.model and (
            len(self.model) + entries > self.settings.max_entries
            or self.held() + size > self.settings.max_bytes
        ):
            self.model.pop(0)

    def held(self) -> int:
        return sum(FIXED + size for _, size, _ in self.model)

    @rule(name=st.sampled_from("abcde"), size=st.integers(0, 2 * FIXED))
    def keep(self, name: str, size: int) -> None:
        one = key_of(request(a=name.encode()))
        self.cache.keep(one, ["y"], answer(size), self.now)
        if FIXED + size <= self.settings.max_bytes:
            self.model = [entry for entry in self.model if entry[0] != one]
            self.make_room(1, FIXED + size)
            self.model.append((one, size, self.now + self.settings.ttl))

    @rule(name=st.sampled_from("abcde"))
    def find(self, name: str) -> None:
        one = key_of(request(a=name.encode()))
        entry = next((entry for entry in self.model if entry[0] == one), None)
        if entry:
            self.model.remove(entry)
            if entry[2] > self.now:
                self.model.append(entry)
            else:
                entry = None
        found = self.cache.find(one, ["y"], self.now)
        assert (found is None) == (entry is None)
        assert found is None or entry is None or len(found.outputs["y"].data) == entry[1]

    @rule(entries=st.integers(1, 4), size=st.integers(1, 4 * FIXED))
    def configure(self, entries: int, size: int) -> None:
        self.settings = Deduplication(ttl=5.0, max_entries=entries, max_bytes=size)
        self.cache.configure(self.settings)
        self.make_room(0, 0)

    @rule(seconds=st.floats(0, 3))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def the_bounds_hold_exactly(self) -> None:
        assert self.cache.size == self.held() <= self.settings.max_bytes
        assert len(self.cache) == len(self.model) <= self.settings.max_entries


TestCache = CacheMachine.TestCase
