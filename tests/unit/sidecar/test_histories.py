"""Random histories of one model: whatever happens in whatever order, everybody has one right end.

A history has few kinds (shapes, levels, limits; each feature on or off for all of it), so that
what is rare among all histories happens often in some. Requests carry numbers that Triton sends
back, so that an answer tells whose rows it was made of, and by which version.
"""

import dataclasses
import json
import random
import struct
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import inf
from typing import Any

import pytest

from tidegate_batcher.device import Device
from tidegate_contract.acknowledgement import Tensor
from tidegate_contract.table import BatchSettings, Deduplication, ErrorCheck, Level, SlowCheck
from tidegate_sidecar.core.batcher import Batch, Served
from tidegate_sidecar.core.dedup import Carrier
from tidegate_sidecar.core.delivery import Result, requests
from tidegate_sidecar.core.ending import outcome_of
from tidegate_sidecar.core.exchange import Answer
from tidegate_sidecar.core.pending import Pending
from tidegate_sidecar.core.refusal import Refusal, Unserved, lost, unavailable
from tidegate_sidecar.core.request import Buffer
from tidegate_sidecar.core.runtime import ModelRuntime

OUTPUTS = ("y", "z")
SPINS = 50
"""Polls without any time between them, after which one is said to be due for ever."""


@dataclasses.dataclass(eq=False)
class Asked:
    """A request as its client knows it. ``values``: one for each row; below 0, Triton fails.

    ``outputs`` empty: all. ``sequence``: 0 is none. ``known``: by version, which of its loads was
    the last when it came.
    """

    number: int
    values: tuple[float, ...]
    outputs: tuple[str, ...]
    sequence: int = 0
    known: dict[int, int] = dataclasses.field(default_factory=dict)
    pending: Pending | None = None
    end: str = ""


@dataclasses.dataclass(eq=False)
class Sent:
    """A batch that Triton has. ``first``: its slot's, where it is sent again in parts.

    ``level``: the highest in that. ``sliced``: it holds some rows of a low level, taken while a
    higher one was alive.
    """

    batch: Batch
    values: list[float]
    outputs: list[str]
    loaded: int
    first: Batch
    level: int
    sliced: bool

    def reply(self) -> tuple[int, int | None, bytes]:
        """Status, length of the JSON, and body: each row's number, and how often it was loaded."""
        if min(self.values) < 0:
            return 500, None, b'{"error":"poisoned"}'
        data = [_packed(name, self.values, self.loaded) for name in self.outputs]
        described = [
            {
                "name": name,
                "datatype": "FP32",
                "shape": [len(self.values), 2],
                "parameters": {"binary_data_size": 8 * len(self.values)},
            }
            for name in self.outputs
        ]
        header = json.dumps({"model_name": "m", "outputs": described}).encode()
        return 200, len(header), header + b"".join(data)


def _packed(name: str, values: Sequence[float], loaded: int) -> bytes:
    """An output: for each row its number, told apart by the output, and the load."""
    row = [part for value in values for part in (value + OUTPUTS.index(name) / 2, loaded)]
    return struct.pack(f"<{len(row)}f", *row)


