"""The cache: one folder for everything that is built or fetched, keyed by version.

An entry is there completely or not at all: it is made beside its place and moved there at
the end. A file lock lets two makers meet: the second waits, and finds the entry made.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path


def root() -> Path:
    """The cache folder: $TIDEGATE_CACHE, else tidegate in the user's own cache folder."""
    if own := os.environ.get("TIDEGATE_CACHE"):
        return Path(own).absolute()
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base).absolute() / "tidegate"
    return Path.home() / ".cache" / "tidegate"


def existing(entry: str) -> Path | None:
    """The entry's folder where it is made already."""
    place = root() / entry
    return place if place.is_dir() else None


def made(
    entry: str,
    make: Callable[[Path], None],
    waiting: Callable[[], None] = lambda: None,
) -> Path:
    """The entry's folder, made now where it is not there yet.

    `make` fills an empty folder whose path is not the final one. `waiting` is called once
    where another process is at work on the same entry.
    """
    place = root() / entry
    if place.is_dir():
        return place
    root().mkdir(parents=True, exist_ok=True)
    with _locked(root() / f".{entry}.lock", waiting):
        if place.is_dir():
            return place
        partial = root() / f".{entry}.partial"
        # What an interrupted maker left: the lock proves that nobody is at work on it.
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            make(partial)
            partial.replace(place)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return place


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
