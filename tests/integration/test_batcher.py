"""The batcher before a real Triton: slices, equal requests, errors sent again, deadlines, policies.

One model gives back what it is given, in every type. It raises where it is told to, and waits as
long as the test holds it, so that everything that follows meets in the queue.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import aiohttp
import numpy as np
import pytest
from triton_server import BINARY_ONLY, PATIENCE, TYPES, TritonServer, lay_out
from tritonclient.http.aio import InferenceServerClient, InferInput, InferRequestedOutput

from tidegate_contract import names
from tidegate_contract.table import (
    Arm,
    BatchSettings,
    Deduplication,
    LoadedVersion,
    RoutingTable,
    Share,
)
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.triton import Triton
from tidegate_tools.addresses import free_port

RAISE, REFUSE, HOLD = -1, -2, -3
MOST = 32
"""Rows that the model takes at once."""

MODEL_SOURCE = f"""
import time
from pathlib import Path

import triton_python_backend_utils as pb

GATE = Path(__file__).parents[2] / "held"


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        outputs = []
        for tensor in request.inputs():
            if tensor.name() == "x_BF16":  # numpy has no such type
                outputs.append(pb.Tensor.from_dlpack("y_BF16", tensor.to_dlpack()))
                continue
            values = tensor.as_numpy()
            if tensor.name() == "x_INT32":
                while (values == {HOLD}).any() and GATE.exists():
                    time.sleep(0.005)
                for mark, code in (({RAISE}, "INTERNAL"), ({REFUSE}, "INVALID_ARG")):
                    if (values == mark).any():
                        time.sleep(0.02)  # so that work, not noise, uses up a budget of time
                        code = getattr(pb.TritonError, code)
                        return pb.InferenceResponse(error=pb.TritonError("told to", code))
            outputs.append(pb.Tensor("y" + tensor.name()[1:], values))
        return pb.InferenceResponse(outputs)