class Model:
    """One model's runtime, driven as `shell.server` drives it: polled then, and only then.

    ``models``: all of the pod. ``loaded``: the number that a version's answers have. ``at_once``:
    called at each answer, as a client may have sent its next request before.
    """

    def __init__(self, runtime: ModelRuntime, models: "list[Model]") -> None:
        self.runtime = runtime
        self.models = models
        self.now = 0.0
        self.asked: list[Asked] = []
        self.alive: dict[Pending, Asked] = {}
        self.flying: list[Sent] = []
        self.ends: Counter[str] = Counter()
        self.loads = 0
        self.current: dict[int, int] = {}
        self.loaded: dict[Served, int] = {}
        self.turn: dict[int, int] = {}
        self.pins: dict[int, int] = {}
        self.came: dict[int, float] = {}
        self.concerned = self.bad = self.gone = 0
        self.unwritten = 0
        self.cuts = False
        self.at_once: Any = None
        self.scheduled = False
        self.wake_at = inf

    # What clients do.

    def ask(self, one: Asked, body: bytes, json_length: int, **more: Any) -> None:
        self.asked.append(one)
        one.known = dict(self.current)
        try:
            pending = self.runtime.submit(one, body, json_length=json_length, now=self.now, **more)
        except Refusal as refusal:
            self._end(one, "expired" if refusal.status == 504 else _refused(refusal))
            if one.sequence:
                self.pins.pop(one.sequence, None)
            return
        one.pending = pending
        self.alive[pending] = one
        carrier = self.runtime.deduplicator._carriers.get(pending)
        if pending.waits or (carrier and carrier.waits):
            self.came[pending.level] = self.now
        if (
            pending.answer_by < self.wake_at
            or pending.send_by < self.wake_at
            or self.runtime.stirs(pending, self.now)
        ):
            self.scheduled = True

    def hang_up(self, pending: Pending) -> None:
        self.gone += 1
        entry = self.runtime._entry
        told = {one: outcome(result) for one, result in entry._due}
        told |= dict.fromkeys(entry.thrown_out, "rejected")
        self._end(self.alive.pop(pending), told.get(pending, "cancelled"))
        self.runtime.cancel(pending, self.now)

    # What the control plane does.

    def load(self, info: Any) -> None:
        self.loads += 1
        self.runtime.version_ready(info)
        self._forget(info.version)
        self.current[info.version] = self.loads
        self.loaded[self.runtime._batcher.served[info.version]] = self.loads
        self.replan()

    def unload(self, version: int) -> None:
        self.runtime.version_gone(version)
        self._forget(version)
        self.replan()

    def _forget(self, version: int) -> None:
        self.pins = {one: pinned for one, pinned in self.pins.items() if pinned != version}

    def replan(self) -> None:
        for pending, refusal in self.runtime.replan(self.now):
            self._tell(pending, refusal, _refused(refusal))
        self.scheduled = True

    # What the shell does.

    @property
    def due(self) -> bool:
        return self.scheduled or self.wake_at <= self.now

    def poll(self) -> None:
        self.scheduled = False
        self.wake_at = inf if self.wake_at <= self.now else self.wake_at
        for batch in self.runtime.poll(self.now):
            self._send(batch, batch)
        for pending, refusal in self.runtime.given_up(self.now):
            self._tell(pending, refusal, _refused(refusal), sent="not answered" in refusal.message)
        self._hand_out()
        wake = self.runtime.next_wake()
        if wake is None or wake < self.wake_at:
            self.wake_at = inf if wake is None else wake

    def _send(self, batch: Batch, first: Batch) -> None:
        if self.unwritten:
            self.unwritten -= 1
            self.flying.append(Sent(batch, [0.0], [], 0, first, 0, sliced=False))
            self.done(self.flying[-1], Refusal(500, "not written"))
            return
        self.flying.append(self._written(batch, first))

    def _written(self, batch: Batch, first: Batch) -> Sent:
        header, buffers = self.runtime.encode(batch)
        batch.written_at = self.now
        values = struct.unpack(f"<{2 * batch.rows}f", b"".join(map(bytes, buffers)))[::2]
        outputs = [one["name"] for one in json.loads(header)["outputs"]]
        self._check_order(batch)
        sliced = batch is first and self._check_slices(batch)
        loaded = self.loaded[batch.served]
        level = min(one.level for one in first.members)
        return Sent(batch, list(values), outputs, loaded, first, level, sliced)

    def send_again(self, sent: Sent) -> None:
        """Triton has forgotten the memory that a batch lies in."""
        header, buffers = self.runtime.encode(sent.batch)
        assert json.loads(header)["inputs"][0]["shape"][0] == sent.batch.rows
        assert sum(map(len, buffers)) == 8 * sent.batch.rows
        sent.outputs = [one["name"] for one in json.loads(header)["outputs"]]

    def done(self, sent: Sent, response: tuple[int, int | None, Buffer] | Refusal) -> None:
        self.flying.remove(sent)
        batch = sent.batch
        batch.answered_at = self.now
        if isinstance(response, Refusal):
            results = self.runtime.fail(batch, response)
        else:
            results = self.runtime.complete(batch, *response)
        others = self.runtime.waiting
        if others:
            self._free(sent, results)
        for pending, result in zip(batch.members, results, strict=True):
            if result is not None and not pending.cancelled:
                self._tell(pending, result, outcome(result))
        if not others:
            self._free(sent, results)
        self.runtime.count(batch, results, self.now)
        self._hand_out()
        for model in self.models:
            model.scheduled |= bool(model.runtime.waiting)

    def _free(self, sent: Sent, results: Sequence[Result | None]) -> None:
        if after := self.runtime.free(sent.batch, results, self.now):
            self._send(after, sent.first)
        elif self.runtime.waiting and not sent.batch.flies_on:
            self.poll()

    def _hand_out(self) -> None:
        for pending, result in self.runtime.handed_out():
            self._tell(pending, result, outcome(result))

    # What must hold.

    def _tell(self, pending: Pending, result: Result, outcome: str, *, sent: bool = False) -> None:
        one = self.alive.pop(pending)  # nobody is told twice, or once gone
        assert pending.caller is one
        if isinstance(result, Answer):
            self._check_answer(one, result)
        self._end(one, outcome)
        if pending.checks and (sent or outcome in ("ok", "client_error", "server_error")):
            self.concerned += 1
            self.bad += sent or outcome == "server_error"
        if self.at_once:
            self.at_once()

    def _end(self, one: Asked, outcome: str) -> None:
        assert not one.end
        one.end = outcome
        self.ends[outcome] += 1

    def _check_answer(self, one: Asked, answer: Answer) -> None:
        """The rows are his own, by his version as it was loaded when he came or later."""
        pending = one.pending
        assert pending
        told = json.loads(answer.json)
        assert int(told["model_version"]) == pending.version
        assert told["id"] == str(one.number)
        names = [output["name"] for output in told["outputs"]]
        assert sorted(names) == sorted(one.outputs or OUTPUTS)
        assert all(output["shape"] == [len(one.values), 2] for output in told["outputs"])
        data = b"".join(map(bytes, answer.data))
        loaded = int(struct.unpack_from("<2f", data)[1])
        assert data == b"".join(_packed(name, one.values, loaded) for name in names)
        assert loaded >= one.known.get(pending.version, 0)
        assert loaded in {
            n for one, n in self.loaded.items() if one.info.version == pending.version
        }

    def _check_order(self, batch: Batch) -> None:
        """One of a sequence at a time, in order, where the sequence began."""
        flying = [one for sent in self.flying for one in sent.batch.members]
        for one in batch.members:
            if isinstance(one, Carrier) or not one.caller.sequence:
                continue
            assert len(batch.members) == 1
            sequence = one.caller.sequence
            assert sequence not in {other.caller.sequence for other in flying if other.caller}
            assert self.turn.get(sequence, -1) < one.caller.number
            self.turn[sequence] = one.caller.number

    def _check_slices(self, batch: Batch) -> bool:
        """Of a level with a bound no more than one batch at a time, while a higher one is alive."""
        runtime, level = self.runtime, min(one.level for one in batch.members)
        rule = {one.level: one for one in runtime._settings.levels}.get(level)
        if not self.cuts or not rule or rule.max_slice is None:
            return False
        batchers = [model.runtime._batcher.scheduler for model in self.models]
        flying = [sent for model in self.models for sent in model.flying]
        higher = [one.level < level for made in batchers for one in made.queued()]
        higher += [sent.level < level for sent in flying]
        came = [one for model in self.models for one in model.came.items()]
        if not any(higher) and not any(lv < level and at > self.now - 1.0 for lv, at in came):
            return False
        assert not any(higher)
        assert not any(sent.sliced for sent in flying)
        return True

    def check(self) -> None:
        """What holds between any two events, once all polls that were due have been."""
        batcher, scheduler = self.runtime._batcher, self.runtime._batcher.scheduler
        queued = list(scheduler.queued())
        members = [(sent, one) for sent in self.flying for one in sent.batch.members]
        assert scheduler.waiting == len(queued) == len(set(queued))
        assert all(one.waits and not one.withdrawn for one in queued)
        assert sum(scheduler.counts) == len(queued)
        assert scheduler.busy == len(self.flying) == sum(scheduler.flying)
        for lane in scheduler.lanes.values():
            rows = sum(one.rows - one.sent for one in lane.queue)
            assert lane.queue.rows == rows
            assert rows == sum(group.rows for group in lane.queue.groups.values())
            assert lane.in_flight <= lane.slots
            assert lane.in_flight == sum(
                sent.batch.served is batcher.served[lane.key] for sent in self.flying
            )
        if self.runtime.waiting and not self.flying:
            assert self.now < self.wake_at < inf  # who may go goes, or is woken
        whole = Counter(one for sent, one in members if not sent.batch.sliced)
        assert all(times == 1 for times in whole.values())
        assert not whole.keys() & set(queued)
        spans = sorted(
            (id(s.batch.slices), s.batch.begin, s.batch.rows) for s, _ in members if s.batch.sliced
        )
        assert all(a[0] != b[0] or a[1] + a[2] <= b[1] for a, b in pairwise(spans))
        self._check_alive(queued)
        self._check_counters(queued, members)

    def _check_alive(self, queued: Any) -> None:
        """Everybody is somewhere, and nobody beyond his time."""
        runtime = self.runtime
        again = [s.waiting for s in runtime._retries._searches.values()]
        batches = [s.batch for s in self.flying] + [one for some in again for one in some]
        sent = {one for batch in batches for one in requests(batch)}
        carried = {
            one for carrier in queued if isinstance(carrier, Carrier) for one in carrier.waiters
        }
        unsent = {one for one in queued if not one.sent} | set(runtime.sequences.held)
        unsent |= {
            one for c in queued if isinstance(c, Carrier) and not c.flying for one in c.waiters
        }
        there = sent | carried | set(queued) | set(runtime.sequences.held)
        assert self.alive.keys() <= there
        assert all(one.answer_by > self.now for one in self.alive)
        assert all(one.send_by > self.now for one in self.alive if one in unsent)

    def _check_counters(self, queued: Any, members: Any) -> None:
        counters = self.runtime.counters
        ends: Counter[str] = Counter()
        for tally in counters.tallies.values():
            ends.update(tally.outcomes)
        assert ends == self.ends
        checks = counters.checks.items()
        assert all(0 <= one.bad <= one.requests for _, one in checks)
        errors = [one for series, one in checks if series.check == "errors"]
        over = ends["rejected"]  # over quota counts, and nothing else of these
        assert 0 <= sum(one.requests for one in errors) - self.concerned <= self.gone + over
        assert 0 <= sum(one.bad for one in errors) - self.bad <= self.gone
        held = self.runtime.sequences.held
        tallies = counters.tallies.values()
        assert sum(tally.waiting for tally in tallies) == len(held) + sum(
            not one.sent for one in queued
        )
        assert all(tally.waiting >= 0 and tally.in_flight >= 0 for tally in tallies)

    def check_end(self) -> None:
        """Nothing is left of anybody."""
        runtime = self.runtime
        assert not self.alive
        assert sum(self.ends.values()) == len(self.asked)
        scheduler, entry, equal = runtime._batcher.scheduler, runtime._entry, runtime.deduplicator
        left = [
            *(scheduler._flights, scheduler._guests, scheduler._expired, runtime._batcher._flying),
            *(entry.thrown_out, entry._due, entry._out_of_turn, runtime._displaced),
            *(equal._open, equal._carriers, equal._sent, runtime._retries._searches),
            *(runtime.sequences.held, runtime.sequences.going),
        ]
        assert not any(left)
        assert not any(line.pin is None for line in runtime.sequences._lines.values())
        assert not any(
            tally.waiting or tally.in_flight for tally in runtime.counters.tallies.values()
        )
        assert not any([scheduler.waiting, *scheduler.counts, *scheduler.flying])
        assert not any(
            [scheduler._device.slices, *(one.reserve.unpaid for one in scheduler.lanes.values())]
        )
        assert sum(one.size for one in equal.cache._kept.values()) == equal.cache.size
        assert self.wake_at == inf


