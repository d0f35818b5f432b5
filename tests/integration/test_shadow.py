"""Shadow traffic before a real Triton: pairs are counted exactly, and no caller notices it.

Version 1 doubles what it is given. Version 2 does so too, but for what the value tells it to do.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import aiohttp
import pytest
from triton_server import PATIENCE, TritonServer, lay_out

from tidegate_contract.table import (
    Arm,
    DisagreementCheck,
    ErrorCheck,
    LoadedVersion,
    Mirror,
    RoutingTable,
    Share,
)
from tidegate_sidecar.core.pairs import to_json
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell.metrics import render
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.triton import Triton
from tidegate_tools.addresses import free_port

AGREE, CLOSE, DIFFER, RAISE, SHAPE, HANG = range(6)
VALUES = DisagreementCheck(id="values@1", tolerance=0.01)
ARGMAX = DisagreementCheck(id="argmax@1", tolerance=0.0, compare="Argmax", baseline=True)
ERRORS = ErrorCheck(id="errors@1", arms=["shadow"])

MODEL = f"""
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def initialize(self, args):
        self.canary = args["model_version"] == "2"
        self.released = Path(args["model_repository"]) / "released"

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        x = pb.get_input_tensor_by_name(request, "x").as_numpy()
        number = (2 * x).astype(np.int64)
        scores = np.tile(np.array([0.1, 0.7, 0.2], np.float32), (len(x), 1))
        text = np.array([[b"row"]] * len(x), np.object_)
        if self.canary:
            if (x == {RAISE}).any():
                return pb.InferenceResponse(error=pb.TritonError("the canary was told to raise"))
            while (x == {HANG}).any() and not self.released.exists():
                time.sleep(0.01)
            if (x == {SHAPE}).any():
                scores = scores[:, :2]
            scores = scores + np.where(x == {CLOSE}, 0.1, 0).astype(np.float32)
            number = number + (x == {DIFFER})
        half = scores.astype(np.float16)
        named = {{"number": number, "scores": scores, "text": text, "half": half}}
        return pb.InferenceResponse([pb.Tensor(name, value) for name, value in named.items()])
"""

CONFIG = """
backend: "python" max_batch_size: 16
input [{ name: "x" data_type: TYPE_FP32 dims: [1] }]
output [
  { name: "number" data_type: TYPE_INT64 dims: [1] },
  { name: "scores" data_type: TYPE_FP32 dims: [-1] },
  { name: "text" data_type: TYPE_STRING dims: [1] },
  { name: "half" data_type: TYPE_FP16 dims: [-1] }
]
version_policy: { all {} }
instance_group [{ count: 1 kind: KIND_CPU }]
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    models = tmp_path_factory.mktemp("shadow") / "models"
    lay_out(models, "m", MODEL, CONFIG, versions=(1, 2))
    with TritonServer.running(models) as made:
        yield made


