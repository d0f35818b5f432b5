"""What nvidia-smi says of the GPU to measure on. Standard library only."""

import re
import shutil
import subprocess
from dataclasses import dataclass

_FIELDS = "name,driver_version,memory.free"


class NoGpu(Exception):  # noqa: N818 - it is named for what happened
    """There is no GPU that can be used; the message says why."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. ``free``: bytes of its memory; ``cuda``: the newest that its driver can run."""

    name: str
    driver: str
    free: int
    cuda: tuple[int, int]


def find(index: int) -> Gpu:
    """The GPU of that number.

    Raises:
        NoGpu: nvidia-smi is not there, or knows no such GPU.
    """
    line = _asked("-i", str(index), f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")
    name, driver, free = (part.strip() for part in line.strip().split(","))
    version = re.search(r"CUDA[^:|]*Version:\s*(\d+)\.(\d+)", _asked())
    if not version or not free.isdecimal():
        raise NoGpu("nvidia-smi does not tell the driver's CUDA version and the free memory")
    return Gpu(name, driver, int(free) * 2**20, (int(version[1]), int(version[2])))


def _asked(*arguments: str) -> str:
    program = shutil.which("nvidia-smi")
    if not program:
        raise NoGpu("there is no nvidia-smi on the PATH: no NVIDIA driver, or no GPU in this place")
    ended = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    if ended.returncode:
        raise NoGpu(f"nvidia-smi failed: {(ended.stdout + ended.stderr).strip()}")
    return ended.stdout