"""


def config(extra: str) -> str:
    def tensors(letter: str, *fields: str) -> str:
        return ",".join(
            f'{{ name: "{letter}_{name}" '
            f"data_type: TYPE_{'STRING' if name == 'BYTES' else name} "
            f"dims: [-1] {' '.join(fields)} }}"
            for name in TYPES
        )

    return (
        f'backend: "python" max_batch_size: {MOST} '
        f"input [{tensors('x', 'optional: true')}] output [{tensors('y')}] "
        f"instance_group [{{ count: 1 kind: KIND_CPU }}] {extra}"
    )


MODELS = {
    "echo": "",
    "dice": 'parameters { key: "tidegate.deterministic" value { string_value: "false" } }',
    "steps": "sequence_batching { }",
}


class Server(TritonServer):
    """A real Triton with the models, which may be held."""

    def hold(self) -> None:
        """Let whatever carries the mark wait."""
        (self.models / "held").touch()

    def release(self) -> None:
        (self.models / "held").unlink(missing_ok=True)

    def work(self, model: str) -> tuple[int, int]:
        """Rows that the model has answered well so far, and batches, those that failed included."""
        stats = self.statistics(model)
        failed = int(stats["inference_stats"]["fail"]["count"])
        return int(stats["inference_count"]), int(stats["execution_count"]) + failed


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("batcher") / "models"
    for name, extra in MODELS.items():
        lay_out(models, name, MODEL_SOURCE, config(extra))
    with Server.running(models) as made:
        yield made


class Sidecar:
    """The data plane of one pod with all models."""

    def __init__(self, server: Server) -> None:
        self.runtimes = {name: ModelRuntime(name, "pod") for name in MODELS}
        self.plane = DataPlane(self.runtimes, server.http)
        self.address = f"127.0.0.1:{free_port()}"
        self._server = server
        self._revision = 0

    async def start(self) -> None:
        host, _, port = self.address.rpartition(":")
        await self.plane.start(host, int(port))
        async with Triton(self._server.http) as client:
            for name, runtime in self.runtimes.items():
                self.policy(name)
                runtime.version_ready(await client.describe(name, 1))

    def policy(self, model: str, **settings: Any) -> None:
        """Apply batch settings, as a new table."""
        self._revision += 1
        self.runtimes[model].apply(
            RoutingTable(
                namespace="default",
                model=model,
                revision=self._revision,
                split_revision=1,
                split=[Arm(name="stable", version=1, weight=10_000)],
                versions=[LoadedVersion(version=1)],
                batch=BatchSettings(**settings),
                baseline=[Share(version=1, weight=10_000)],
            )
        )
        self.plane.table_changed(model)

    def outcomes(self, model: str = "echo") -> dict[str, int]:
        found: dict[str, int] = {}
        for tally in self.runtimes[model].counters.tallies.values():
            for outcome, count in tally.outcomes.items():
                found[outcome] = found.get(outcome, 0) + count
        return found

    def waiting(self, model: str = "echo") -> int:
        """Callers whose requests are not at Triton."""
        runtime = self.runtimes[model]
        return runtime.waiting

    def in_flight(self, model: str = "echo") -> int:
        return sum(tally.in_flight for tally in self.runtimes[model].counters.tallies.values())

    def callers(self, model: str = "echo") -> int:
        """Who waits for an answer that stands for several."""
        return len(self.runtimes[model].deduplicator.waiting)


@pytest.fixture
async def sidecar(server: Server) -> AsyncIterator[Sidecar]:
    made = Sidecar(server)
    await made.start()
    yield made
    server.release()
    await made.plane.drain(10)


@pytest.fixture
async def session(sidecar: Sidecar) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(f"http://{sidecar.address}", connector=connector) as made:
        yield made


@pytest.fixture
async def through(sidecar: Sidecar) -> AsyncIterator[InferenceServerClient]:
    client = InferenceServerClient(sidecar.address)
    yield client
    await client.close()


@pytest.fixture
async def directly(server: Server) -> AsyncIterator[InferenceServerClient]:
    client = InferenceServerClient(server.http)
    yield client
    await client.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)


def values(datatype: str, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Any values of a type; of the numbers also the extreme ones, but none of the marks."""
    draw = random.Random(seed)
    count = int(np.prod(shape))
    if datatype == "BYTES":
        words = ["", "a", "grüße", "\0", "x" * 300]
        flat: list[Any] = [draw.choice(words).encode() for _ in range(count)]
        return np.array(flat, np.object_).reshape(shape)
    if datatype == "BOOL":
        return np.array([draw.random() < 0.5 for _ in range(count)]).reshape(shape)
    raw = draw.randbytes(count * np.dtype(TYPES[datatype]).itemsize)
    made = np.frombuffer(raw, TYPES[datatype]).reshape(shape).copy()
    return np.nan_to_num(made) if datatype.startswith("FP") else made


async def ask(
    client: InferenceServerClient,
    given: dict[str, Any],
    *,
    binary: bool = True,
    classes: int = 0,
) -> dict[str, Any]:
    """One inference; its outputs by type."""
    inputs = []
    for datatype, array in given.items():
        one = InferInput(f"x_{datatype}", list(array.shape), datatype)
        one.set_data_from_numpy(array, binary_data=binary)
        inputs.append(one)
    outputs = [
        InferRequestedOutput(f"y_{datatype}", binary_data=binary, class_count=classes)
        for datatype in given
    ]
    answer = await client.infer("echo", inputs, outputs=outputs)
    return {name: answer.as_numpy(f"y_{name}") for name in given}


def same(got: Any, sent: Any) -> bool:
    """Equal bit for bit; what came as JSON is text where bytes were sent."""
    if sent.dtype != np.object_:
        return bool(got.shape == sent.shape and got.tobytes() == sent.tobytes())
    flat = [one.encode() if isinstance(one, str) else one for one in got.ravel().tolist()]
    return bool(got.shape == sent.shape and flat == sent.ravel().tolist())


Reply = tuple[int, dict[str, str], Any]


