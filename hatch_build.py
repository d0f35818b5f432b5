"""Compiles the sidecar's hot path with mypyc, for a wheel with TIDEGATE_COMPILE=1, or as a program.

A wheel without it is pure Python, as an editable installation always is. As a program it writes the
data plane's packages into build/compiled, beside each compiled module its source: in PYTHONPATH
that takes the place of the sources. The image is made so, and compiled code is tested so.
"""

import os
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGES: Final = (
    Path("contract/tidegate_contract"),
    Path("batcher_sidecar/tidegate_batcher"),
    Path("batcher_sidecar/tidegate_sidecar"),
)
COMPILED: Final = (
    "tidegate_batcher/*.py",
    "tidegate_sidecar/core/*.py",
    "tidegate_sidecar/shell/body.py",
    "tidegate_sidecar/shell/connection.py",
    "tidegate_sidecar/shell/http.py",
    "tidegate_sidecar/shell/server.py",
    "tidegate_sidecar/shell/upstream.py",
)
INTERPRETED: Final = {
    "__init__.py",
    "strategy.py",  # users' classes may inherit from its protocols
    "library.py",  # its errors and its future inherit from Python's own
    "guarded.py",  # what users' strategies return may be anything, whatever is annotated
    "wire.py",  # msgspec reads its annotations, which compiled classes lose
    "feedback.py",  # likewise
    "adoption.py",  # likewise
    "compare.py",  # numpy's work
    "simulator.py",  # numpy's work
}

_OUT: Final = Path("build/compiled")
_WORK: Final = Path("build/mypyc")
_STAMP: Final = ".sources"


class CustomBuildHook(BuildHookInterface[BuilderConfig]):
    """What hatchling asks before it makes a wheel."""

    @property
    def _asked(self) -> bool:
        return os.environ.get("TIDEGATE_COMPILE") == "1"

    def dependencies(self) -> list[str]:
        """What a wheel needs while it is made: mypy reads the types of all that is imported."""
        core = self.metadata.core
        extras = core.optional_dependencies
        return [*core.dependencies, *extras["sidecar"], *extras["compile"]] if self._asked else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have hatchling put what came of it beside the sources."""
        if self._asked and version != "editable":
            os.chdir(self.root)
            build()
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["force_include"] |= {
                str(one): str(one.relative_to(_OUT)) for one in _OUT.rglob("*.so")
            }


def build() -> None:
    """Bring build/compiled up to date; from the root of the checkout."""
    sources = sorted(one for package in PACKAGES for one in package.rglob("*.py"))
    stamp = _OUT / _STAMP
    digest = _digest([*sources, Path(__file__)])
    if stamp.exists() and stamp.read_text() == digest:
        return
    shutil.rmtree(_OUT, ignore_errors=True)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, _OUT / package.name, ignore=ignored)
    _compile([str(one) for one in sources if _is_compiled(one)])
    stamp.write_text(digest)


def _digest(paths: list[Path]) -> str:
    """What the compiled code is made of."""
    found = sha256(sys.version.encode())
    for path in paths:
        found.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def _is_compiled(path: Path) -> bool:
    return path.name not in INTERPRETED and any(map(path.match, COMPILED))


def _compile(sources: list[str]) -> None:
    # Not there where a wheel of pure Python is made.
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools import Distribution  # noqa: PLC0415

    options = ["--config-file=pyproject.toml", f"--cache-dir={_WORK / 'cache'}"]
    extensions = mypycify(
        [*options, *sources], debug_level="0", target_dir=str(_WORK), group_name="tidegate"
    )
    distribution = Distribution({"name": "tidegate", "ext_modules": extensions})
    command = distribution.get_command_obj("build_ext")
    built = _WORK / "lib"  # kept: what has not changed since is not compiled again
    command.build_lib, command.build_temp = str(built), str(_WORK)
    command.ensure_finalized()
    command.run()
    for one in map(Path, command.get_outputs()):
        shutil.copy(one, _OUT / one.relative_to(built))


if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    build()
