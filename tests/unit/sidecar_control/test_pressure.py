"""How full memory is: from Triton's metrics page, and from the cgroup of Triton's container."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tidegate_sidecar.core.memory import Pressure, Reading
from tidegate_sidecar.shell import pressure as pressure_module
from tidegate_sidecar.shell.pressure import PressureWatch, container_reading, gpu_readings

PATIENCE = 60.0

Look = Callable[[Callable[[], bool]], Awaitable[None]]
"""Waits until a look finds something to be so."""

PAGE = """\
# HELP nv_inference_count Number of inferences performed (does not include cached requests)
# TYPE nv_inference_count counter
nv_inference_count{model="m",version="1"} 7
# HELP nv_gpu_memory_total_bytes GPU total memory, in bytes
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-a"} 16e9
# HELP nv_gpu_memory_used_bytes GPU used memory, in bytes
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-a"} 15.2e9
"""
SECOND = """\
nv_gpu_memory_total_bytes{gpu_uuid="GPU-b"} 8e9
nv_gpu_memory_used_bytes{gpu_uuid="GPU-b"} 2e9
nv_gpu_memory_used_bytes{gpu_uuid="GPU-c"} 2e9
"""


def test_gpus_are_read_from_tritons_page() -> None:
    assert gpu_readings(PAGE) == [Reading("GPU memory", 0.95)]
    assert gpu_readings(PAGE + SECOND)[:2] == [
        Reading("the memory of GPU-a", 0.95),
        Reading("the memory of GPU-b", 0.25),
    ]


def test_a_page_without_gpus_says_nothing() -> None:
    assert gpu_readings('nv_inference_count{model="m"} 7\n') == []
    with pytest.raises(ValueError, match="could not convert"):
        gpu_readings("nv_gpu_memory_used_bytes{ 7\n")


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """The cgroup of a Triton, where its process is looked for; 450 of 1000 bytes are in use."""
    for name, pid in (("sh", 1), ("tritonserver", 7)):
        folder = tmp_path / str(pid) / "root/sys/fs/cgroup"
        folder.mkdir(parents=True)
        (tmp_path / str(pid) / "comm").write_text(f"{name}\n")
        (folder / "memory.max").write_text("1000\n")
        (folder / "memory.current").write_text("950\n")
        (folder / "memory.stat").write_text("anon 400\ninactive_file 500\nactive_file 50\n")
    return folder


def test_pages_that_nobody_used_lately_do_not_count(cgroup: Path) -> None:
    assert container_reading(cgroup) == Reading("the container's memory", 0.45)


def test_a_container_without_a_limit_is_never_full(cgroup: Path) -> None:
    (cgroup / "memory.max").write_text("max\n")
    assert container_reading(cgroup) is None


@asynccontextmanager
async def watching(
    page: Callable[[], web.Response], processes: Path
) -> AsyncIterator[tuple[Pressure, Look]]:
    """A watch of a page, and the memory that it watches."""

    async def answer(_: web.Request) -> web.Response:
        return page()

    app = web.Application()
    app.router.add_get("/metrics", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    _, port = runner.addresses[0]
    pressure = Pressure()
    looked = asyncio.Event()
    watch = PressureWatch(pressure, f"127.0.0.1:{port}", looked.set, processes=processes)
    task = asyncio.create_task(watch.run())

    async def look(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                looked.clear()
                await looked.wait()

    try:
        yield pressure, look
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await runner.cleanup()


async def test_the_fullest_of_all_memories_presses(cgroup: Path) -> None:
    async with watching(lambda: web.Response(text=PAGE), cgroup.parents[4]) as (pressure, look):
        await look(lambda: pressure.share == 0.5)
        assert pressure.short == "GPU memory is 95% used"


async def test_a_full_container_presses_without_any_metrics(
    cgroup: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (cgroup / "memory.stat").write_text("inactive_file 0\n")
    caplog.set_level(logging.INFO)
    looks = 0

    def page() -> web.Response:
        nonlocal looks
        looks += 1
        return web.Response(status=503)

    async with watching(page, cgroup.parents[4]) as (pressure, look):
        await look(lambda: pressure.share == 0.5 and looks > 1)
        assert pressure.short == "the container's memory is 95% used"
    lines = [record.message for record in caplog.records if record.name.endswith("pressure")]
    assert [line for line in lines if line.startswith("GPU memory is not watched")] == lines[:1]
    assert lines[1:] == [
        "container memory is watched",
        "batches are at 50% of their size: the container's memory is 95% used",
    ]


@pytest.mark.parametrize("long_ago", [False, True])
async def test_a_page_that_fails_is_left_out_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, long_ago: bool
) -> None:
    monkeypatch.setattr(pressure_module, "STALE", 0.0 if long_ago else PATIENCE)
    asked = 0

    def page() -> web.Response:
        nonlocal asked
        asked += 1
        return web.Response(text=PAGE) if asked == 1 else web.Response(status=404)

    async with watching(page, tmp_path) as (pressure, look):
        await look(lambda: asked > 2)
        assert pressure.short == (None if long_ago else "GPU memory is 95% used")
