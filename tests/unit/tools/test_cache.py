"""The cache: complete or not at all, made once however many ask."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tidegate_tools import cache


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_folder_is_the_first_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIDEGATE_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    monkeypatch.setenv("HOME", "/c")
    assert cache.root() == Path("/a")
    monkeypatch.delenv("TIDEGATE_CACHE")
    assert cache.root() == Path("/b/tidegate")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.root() == Path("/c/.cache/tidegate")


def test_a_failed_maker_leaves_nothing(own_cache: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").write_text("")
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        cache.made("thing-1", fail)
    assert cache.existing("thing-1") is None
    assert [path.name for path in own_cache.iterdir()] == [".thing-1.lock"]


def test_makers_at_once_make_it_once() -> None:
    made, waited, places = [], [], []

    def make(into: Path) -> None:
        made.append(into)
        while not waited:
            time.sleep(0.01)
        (into / "file").write_text("whole")

    def ask() -> None:
        places.append(cache.made("thing-1", make, lambda: waited.append(1)))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert waited
    assert {(place / "file").read_text() for place in places} == {"whole"}


def test_a_killed_maker_leaves_nothing_that_counts(own_cache: Path) -> None:
    script = (
        "import time; from tidegate_tools import cache\n"
        "def make(into):\n"
        "    (into / 'half').write_text('')\n"
        "    print('making', flush=True)\n"
        "    time.sleep(60)\n"
        "cache.made('thing-1', make)\n"
    )
    maker = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(cache.__file__).parents[1])},
    )
    assert maker.stdout
    assert maker.stdout.readline() == b"making\n"
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    maker.stdout.close()
    assert cache.existing("thing-1") is None
    place = cache.made("thing-1", lambda into: (into / "file").touch())
    assert [path.name for path in place.iterdir()] == ["file"]
    assert not list(own_cache.glob("*.partial"))