class Sidecar:
    """The data plane of one pod, with a mirror on."""

    def __init__(self, server: TritonServer) -> None:
        self.runtime = ModelRuntime("m", "pod")
        self.plane = DataPlane({"m": self.runtime}, server.http)
        self.address = f"127.0.0.1:{free_port()}"
        self._server = server
        self.session: aiohttp.ClientSession

    async def start(self) -> None:
        host, _, port = self.address.rpartition(":")
        await self.plane.start(host, int(port))
        self.runtime.apply(table())
        self.runtime.mirror.pairs.wanted = True
        async with Triton(self._server.http) as client:
            for version in (1, 2):
                self.runtime.version_ready(await client.describe("m", version))
        self.session = aiohttp.ClientSession()

    async def ask(self, value: float, **fields: Any) -> dict[str, Any]:
        """One inference; the answer that its caller sees, which must be a good one of stable's."""
        x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        wanted = [{"name": name} for name in ("number", "scores", "text")]
        url = f"http://{self.address}/v2/models/m/infer"
        body = {"inputs": [x], "outputs": wanted} | fields
        async with self.session.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["tidegate-version"] == "1"
            assert answer.headers["tidegate-arm"] == "stable"
            read: dict[str, Any] = await answer.json(content_type=None)
            return read

    async def settle(self, pairs: int) -> dict[str, int]:
        """Wait until so many copies have come to an end; what they ended as."""
        async with asyncio.timeout(PATIENCE):
            while sum(self.mirrored.values()) < pairs:  # noqa: ASYNC110 - looks from outside
                await asyncio.sleep(0.01)
        return self.mirrored

    @property
    def mirrored(self) -> dict[str, int]:
        return {outcome: n for (_, outcome), n in self.runtime.counters.mirror.items()}

    def counted(self, check: str, arm: str = "shadow") -> tuple[int, int]:
        found = [
            (count.requests, count.bad)
            for series, count in self.runtime.counters.checks.items()
            if (series.check, series.arm) == (check, arm)
        ]
        return sum(one for one, _ in found), sum(one for _, one in found)

    @property
    def pairs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(to_json(self.runtime.mirror.pairs.kept, 0))[
            "pairs"
        ]
        return found


def table(revision: int = 1, *, mirror: int | None = 2) -> RoutingTable:
    return RoutingTable(
        namespace="default",
        model="m",
        revision=revision,
        split_revision=1,
        split=[Arm(name="stable", version=1, weight=10_000)],
        versions=[LoadedVersion(version=1), LoadedVersion(version=2)],
        mirror=Mirror(version=mirror, weight=10_000) if mirror else None,
        checks=[VALUES, ARGMAX, ERRORS],
        baseline=[Share(version=1, weight=10_000)],
    )


@pytest.fixture
async def sidecar(server: TritonServer) -> AsyncIterator[Sidecar]:
    await asyncio.to_thread(server.ensure)
    made = Sidecar(server)
    await made.start()
    yield made
    await made.session.close()
    await made.plane.drain(10)


@pytest.mark.parametrize("large", [False, True])
async def test_pairs_are_counted_exactly(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    if large:  # compared in a thread
        monkeypatch.setattr("tidegate_sidecar.shell.server._LARGE", 0)
    asked = [AGREE] * 5 + [CLOSE] * 4 + [DIFFER] * 3 + [SHAPE] * 2
    for value in asked:
        await sidecar.ask(value)
    assert await sidecar.settle(14) == {"agreed": 5, "disagreed": 9}
    assert sidecar.counted(VALUES.id) == (14, 9)
    assert sidecar.counted(ARGMAX.id) == (14, 5)  # scores that shift together have one argmax
    assert sidecar.counted(ERRORS.id) == (14, 0)
    told = {one["difference"].split(":")[0] for one in sidecar.pairs}
    assert told == {"output number", "output scores"}
    assert len(sidecar.pairs) == 9


async def test_a_broken_canary_is_seen_by_no_caller(sidecar: Sidecar) -> None:
    answers = await asyncio.gather(*(sidecar.ask(RAISE) for _ in range(20)))
    assert all(one["outputs"][0]["data"] == [2 * RAISE] for one in answers)
    assert await sidecar.settle(20) == {"failed": 20}
    assert sidecar.counted(VALUES.id) == sidecar.counted(ERRORS.id) == (20, 20)
    assert "told to raise" in sidecar.pairs[0]["canary"]["error"]
    assert sidecar.counted(ARGMAX.id, "stable")[1] == 0


async def test_binary_and_json_answers_and_labels_are_compared_alike(sidecar: Sidecar) -> None:
    def wanted(name: str, **parameters: Any) -> Any:
        return [{"name": name, "parameters": parameters}]

    forms = [
        wanted("scores", binary_data=False),
        wanted("text", binary_data=False),
        wanted("scores", binary_data=False, classification=2),
    ]
    for outputs in forms:
        await sidecar.ask(CLOSE, outputs=outputs)
    # By their values the scores differ; the text does not, and the classes do not.
    assert await sidecar.settle(3) == {"agreed": 2, "disagreed": 1}


async def test_halves_are_compared(sidecar: Sidecar) -> None:
    url = f"http://{sidecar.address}/v2/models/m/infer"
    for value in (AGREE, CLOSE):
        x = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}
        outputs = [{"name": "half", "parameters": {"binary_data": True}}]
        async with sidecar.session.post(url, json={"inputs": [x], "outputs": outputs}) as answer:
            assert answer.status == 200
    assert await sidecar.settle(2) == {"agreed": 1, "disagreed": 1}
    assert sidecar.counted(VALUES.id) == (2, 1)


