"""How much memory the sidecar finds that it may have."""

from pathlib import Path

import pytest

from tidegate_sidecar.shell.memory_limit import memory_limit


@pytest.mark.parametrize("path", ["memory.max", "memory/memory.limit_in_bytes"])
@pytest.mark.parametrize(
    ("written", "limit"),
    [("1048576\n", 2**20), ("max\n", None), ("9223372036854771712\n", None), ("", None)],
)
def test_the_containers_limit_holds(
    tmp_path: Path, path: str, written: str, limit: int | None
) -> None:
    machine = memory_limit(tmp_path)
    assert machine > 2**20
    file = tmp_path / "sys/fs/cgroup" / path
    file.parent.mkdir(parents=True)
    file.write_text(written)
    assert memory_limit(tmp_path) == (limit or machine)
