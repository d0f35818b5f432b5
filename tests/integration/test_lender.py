"""Large tensors in memory shared with a real Triton: the same answers as Triton's own, bit by bit.

Whatever becomes of the memory: not seen by Triton, full, forgotten in a restart, held by a request
whose client has gone, or too small for what the model answers.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from test_data_plane import MODEL_SOURCE, SLEEP, config, table, values
from triton_server import PATIENCE, TYPES, TritonServer, lay_out
from tritonclient.http.aio import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from tidegate_sidecar.core.exchange import Place
from tidegate_sidecar.core.runtime import ModelRuntime
from tidegate_sidecar.shell import lender as module
from tidegate_sidecar.shell.arena import Arena
from tidegate_sidecar.shell.lender import Lender, Loan
from tidegate_sidecar.shell.server import DataPlane
from tidegate_sidecar.shell.triton import Triton
from tidegate_tools.addresses import free_port

MODELS = ("told", "open", "liar")
ROW = (150_000, 2)
"""300 KB of a row even where an element has one byte."""
SOURCE = MODEL_SOURCE.replace("time.sleep(30)", "time.sleep(1)")
TOLD = config(16).replace("[-1, 2]", "[150000, 2]")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    models = tmp_path_factory.mktemp("lender") / "models"
    lay_out(models, "told", SOURCE, TOLD)
    lay_out(models, "open", SOURCE, config(16))
    longer = SOURCE.replace("tensor.name()[1:], values", "tensor.name()[1:], values.repeat(2, 1)")
    lay_out(models, "liar", longer, TOLD)
    with TritonServer.running(models) as made:
        yield made


class Watched(Lender):
    """Remembers what it lent: whether to a batch's inputs, and to its outputs."""

    def __init__(self, size: int, address: str) -> None:
        super().__init__(size, address)
        self.lent = [(False, False)]

    def lend(self, given: int, sizes: Mapping[str, int]) -> Loan | None:
        loan = super().lend(given, sizes)
        place = loan.place if loan else Place("", None, None, {})
        self.lent.append((place.inputs is not None, place.outputs is not None))
        return loan


class Sidecar:
    """The data plane with an arena of some size."""

    def __init__(self, server: TritonServer, mebibytes: int = 32) -> None:
        self.server = server
        self.lender = Watched(mebibytes * 2**20, server.http)
        self.runtimes = {name: ModelRuntime(name, "pod") for name in MODELS}
        self.plane = DataPlane(self.runtimes, server.http, lender=self.lender)
        self.http = f"127.0.0.1:{free_port()}"

    async def __aenter__(self) -> Self:
        self.server.ensure()
        self.triton = Triton(self.server.http)
        await self.plane.start("127.0.0.1", int(self.http.rpartition(":")[2]))
        for name, runtime in self.runtimes.items():
            runtime.apply(table(name))
            runtime.version_ready(await self.triton.describe(name, 1))
        self._loop = asyncio.create_task(self.lender.run(self.triton))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.plane.drain(10)
        self._loop.cancel()
        await self.lender.close(self.triton)
        await self.triton.__aexit__()

    async def wanted(self) -> None:
        """Have it opened."""
        assert await answers(self.http, "told", FIRST)
        await until(lambda: self.lender.lends)

    async def equal(self, model: str, given: dict[str, Any], classes: int = 0) -> None:
        """Hold an answer to Triton's own."""
        ours, theirs = await asyncio.gather(
            answers(self.http, model, given, classes),
            answers(self.server.http, model, given, classes),
        )
        assert ours == theirs


@pytest.fixture
async def sidecar(server: TritonServer) -> AsyncIterator[Sidecar]:
    async with Sidecar(server) as made:
        await made.wanted()
        yield made


def some(datatype: str, rows: int = 1, seed: int = 0) -> Any:
    return values(datatype, (rows, *ROW), seed)


FIRST = {"FP32": some("FP32")}


async def answers(address: str, model: str, given: dict[str, Any], classes: int = 0) -> list[Any]:
    """Type, shape and bits of every output."""
    inputs = []
    for datatype, array in given.items():
        one = InferInput(f"x_{datatype}", list(array.shape), datatype)
        inputs.append(one.set_data_from_numpy(array))
    outputs = [InferRequestedOutput(f"y_{datatype}", class_count=classes) for datatype in given]
    async with InferenceServerClient(address) as client:
        answer = await client.infer(model, inputs, outputs=outputs)
    found = [answer.as_numpy(f"y_{datatype}") for datatype in given]
    return [
        (one.dtype, one.shape, one.tolist() if one.dtype == np.object_ else one.tobytes())
        for one in found
    ]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - looks from outside
            await asyncio.sleep(0.01)


async def test_every_type_comes_back_bit_by_bit(sidecar: Sidecar) -> None:
    for datatype in TYPES:
        if datatype != "BYTES":
            await sidecar.equal("told", {datatype: some(datatype)})
            assert sidecar.lender.lent[-1] == (True, True), datatype
    await sidecar.equal("told", {name: some(name, 2, 1) for name in ("UINT8", "INT64", "BOOL")})
    assert sidecar.lender.lent[-1] == (True, True)


