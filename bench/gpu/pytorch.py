"""PyTorch for Triton's models: a folder in the cache that stands beside Triton's environment."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from gpus import Gpu, NoGpu

from tidegate_tools import cache

# By the CUDA that a driver can run at least: wheels of the index are built for one CUDA each.
BUILDS = {
    (13, 0): ("cuda13", "torch>=2.11,<3"),
    (12, 0): ("cuda12", "torch>=2.8,<2.11"),
}
# Triton's python backend reads numpy 1's memory layout.
BESIDE = ("torchvision", "numpy==1.26.4")
_QUESTION = "import torch, torchvision; assert torch.cuda.is_available(); print(torch.__version__)"


def ensure(python: Path, gpu: Gpu) -> Path:
    """The folder to be put on the models' path; ``python``: that of Triton's environment.

    Raises:
        NoGpu: the driver is too old for any of the wheels.
        subprocess.CalledProcessError: pip failed, and has said why.
    """
    build = next((BUILDS[least] for least in BUILDS if gpu.cuda >= least), None)
    if not build:
        raise NoGpu(f"driver {gpu.driver} runs no CUDA 12, and PyTorch needs that or a newer one")
    name, torch = build

    def install(into: Path) -> None:
        print(f"installing PyTorch ({name}): once, 3 GB to fetch, some minutes", flush=True)
        temporary = into / "tmp"  # /tmp may be small
        temporary.mkdir()
        pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-cache-dir"]
        subprocess.run(
            [*pip, "--target", str(into / "packages"), torch, *BESIDE],
            env={**os.environ, "TMPDIR": str(temporary)},
            check=True,
        )
        temporary.rmdir()

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return cache.made(f"torch-{name}-python{version}", install) / "packages"


def version(python: Path, environment: Mapping[str, str]) -> str:
    """PyTorch's version, once it has seen the GPU.

    Raises:
        NoGpu: it sees none.
    """
    ended = subprocess.run(
        [str(python), "-c", _QUESTION],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise NoGpu(f"PyTorch cannot use the GPU:\n{ended.stderr.strip()}")
    return ended.stdout.strip()