async def test_under_load_every_copy_is_a_pair_or_dropped_and_callers_get_their_answers(
    sidecar: Sidecar,
) -> None:
    async def caller(seed: int) -> None:
        for i in range(25):
            value = (seed * 25 + i) % 3
            answer = await sidecar.ask(value)
            assert answer["outputs"][0]["data"] == [2 * value]

    await asyncio.gather(*(caller(seed) for seed in range(20)))
    await sidecar.settle(500)
    counts = sidecar.mirrored
    assert sum(counts.values()) == 500
    pairs = counts["agreed"] + counts["disagreed"]
    assert sidecar.counted(VALUES.id) == (pairs, counts["disagreed"])
    text = render({"m": sidecar.runtime}).decode()
    assert 'tidegate_mirror_total{model="m",outcome="agreed",version="2"}' in text.replace(
        ',arm="shadow"', ""
    ).replace('arm="shadow",', "")


async def test_a_mirror_that_ends_under_load(sidecar: Sidecar) -> None:
    done = asyncio.Event()

    async def caller() -> None:
        while not done.is_set():
            await sidecar.ask(AGREE)

    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await sidecar.settle(20)
    sidecar.runtime.apply(table(2, mirror=None))
    await until(lambda: not sidecar.runtime.in_use(2, 0.0))
    ended = sidecar.mirrored
    sidecar.runtime.version_gone(2)
    await asyncio.gather(*(sidecar.ask(AGREE) for _ in range(20)))
    assert sidecar.mirrored == ended
    sidecar.runtime.apply(table(3))
    await sidecar.settle(sum(ended.values()) + 5)  # dropped: the version is not ready
    assert sidecar.mirrored["dropped"] >= ended.get("dropped", 0) + 5
    done.set()
    await asyncio.gather(*callers)


async def test_callers_are_answered_while_the_canary_hangs(
    sidecar: Sidecar, server: TritonServer
) -> None:
    for value in [HANG] + [AGREE] * 30:
        await sidecar.ask(value)
    assert sidecar.mirrored == {}
    (server.models / "m" / "released").touch()
    assert await sidecar.settle(31) == {"agreed": 31}


async def test_a_triton_that_dies_with_a_copy_in_flight(
    sidecar: Sidecar, server: TritonServer
) -> None:
    (server.models / "m" / "released").unlink(missing_ok=True)
    await sidecar.ask(HANG)
    await until(lambda: sidecar.runtime.in_use(2, 0.0))
    server.kill()
    assert await sidecar.settle(1) == {"failed": 1}
    await asyncio.to_thread(server.ensure)
    await sidecar.ask(AGREE)
    assert await sidecar.settle(2) == {"failed": 1, "agreed": 1}
    assert sidecar.counted(ERRORS.id) == (2, 1)


async def test_a_drain_waits_for_no_copy(sidecar: Sidecar) -> None:
    for _ in range(50):
        await sidecar.ask(AGREE)
    before = sum(sidecar.mirrored.values())
    await sidecar.plane.drain(10)
    assert sum(sidecar.mirrored.values()) == 50 or before < 50
    assert not sidecar.runtime._batcher.shadows


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)