def _refused(refusal: Refusal) -> str:
    """What a request counts as that was in no batch."""
    return {504: "expired", 429: "rejected", 503: "rejected"}.get(refusal.status, "client_error")


def outcome(result: Result) -> str:
    """What a request counts as that was in a batch."""
    if isinstance(result, Unserved):
        return "rejected"
    return outcome_of(result)


@dataclasses.dataclass
class Kinds:
    """What occurs in one history. Shares are from 0 to 1; ``names``: payloads that there are."""

    models: int
    levels: int
    most_queue: float
    slices: float
    names: int
    most_rows: int
    shapes: int
    deadlines: float
    timeouts: float
    sequences: int
    versions: int
    poison: float
    equal: float
    some_outputs: float
    failures: float
    control: float
    hang_up: float
    at_once: float
    direct: float
    resend: float
    unwritten: float
    instances: int
    aging: float
    max_batch: int
    strategy: str
    lag: float
    step: float

    @staticmethod
    def draw(choose: random.Random) -> "Kinds":
        pick = choose.choice
        return Kinds(
            models=pick([1, 1, 2]),
            levels=pick([1, 2, 3]),
            most_queue=pick([0.0, 0.5]),
            slices=pick([0.0, 0.0, 1.0]),
            names=pick([1, 3, 50]),
            most_rows=pick([1, 1, 4, 20]),
            shapes=pick([1, 1, 2, 3]),
            deadlines=pick([0.0, 0.3, 0.9]),
            timeouts=pick([0.0, 0.0, 0.5]),
            sequences=pick([0, 0, 1, 3]),
            versions=pick([1, 1, 2]),
            poison=pick([0.0, 0.0, 0.1]),
            equal=pick([0.0, 1.0]),
            some_outputs=pick([0.0, 0.5]),
            failures=pick([0.0, 0.0, 0.3]),
            control=pick([0.0, 0.03, 0.1]),
            hang_up=pick([0.0, 0.05, 0.15]),
            at_once=pick([0.0, 0.0, 0.3]),
            direct=pick([0.0, 0.0, 0.2]),
            resend=pick([0.0, 0.0, 0.1]),
            unwritten=pick([0.0, 0.0, 0.02]),
            instances=pick([1, 1, 2, 3]),
            aging=pick([0.0, 0.0, 1.0]),
            max_batch=pick([1, 2, 4, 8]),
            strategy=pick(["Fixed", "Adaptive"]),
            lag=pick([0.1, 0.1, 0.5]),
            step=pick([0.25, 1.0, 20.0]),
        )


