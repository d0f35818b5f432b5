"""Tables from a mounted ConfigMap and from the pod's own copy, without an API server."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from tidegate_contract import names
from tidegate_contract import table as contract
from tidegate_contract.table import RoutingTable
from tidegate_sidecar.shell import watcher as module
from tidegate_sidecar.shell.watcher import TableWatcher

Tables = Callable[..., RoutingTable]


class Mount:
    """A ConfigMap as a kubelet mounts it: files behind one link, swapped at once."""

    def __init__(self, directory: Path, model: str = "m") -> None:
        self.directory = directory
        self.folder = directory / names.routing_table_name(model)
        self.folder.mkdir(parents=True)
        self._generation = 0

    def put(self, table: RoutingTable, digest: str | None = None) -> None:
        text, right = contract.encode(table)
        self._generation += 1
        place = self.folder / f"..{self._generation}"
        place.mkdir()
        (place / names.TABLE_KEY).write_text(text)
        (place / names.DIGEST_KEY).write_text(digest or f"{right}\n")
        link = self.folder / "..data_tmp"
        link.symlink_to(place.name)
        link.rename(self.folder / "..data")
        for key in (names.TABLE_KEY, names.DIGEST_KEY):
            if not (self.folder / key).is_symlink():
                (self.folder / key).symlink_to(f"..data/{key}")


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    return Mount(tmp_path / "tables")


@pytest.fixture
def applied() -> list[int]:
    return []


@pytest.fixture
def boot(tmp_path: Path, mount: Mount, applied: list[int]) -> Callable[[], TableWatcher]:
    """Starts the pod's container once more."""
    state = tmp_path / "state"
    state.mkdir()

    def booted() -> TableWatcher:
        applied.clear()
        watcher = TableWatcher(
            "default",
            "m",
            lambda table: applied.append(table.revision),
            api=None,
            state_directory=state,
            table_directory=mount.directory,
        )
        watcher.boot()
        return watcher

    return booted


def test_without_any_table_nothing_is_applied(
    boot: Callable[[], TableWatcher], applied: list[int]
) -> None:
    watcher = boot()
    assert applied == []
    assert watcher.acknowledge({}).revision == 0


def test_the_mounted_table_is_applied(
    boot: Callable[[], TableWatcher], mount: Mount, table: Tables, applied: list[int]
) -> None:
    mount.put(table(4))
    assert boot().acknowledge({}).revision == 4
    assert applied == [4]


def test_the_copy_of_the_last_table_outlives_the_process(
    boot: Callable[[], TableWatcher], mount: Mount, table: Tables, applied: list[int]
) -> None:
    mount.put(table(4))
    boot()
    mount.put(table(3))
    assert boot().acknowledge({}).revision == 4
    assert applied == [4]
    mount.put(table(5))
    boot()
    assert applied == [4, 5]


def test_a_copy_that_cannot_be_read_is_passed_over(
    boot: Callable[[], TableWatcher],
    mount: Mount,
    table: Tables,
    applied: list[int],
    tmp_path: Path,
) -> None:
    mount.put(table(4))
    (tmp_path / "state" / f"{names.routing_table_name('m')}.json").write_text('{"text": 1')
    boot()
    assert applied == [4]


def test_an_edited_mounted_table_is_refused_and_named(
    boot: Callable[[], TableWatcher], mount: Mount, table: Tables, applied: list[int]
) -> None:
    mount.put(table(4))
    boot()
    mount.put(table(5), digest="0" * 64)
    acknowledged = boot().acknowledge({})
    assert applied == [4]
    assert acknowledged.revision == 4
    assert "by hand" in str(acknowledged.refused)


async def test_a_new_mounted_table_is_noticed(
    boot: Callable[[], TableWatcher],
    mount: Mount,
    table: Tables,
    applied: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FILE_SECONDS", 0.01)
    mount.put(table(4))
    watcher = boot()
    mount.put(table(5))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await watcher.run()
    assert applied == [4, 5]
    assert watcher.current