async def test_texts_and_what_is_small_go_over_http(sidecar: Sidecar) -> None:
    texts = np.full((1, *ROW), b"text", np.object_)
    for model, given in (
        ("told", {"BYTES": texts, "INT8": some("INT8")}),
        ("open", {"INT32": np.arange(8, dtype=np.int32).reshape(1, 4, 2)}),
    ):
        await sidecar.equal(model, given)
        assert sidecar.lender.lent[-1] == (False, False)


async def test_outputs_of_unknown_size_go_over_http(sidecar: Sidecar) -> None:
    await sidecar.equal("open", {"FP32": some("FP32", 2)})
    assert sidecar.lender.lent[-1] == (True, False)
    await sidecar.equal("told", FIRST, classes=2)  # labels
    assert sidecar.lender.lent[-1] == (True, False)


async def test_requests_of_one_batch_get_their_own_rows(
    sidecar: Sidecar, server: TritonServer
) -> None:
    given = [{"INT8": some("INT8", rows, rows), "FP16": some("FP16", rows)} for rows in (1, 3, 2)]
    before = server.executions("told")
    sidecar.plane._set_held(held=True)
    asked = [asyncio.create_task(answers(sidecar.http, "told", one)) for one in given]
    await until(lambda: sidecar.runtimes["told"].waiting == len(given))
    sidecar.plane._set_held(held=False)
    ours = await asyncio.gather(*asked)
    assert server.executions("told") == before + 1
    assert sidecar.lender.lent[-1] == (True, True)
    for one, found in zip(given, ours, strict=True):
        assert found == await answers(server.http, "told", one)


async def test_a_model_that_answers_more_than_it_told(sidecar: Sidecar) -> None:
    for there in (True, False):
        await sidecar.equal("liar", FIRST)
        assert sidecar.lender.lent[-1] == (True, there)


async def test_memory_comes_back_when_a_client_has_gone(sidecar: Sidecar) -> None:
    arena = sidecar.lender._arena
    assert arena
    slow = some("INT32")
    slow[0, 0, 0] = SLEEP
    asked = asyncio.create_task(answers(sidecar.http, "told", {"INT32": slow}))
    before = len(sidecar.lender.lent)
    await until(lambda: len(sidecar.lender.lent) > before)
    asked.cancel()
    await asyncio.gather(*(sidecar.equal("told", {"FP64": some("FP64", 1, i)}) for i in range(4)))
    # All of it in one piece: nothing is left out.
    await until(lambda: arena.lend(arena.size) is not None)


async def test_what_finds_no_room_goes_over_http(server: TritonServer) -> None:
    async with Sidecar(server, mebibytes=2) as sidecar:
        await sidecar.wanted()
        given = [{"INT8": some("INT8", 1 + i % 3, i)} for i in range(12)]
        await asyncio.gather(*(sidecar.equal("told", one) for one in given))
        assert (False, False) in sidecar.lender.lent[2:]
        await sidecar.equal("told", {"FP64": some("FP64")})  # 2.4 MB
        assert sidecar.lender.lent[-1] == (False, False)


async def test_a_triton_that_sees_no_such_memory(
    server: TritonServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "Arena", partial(Arena, directory=tmp_path))
    with caplog.at_level(logging.INFO, module.__name__):
        async with Sidecar(server) as sidecar:
            await sidecar.equal("told", FIRST)
            await until(lambda: caplog.messages)
            await sidecar.equal("told", FIRST)
            assert not sidecar.lender.lends
    assert len(caplog.messages) == 1
    assert "over HTTP: Unable to open shared memory region" in caplog.text
    assert await asyncio.to_thread(os.listdir, tmp_path) == []


async def test_a_triton_that_was_started_again(sidecar: Sidecar, server: TritonServer) -> None:
    first = sidecar.lender._arena
    server.kill()
    server.ensure()
    await sidecar.equal("told", FIRST)  # its region is unknown now
    await sidecar.wanted()
    assert sidecar.lender._arena is not first
    await sidecar.equal("told", FIRST)
    assert sidecar.lender.lent[-1] == (True, True)


async def test_what_was_under_way_when_triton_was_killed(
    sidecar: Sidecar, server: TritonServer
) -> None:
    arena = sidecar.lender._arena
    assert arena
    slow = some("INT32")
    slow[0, 0, 0] = SLEEP
    before = len(sidecar.lender.lent)
    asked = asyncio.create_task(answers(sidecar.http, "told", {"INT32": slow}))
    await until(lambda: len(sidecar.lender.lent) > before)
    server.kill()
    with pytest.raises(InferenceServerException):
        await asked
    assert arena.retired
    assert arena.lend(arena.size) is None  # what Triton had is nobody's
    server.ensure()
    await sidecar.wanted()
    await sidecar.equal("told", FIRST)


async def test_nothing_is_left(server: TritonServer) -> None:
    """Neither a file, nor memory that Triton has mapped; what a killed one has left goes too."""
    left = Arena(f"tidegate-{server.http.replace(':', '-')}-", 2**20)
    async with Triton(server.http) as triton:
        await triton.register(left.name, left.size)
        async with Sidecar(server) as sidecar:
            await sidecar.wanted()
            assert len(await triton.regions()) == 1
            assert not left._path.exists()
            assert sidecar.lender._arena
            assert not sidecar.lender._arena._path.exists()
        assert not await triton.regions()