class History:
    """One pod's life, drawn from a seed."""

    def __init__(self, make: Any, seed: int) -> None:
        self.make = make
        self.choose = random.Random(seed)
        self.kinds = Kinds.draw(self.choose)
        self.models: list[Model] = []
        device = Device()
        for _ in range(self.kinds.models):
            self.model = Model(ModelRuntime("m", "pod-1", device=device), self.models)
            self.models.append(self.model)
            self.model.at_once = self.maybe_arrive if self.kinds.at_once else None
            self.model.cuts = (
                bool(self.kinds.slices) and not self.kinds.aging + self.kinds.unwritten
            )
            self.change_table()
            for version in range(1, self.kinds.versions + 1):
                self.load(version)

    def happens(self, share: float) -> bool:
        return self.choose.random() < share

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.model = self.choose.choice(self.models)
            self.step()
            if not self.happens(self.kinds.lag):
                self.settle()
                for model in self.models:
                    model.check()
        self.drain()

    def settle(self) -> None:
        """Poll all that is due."""
        for _ in range(SPINS):
            due = [model for model in self.models if model.due]
            if not due:
                return
            self.choose.choice(due).poll()
        pytest.fail("a poll is due for ever")

    def step(self) -> None:
        kinds, model = self.kinds, self.model
        if self.happens(kinds.unwritten):
            model.unwritten = 1
        kind = self.choose.random()
        if kind < 0.45:
            self.arrive()
        elif kind < 0.65:
            if not self.happens(kinds.lag):
                self.settle()
            wake_at = min(one.wake_at for one in self.models)
            until = model.now + self.choose.choice([0.25, 0.25, 0.5, 1.0]) * kinds.step
            self.pass_time(wake_at if wake_at < inf and self.happens(0.5) else until)
        elif kind < 0.85 and model.flying:
            self.answer(self.choose.choice(model.flying))
        elif self.happens(kinds.hang_up * 5) and model.alive:
            model.hang_up(self.choose.choice(list(model.alive)))
        elif self.happens(kinds.control * 5):
            self.control()
        elif model.flying and self.happens(kinds.resend * 5):
            model.send_again(self.choose.choice(model.flying))

    def drain(self) -> None:
        """Nobody comes any more; Triton answers, and time goes on."""
        for model in self.models:
            model.unwritten, model.at_once = 0, None
        self.settle()
        for _ in range(20 * sum(len(model.asked) for model in self.models) + 20):
            wake_at = min(model.wake_at for model in self.models)
            flying = [(model, sent) for model in self.models for sent in model.flying]
            if flying and self.happens(0.7):
                self.model, sent = self.choose.choice(flying)
                self.answer(sent)
            elif wake_at < inf:
                self.pass_time(wake_at)
            elif not flying:
                break
            self.settle()
            for model in self.models:
                model.check()
        for model in self.models:
            model.check_end()

    def pass_time(self, until: float) -> None:
        for model in self.models:
            model.now = max(model.now, until)

    def maybe_arrive(self) -> None:
        if self.happens(self.kinds.at_once):
            self.arrive()

    def arrive(self) -> None:
        kinds, pick = self.kinds, self.choose.choice
        rows = self.choose.randint(1, kinds.most_rows)
        sequence = (
            self.choose.randint(1, kinds.sequences) if kinds.sequences and self.happens(0.5) else 0
        )
        if sequence:
            rows = min(rows, kinds.max_batch)
        name = float(self.choose.randint(1, kinds.names))
        if self.happens(kinds.poison):
            name = -name
        values = tuple(name + 100 * i if name > 0 else name for i in range(rows))
        outputs = pick([(), ("y",), ("z", "y")]) if self.happens(kinds.some_outputs) else ()
        one = Asked(len(self.model.asked), values, outputs, sequence)
        headers = {"tidegate-priority": str(self.choose.randint(1, kinds.levels))}
        if self.happens(kinds.deadlines):
            headers["tidegate-deadline-ms"] = str(pick([0, 250, 1000, 2000, 5000]))
        parameters: dict[str, Any] = {
            "binary_data_output": True,
            "shape": self.choose.randint(1, kinds.shapes),
        }
        if self.happens(kinds.timeouts):
            parameters["timeout"] = pick([250_000, 1_000_000, 3_000_000])
        if sequence:
            parameters |= {
                "sequence_id": sequence,
                "sequence_start": self.happens(0.3),
                "sequence_end": self.happens(0.2),
            }
        version = self.choose.randint(1, kinds.versions) if self.happens(kinds.direct) else None
        body, length = _body(one, parameters)
        self.model.ask(one, body, length, headers=headers, version=version)

    def answer(self, sent: Sent) -> None:
        pick = self.choose.choice
        if not self.happens(self.kinds.failures):
            self.model.done(sent, sent.reply())
            return
        failures: list[Any] = [
            (500, None, b'{"error":"broken"}'),
            (503, None, b'{"error":"busy"}'),
            (404, None, b'{"error":"gone"}'),
            (400, None, b'{"error":"wrong"}'),
            (200, None, b"nonsense"),
            lost("lost"),
            unavailable("no connection"),
        ]
        self.model.done(sent, pick(failures))

    def control(self) -> None:
        model, pick = self.model, self.choose.choice
        version = self.choose.randint(1, self.kinds.versions)
        what = pick(["table", "table", "press", "scrape", "load", "unload"])
        if what == "table":
            self.change_table()
        elif what == "press":
            model.runtime.press(pick([1.0, 0.5, 0.1]), None)
        elif what == "scrape":
            model.runtime.look(model.now)
            model.runtime.live(model.now)
            model.runtime.describe(model.now)
        elif what == "load":
            self.load(version)
        elif version in model.runtime.ready:
            model.unload(version)

    def load(self, version: int) -> None:
        kinds = self.kinds
        info = self.make.version(
            version,
            max_batch_size=self.choose.choice(
                [kinds.max_batch, kinds.max_batch, 2 * kinds.max_batch]
            ),
            instances=kinds.instances,
            outputs=[Y, Z],
        )
        if self.model.runtime.ready.get(version) != info:
            self.model.load(info)

    def change_table(self) -> None:
        pick, kinds = self.choose.choice, self.kinds
        levels = tuple(
            Level(
                level=level,
                name=str(level),
                wait_multiplier=pick([1.0, 2.0]),
                max_queue=pick([1, 3]) if self.happens(kinds.most_queue) else None,
                max_slice=pick([0.1, 1.0]) if kinds.slices and level > 1 else None,
            )
            for level in range(1, kinds.levels + 1 + self.happens(0.2))
        )
        batch = BatchSettings(
            strategy=kinds.strategy,
            min_batch_size=pick([1, 1, 2]),
            max_batch_size=pick([None, 1, 2, 3, 6]),
            max_wait=pick([0.0, 0.5, 2.0]),
            target_latency=pick([None, None, 1.0]),
            memory_limit=pick([None, None, 100]),
            queue_max_size=pick([1, 3, 10, 1000]),
            on_full=pick(["Reject", "DropLowest"]),
            default_level=1,
            aging_after=1.0 if kinds.aging else 1e9,
            aging_reserve=pick([0.0, 0.05, 0.5]),
            levels=levels,
            deadline=None,
            early_drop=pick([True, False]),
            deduplication=Deduplication(ttl=pick([0.0, 2.0]), max_entries=pick([1, 100]))
            if kinds.equal and self.happens(0.9)
            else None,
        )
        canary = pick([0, 3_000, 10_000]) if kinds.versions > 1 else 0
        split = [("stable", 1, 10_000 - canary)] + [("canary", 2, canary)] * (kinds.versions > 1)
        self.model.runtime.apply(self.make.table(*split, batch=batch, checks=CHECKS))
        self.model.replan()


CHECKS = [
    ErrorCheck(id="errors", arms=["stable", "canary"]),
    SlowCheck(id="slow", bounds={"stable": 1.0, "canary": 2.0}, priorities=[1]),
]
Y, Z = (Tensor(name=name, datatype="FP32", shape=[2]) for name in OUTPUTS)


def _body(one: Asked, parameters: dict[str, Any]) -> tuple[bytes, int]:
    parts = [part for value in one.values for part in (value, 0.0)]
    data = struct.pack(f"<{len(parts)}f", *parts)
    tensor = {
        "name": "x",
        "datatype": "FP32",
        "shape": [len(one.values), 2],
        "parameters": {"binary_data_size": len(data)},
    }
    request: dict[str, Any] = {"id": str(one.number), "inputs": [tensor], "parameters": parameters}
    if one.outputs:
        request["outputs"] = [{"name": name} for name in one.outputs]
    header = json.dumps(request).encode()
    return header + data, len(header)


def test_everybody_has_one_right_end(make: Any) -> None:
    for seed in range(400):
        History(make, seed).run(60)
