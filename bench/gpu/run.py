"""A high and a low priority on one GPU, by one command: `python3 bench/gpu/run.py`.

Looks whether this machine will do, installs this project into an environment of its own in the
cache folder, and becomes `scenario.py` there. Standard library only up to that point.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import gpus  # noqa: E402
import options  # noqa: E402

from tidegate_tools import cache  # noqa: E402

OLDEST_PYTHON = (3, 11)
DISK_GB = {True: 2, False: 16}  # with --cpu, and without
SHARED = "/dev/shm"  # noqa: S108 - where Triton and its models meet
SHARED_MEMORY_MB = 48


def main() -> None:
    """Check, install, become the scenario."""
    given = options.arguments()
    try:
        check(given)
        python = cache.made(environment(), install) / "bin" / "python"
    except gpus.NoGpu as error:
        sys.exit(f"{error}\n(--cpu runs the same with small models and no GPU)")
    except subprocess.CalledProcessError as error:
        sys.exit(f"the installation failed with status {error.returncode}; pip says why above")
    except KeyboardInterrupt:
        sys.exit(130)
    os.chdir(ROOT)
    os.execve(  # noqa: S606 - to become the scenario is the purpose
        python,
        [str(python), str(HERE / "scenario.py"), *sys.argv[1:]],
        {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "bench"), "PYTHONUNBUFFERED": "1"},
    )


def check(given: argparse.Namespace) -> None:
    """Leave with a message where it cannot work.

    Raises:
        NoGpu: no GPU can be used.
    """
    if sys.platform != "linux":
        sys.exit(f"Triton runs on Linux; this is {platform.system()}")
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(f"Python 3.11 or 3.12 is needed; this is {platform.python_version()}")
    if not given.cpu:
        gpu = gpus.find(given.gpu)
        print(f"{gpu.name}, driver {gpu.driver}, {gpu.free / 2**30:.1f} GiB free")
    cache.root().mkdir(parents=True, exist_ok=True)
    need, free = DISK_GB[given.cpu], shutil.disk_usage(cache.root()).free / 1e9
    if free < need:
        sys.exit(
            f"{cache.root()} has {free:.1f} GB left, {need} are needed for PyTorch and Triton;"
            " TIDEGATE_CACHE names another folder"
        )
    shared = shutil.disk_usage(SHARED).free / 2**20
    if shared < SHARED_MEMORY_MB:
        sys.exit(f"{SHARED} has {shared:.0f} MiB left; Triton's models need {SHARED_MEMORY_MB}")


def environment() -> str:
    """The name of the environment's cache entry: of this checkout as it is installed."""
    seed = f"{ROOT}\n{(ROOT / 'pyproject.toml').read_text()}"
    digest = hashlib.sha256(seed.encode()).hexdigest()[:8]
    return f"gpu-bench-{digest}-python{sys.version_info.major}.{sys.version_info.minor}"


def install(into: Path) -> None:
    """Make the environment; the checkout is installed in place, so that edits count."""
    print(f"installing this project into {cache.root()}: once, about a minute", flush=True)
    try:
        venv.create(into, with_pip=True)
    except subprocess.CalledProcessError:
        sys.exit("this Python makes no virtual environments (Debian: install python3-venv)")
    pip = [str(into / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, "--editable", f"{ROOT}[sidecar,workbench]"], check=True)


if __name__ == "__main__":
    main()
