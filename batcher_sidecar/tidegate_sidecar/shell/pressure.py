"""Looks once a second at how full the memory is that batches need.

Of GPUs Triton's metrics page tells, of a container its cgroup: Triton's own, not the sidecar's,
which holds no batch for long. That is within reach where both run in one container, or where their
pod shares its process namespace and both run as one user. What cannot be seen is left out.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tidegate_sidecar.core.memory import Pressure, Reading

LOOK: Final = 1.0
"""Seconds between two looks."""
SEARCH: Final = 30.0
"""Seconds between two searches for Triton's process."""
TIMEOUT: Final = 2.0
STALE: Final = 10.0
"""Seconds that what was read of GPUs holds: a page may be late when Triton has much to do."""
TRITON: Final = "tritonserver"
"""The name of its process."""

_USED: Final = "nv_gpu_memory_used_bytes"
_TOTAL: Final = "nv_gpu_memory_total_bytes"

_log = logging.getLogger(__name__)


class PressureWatch:
    """Keeps ``pressure`` up to date. ``metrics``: address of Triton's metrics, HOST:PORT; None: no
    GPU is looked at. ``changed`` is called after each look.
    """

    def __init__(
        self,
        pressure: Pressure,
        metrics: str | None,
        changed: Callable[[], None],
        *,
        processes: Path = Path("/proc"),
    ) -> None:
        self._pressure = pressure
        self._metrics = metrics
        self._changed = changed
        self._processes = processes
        self._gpus: list[Reading] = []
        self._gpus_at = float("-inf")
        self._cgroup: Path | None = None
        self._searched_at = float("-inf")
        self._said: dict[str, bool] = {}

    async def run(self) -> None:
        """Look for ever."""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(TIMEOUT)) as session:
            while True:
                await self._look(session)
                await asyncio.sleep(LOOK)

    async def _look(self, session: aiohttp.ClientSession) -> None:
        now = asyncio.get_running_loop().time()
        if self._metrics:
            await self._look_at_gpus(session, now)
        container = await asyncio.to_thread(self._container, now)
        self._say("container memory", seen=container is not None, why="no limit is seen here")
        readings = [*self._gpus, container] if container else self._gpus
        was_usual = self._pressure.share == 1.0
        is_usual = self._pressure.read(readings, now) == 1.0
        if was_usual != is_usual:
            _log.warning("%s", self._pressure.note or "batches have their usual size again")
        self._changed()

    async def _look_at_gpus(self, session: aiohttp.ClientSession, now: float) -> None:
        try:
            async with session.get(f"http://{self._metrics}/metrics") as response:
                response.raise_for_status()
                self._gpus = gpu_readings(await response.text())
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            if now - self._gpus_at >= STALE:
                self._gpus = []
                why = f"Triton's metrics do not answer: {error!r}"
                self._say("GPU memory", seen=False, why=why)
            return
        self._gpus_at = now
        self._say("GPU memory", seen=bool(self._gpus), why="Triton's metrics name no GPU")

    def _container(self, now: float) -> Reading | None:
        """What Triton's container uses of its limit."""
        if self._cgroup is None and now - self._searched_at >= SEARCH:
            self._searched_at = now
            self._cgroup = next(_cgroups(self._processes), None)
        try:
            return container_reading(self._cgroup) if self._cgroup else None
        except (OSError, ValueError):
            self._cgroup = None  # its process has gone
            return None

    def _say(self, what: str, *, seen: bool, why: str) -> None:
        """Log once whether something can be seen, and when that changes."""
        if self._said.get(what) != seen:
            self._said[what] = seen
            _log.info("%s is %s", what, "watched" if seen else f"not watched: {why}")


def gpu_readings(page: str) -> list[Reading]:
    """What a page of Triton's metrics says of each GPU.

    Raises:
        ValueError: it is not such a page.
    """
    lines = (line for line in page.splitlines() if line.startswith((_USED, _TOTAL)))
    gpus: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            gpus.setdefault(sample.labels.get("gpu_uuid", ""), {})[sample.name] = sample.value
    return [
        Reading("GPU memory" if len(gpus) == 1 else f"the memory of {uuid}", used / total)
        for uuid, one in gpus.items()
        if (used := one.get(_USED)) is not None and (total := one.get(_TOTAL))
    ]


def container_reading(cgroup: Path) -> Reading | None:
    """What is used of a cgroup's memory, version 2; None where it has no limit.

    Pages of files that nobody used lately do not count: the kernel takes them back by itself.

    Raises:
        OSError, ValueError: it is no such cgroup, or there no more.
    """
    limit = (cgroup / "memory.max").read_text().strip()
    if limit == "max":
        return None
    used = int((cgroup / "memory.current").read_text())
    for line in (cgroup / "memory.stat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "inactive_file":
            used -= int(value)
    return Reading("the container's memory", max(0, used) / max(1, int(limit)))


def _cgroups(processes: Path) -> Iterator[Path]:
    """The cgroups of the Tritons that are seen here, each as its own container sees it."""
    for comm in processes.glob("[0-9]*/comm"):
        with suppress(OSError):  # gone meanwhile, or another user's
            cgroup = comm.parent / "root/sys/fs/cgroup"
            if comm.read_text().strip() == TRITON and (cgroup / "memory.max").exists():
                yield cgroup