async def post(
    session: aiohttp.ClientSession,
    *numbers: int,
    model: str = "echo",
    rows: int = 1,
    headers: dict[str, str] | None = None,
    outputs: list[Any] | None = None,
    **fields: Any,
) -> Reply:
    """Ask by JSON for some numbers: status, headers, and what the JSON or the bytes say."""
    tensor = {
        "name": "x_INT32",
        "datatype": "INT32",
        "shape": [rows, len(numbers) // rows],
        "data": numbers,
    }
    body: dict[str, Any] = {"inputs": [tensor]} | fields
    if outputs is not None:
        body["outputs"] = outputs
    url = f"/v2/models/{model}/infer"
    async with session.post(url, json=body, headers=headers) as answer:
        raw = await answer.read()
        length = int(answer.headers.get("Inference-Header-Content-Length", len(raw)))
        return answer.status, dict(answer.headers), (json.loads(raw[:length]), raw[length:])


def numbers_of(reply: Reply) -> list[int]:
    """What a reply gives for y_INT32, in whatever form."""
    status, _, (shown, blob) = reply
    assert status == 200, reply
    (output,) = shown["outputs"]
    return list(output["data"] if "data" in output else np.frombuffer(blob, np.int32).tolist())


@asynccontextmanager
async def held(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession, model: str = "echo"
) -> AsyncIterator[None]:
    """While it lasts, the model works on one request, and all others meet in the queue."""
    server.hold()
    blocker = asyncio.create_task(post(session, HOLD, model=model))
    await until(lambda: sidecar.in_flight(model) == 1)
    yield
    server.release()
    assert (await blocker)[0] == 200


# Slices


@pytest.mark.parametrize("binary", [True, False])
async def test_slices_equal_the_whole_in_every_type(
    through: InferenceServerClient, server: Server, binary: bool
) -> None:
    rows = 3 * MOST + 5
    _, before = server.work("echo")
    given = {
        name: values(name, (rows, 3), i)
        for i, name in enumerate(TYPES)
        if binary or name not in BINARY_ONLY
    }
    answer = await ask(through, given, binary=binary)
    assert all(same(answer[name], array) for name, array in given.items())
    assert server.work("echo")[1] - before == 4


async def test_labels_of_slices_equal_those_of_parts(
    through: InferenceServerClient, directly: InferenceServerClient
) -> None:
    array = values("FP32", (2 * MOST + 3, 4))
    whole = await ask(through, {"FP32": array}, classes=2)
    parts = [
        (await ask(directly, {"FP32": array[i : i + MOST]}, classes=2))["FP32"]
        for i in range(0, len(array), MOST)
    ]
    assert same(whole["FP32"], np.concatenate(parts))


async def test_small_and_sliced_requests_side_by_side(through: InferenceServerClient) -> None:
    async def one(seed: int) -> None:
        draw = random.Random(seed)
        for i in range(6):
            shape = (draw.choice((1, 2, MOST, MOST + 1, 5 * MOST)), draw.randint(1, 2))
            kinds = draw.choice((["BYTES"], ["FP64"], ["BYTES", "FP64"]))
            given = {name: values(name, shape, seed * 100 + i) for name in kinds}
            answer = await ask(through, given, binary=draw.random() < 0.5)
            assert all(same(answer[name], array) for name, array in given.items())

    await asyncio.gather(*(one(seed) for seed in range(12)))


async def test_a_slice_that_fails_fails_the_request_once_and_the_rest_is_not_sent(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    numbers = [*range(4 * MOST)]
    numbers[MOST + 1] = RAISE
    _, before = server.work("echo")
    status, _, (shown, _) = await post(session, *numbers, rows=len(numbers))
    assert (status, shown) == (500, {"error": "told to"})
    assert sidecar.outcomes() == {"server_error": 1}
    assert numbers_of(await post(session, 7)) == [7]
    assert server.work("echo")[1] - before == 3


# Equal requests


async def test_equal_requests_are_run_once_and_answered_each_in_its_own_form(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    sidecar.policy("echo", deduplication=Deduplication(ttl=0.0))
    rows, batches = server.work("echo")
    binary = [{"name": "y_INT32", "parameters": {"binary_data": True}}]
    forms: list[dict[str, Any]] = [
        {"id": "a"},
        {"id": "b", "outputs": binary},
        {"parameters": {"binary_data_output": True, "priority": 1}},
        {"parameters": {"timeout": 10**9}, "outputs": [{"name": "y_INT32"}]},
    ]
    async with held(sidecar, server, session):
        asked = [asyncio.create_task(post(session, 1, 2, **form)) for form in forms * 5]
        other = asyncio.create_task(post(session, 1, 3))
        await until(lambda: sidecar.callers() == 22)
        assert sidecar.waiting() == 2
    replies = await asyncio.gather(*asked)
    assert [numbers_of(reply) for reply in replies] == [[1, 2]] * 20
    assert numbers_of(await other) == [1, 3]
    for form, (_, headers, (shown, blob)) in zip(forms * 5, replies, strict=True):
        assert shown.get("id") == form.get("id")
        in_bytes = "outputs" in form and form["outputs"] is binary
        assert bool(blob) == (in_bytes or "binary_data_output" in form.get("parameters", {}))
        assert headers[names.HEADER_ARM] == "stable"
    # The blocker, and two rows in one batch or in two.
    assert server.work("echo")[0] - rows == 3
    assert server.work("echo")[1] - batches <= 3
    assert sidecar.outcomes() == {"ok": 22}
    assert sidecar.callers() == 0


async def test_the_outputs_that_any_of_them_wants_are_asked(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    sidecar.policy("echo", deduplication=Deduplication(ttl=0.0))
    body = {
        "inputs": [
            {"name": f"x_{name}", "datatype": name, "shape": [1, 1], "data": [5]}
            for name in ("INT8", "INT16")
        ]
    }
    wanted = [["y_INT8"], ["y_INT16"], ["y_INT16", "y_INT8"]]
    rows, _ = server.work("echo")

    async def one(outputs: list[str]) -> Any:
        asked = body | {"outputs": [{"name": name} for name in outputs]}
        async with session.post("/v2/models/echo/infer", json=asked) as answer:
            return await answer.json()

    async with held(sidecar, server, session):
        tasks = [asyncio.create_task(one(outputs)) for outputs in wanted]
        await until(lambda: sidecar.callers() == 4)
    for outputs, task in zip(wanted, tasks, strict=True):
        assert [one["name"] for one in (await task)["outputs"]] == outputs
    assert server.work("echo")[0] - rows == 2


async def test_answers_are_kept_until_the_version_is_loaded_anew(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    sidecar.policy("echo", deduplication=Deduplication(ttl=3600.0))
    runtime = sidecar.runtimes["echo"]
    info = runtime.ready[1]
    rows, _ = server.work("echo")
    for i in range(3):
        reply = await post(session, 1, id=str(i))
        assert numbers_of(reply) == [1]
        assert reply[2][0]["id"] == str(i)
        assert reply[1][names.HEADER_VERSION] == "1"
    assert server.work("echo")[0] - rows == 1
    runtime.version_gone(1)
    runtime.version_ready(info)
    sidecar.plane.table_changed("echo")
    assert numbers_of(await post(session, 1)) == [1]
    assert server.work("echo")[0] - rows == 2
    assert sidecar.outcomes() == {"ok": 4}


async def test_errors_are_everybodys_and_not_kept(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    sidecar.policy("echo", deduplication=Deduplication())
    _, batches = server.work("echo")
    async with held(sidecar, server, session):
        asked = [asyncio.create_task(post(session, RAISE)) for _ in range(3)]
        await until(lambda: sidecar.callers() == 4)
    assert [reply[0] for reply in await asyncio.gather(*asked)] == [500] * 3
    assert (await post(session, RAISE))[0] == 500
    assert server.work("echo")[1] - batches == 3
    assert sidecar.outcomes() == {"ok": 1, "server_error": 4}


async def test_what_is_not_deterministic_is_never_shared(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    sidecar.policy("dice", deduplication=Deduplication())
    rows, _ = server.work("dice")
    async with held(sidecar, server, session, "dice"):
        asked = [asyncio.create_task(post(session, 1, model="dice")) for _ in range(5)]
        await until(lambda: sidecar.waiting("dice") == 5)
    assert [numbers_of(reply) for reply in await asyncio.gather(*asked)] == [[1]] * 5
    assert numbers_of(await post(session, 1, model="dice")) == [1]
    assert server.work("dice")[0] - rows == 7


async def test_what_triton_says_of_its_models(sidecar: Sidecar) -> None:
    said = {name: runtime.ready[1] for name, runtime in sidecar.runtimes.items()}
    assert {name: (one.stateful, one.deterministic) for name, one in said.items()} == {
        "echo": (False, True),
        "dice": (False, False),
        "steps": (True, True),
    }


async def test_who_leaves_or_is_late_costs_the_others_nothing(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    sidecar.policy("echo", deduplication=Deduplication(ttl=0.0))
    rows, _ = server.work("echo")
    async with held(sidecar, server, session):
        first = asyncio.create_task(post(session, 1))
        await until(lambda: sidecar.callers() == 2)
        second = asyncio.create_task(post(session, 1))
        await until(lambda: sidecar.callers() == 3)
        late = await post(session, 1, parameters={"timeout": 20_000})
        assert late[0] == 504
        first.cancel()
        await until(lambda: sidecar.callers() == 2)
        only = asyncio.create_task(post(session, 2))
        await until(lambda: sidecar.callers() == 3)
        only.cancel()
        await until(lambda: sidecar.callers() == 2)
    assert numbers_of(await second) == [1]
    assert server.work("echo")[0] - rows == 2
    assert sidecar.outcomes() == {"ok": 2, "expired": 1, "cancelled": 2}


# Errors


@pytest.mark.parametrize(("mark", "status"), [(RAISE, 500), (REFUSE, 400)])
async def test_one_poisoned_of_32_fails_alone(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession, mark: int, status: int
) -> None:
    async with held(sidecar, server, session):
        asked = [asyncio.create_task(post(session, mark if i == 21 else i)) for i in range(MOST)]
        await until(lambda: sidecar.waiting() == MOST)
    replies = await asyncio.gather(*asked)
    bad = replies.pop(21)
    assert (bad[0], bad[2][0]) == (status, {"error": "told to"})
    assert [numbers_of(reply) for reply in replies] == [[i] for i in range(MOST) if i != 21]
    failed = "server_error" if status == 500 else "client_error"
    assert sidecar.outcomes() == {"ok": MOST, failed: 1}
    assert sidecar.in_flight() == 0
    retried = sidecar.runtimes["echo"].counters.retries
    assert retried == {(1, "answered"): 5, (1, "failed"): 5}


async def test_a_version_that_fails_everything_is_not_asked_for_ever(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession
) -> None:
    # They meet by waiting for a full batch: the time of one that is held would add to the budget.
    sidecar.policy("echo", strategy="Fixed", max_wait=2 * PATIENCE, deadline=None)
    _, before = server.work("echo")
    asked = [asyncio.create_task(post(session, RAISE)) for _ in range(MOST)]
    assert {reply[0] for reply in await asyncio.gather(*asked)} == {500}
    assert server.work("echo")[1] - before < MOST
    assert sidecar.runtimes["echo"].counters.retries[1, "denied"]


# Deadlines and policies


@pytest.mark.parametrize(
    "fields",
    [{"parameters": {"timeout": 20_000}}, {"headers": {names.HEADER_DEADLINE: "20"}}],
)
async def test_who_is_too_late_costs_triton_nothing(
    sidecar: Sidecar, server: Server, session: aiohttp.ClientSession, fields: dict[str, Any]
) -> None:
    rows, _ = server.work("echo")
    async with held(sidecar, server, session):
        status, _, (shown, _) = await post(session, 1, **fields)
        assert status == 504
        assert "Request timeout expired" in shown["error"]
    assert numbers_of(await post(session, 2)) == [2]
    assert server.work("echo")[0] - rows == 2
    assert sidecar.outcomes() == {"ok": 2, "expired": 1}


async def test_policies_change_live_without_a_lost_request(
    sidecar: Sidecar, session: aiohttp.ClientSession
) -> None:
    done = 0
    stop = asyncio.Event()

    async def client(seed: int) -> None:
        nonlocal done
        draw = random.Random(seed)
        while not stop.is_set():
            rows = draw.choice((1, 1, 1, 2, MOST + 3))
            numbers = [draw.randrange(3)] * rows
            assert numbers_of(await post(session, *numbers, rows=rows)) == numbers
            done += 1

    def reached(least: int) -> bool:
        return done >= least or any(one.done() for one in clients)

    clients = [asyncio.create_task(client(seed)) for seed in range(16)]
    draw = random.Random(0)
    for change in range(40):
        sidecar.policy(
            "echo",
            strategy=draw.choice(("Adaptive", "Fixed")),
            max_batch_size=draw.choice((None, 1, 5, MOST)),
            max_wait=draw.choice((0.0, 0.002, 0.02)),
            deduplication=draw.choice((None, Deduplication(ttl=0.0), Deduplication(ttl=0.05))),
        )
        await until(partial(reached, 10 * (change + 1)))
    stop.set()
    await asyncio.gather(*clients)
    assert sidecar.outcomes() == {"ok": done}
