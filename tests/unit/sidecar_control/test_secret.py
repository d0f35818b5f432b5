"""A Secret's entry from a mounted folder, while it is wanted."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate_sidecar.shell import secret as module
from tidegate_sidecar.shell.secret import SecretWatcher


class Watched:
    """A watcher, what it took, and whether it is wanted."""

    def __init__(self, directory: Path | None) -> None:
        self.taken: list[bytes] = []
        self.wanted = True
        self.watcher = SecretWatcher(
            "default",
            "tidegate-feedback-m",
            "key",
            take=self.taken.append,
            wanted=lambda: self.wanted,
            api=None,
            directory=directory,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - what changes is a list
                await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.01)


@pytest.fixture
def mount(tmp_path: Path) -> Callable[[str], None]:
    folder = tmp_path / "tidegate-feedback-m"
    folder.mkdir()

    def write(text: str) -> None:
        (folder / "key").write_text(text)

    return write


async def test_it_is_read_once_it_is_there_and_when_it_changes(
    tmp_path: Path, mount: Callable[[str], None]
) -> None:
    watched = Watched(tmp_path)
    task = asyncio.create_task(watched.watcher.run())
    mount("")
    mount("one\n")
    await watched.until(lambda: bool(watched.taken))
    mount("two\n")
    await watched.until(lambda: len(watched.taken) > 1)
    mount("two")
    mount("three")
    await watched.until(lambda: watched.taken[-1] == b"three")
    task.cancel()
    assert watched.taken == [b"one", b"two", b"three"]


async def test_it_is_not_read_while_nobody_wants_it(
    tmp_path: Path, mount: Callable[[str], None]
) -> None:
    watched = Watched(tmp_path)
    watched.wanted = False
    mount("one")
    task = asyncio.create_task(watched.watcher.run())
    await asyncio.sleep(0.1)
    assert watched.taken == []
    watched.wanted = True
    await watched.until(lambda: watched.taken == [b"one"])
    task.cancel()


async def test_what_is_missing_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(Watched(None).watcher.run())
    async with asyncio.timeout(60):
        while not caplog.records:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    task.cancel()
    assert [record.getMessage() for record in caplog.records] == [
        "Secret tidegate-feedback-m: there is neither an API server nor a folder to read it from"
    ]
