"""config.pbtxt, read as Triton's own JSON form."""

from pathlib import Path

import pytest

from tidegate_sidecar.shell.repository import ConfigFileError, read_config, versions_on_disk


def _write(repository: Path, text: str) -> None:
    (repository / "m").mkdir()
    (repository / "m" / "config.pbtxt").write_text(text)


def test_a_configuration_is_read_as_it_is_written(tmp_path: Path) -> None:
    _write(
        tmp_path,
        """
        backend: "python"  # with a comment
        max_batch_size: 8
        input { name: "X" data_type: TYPE_FP32 dims: [ 8, -1 ] }
        instance_group [{ kind: KIND_CPU count: 2 }]
        parameters { key: "a" value { string_value: "b" } }
        """,
    )
    config = read_config(tmp_path, "m")
    assert config["backend"] == "python"
    assert config["max_batch_size"] == 8
    assert [int(size) for size in config["input"][0]["dims"]] == [8, -1]
    assert config["instance_group"] == [{"kind": "KIND_CPU", "count": 2}]
    assert config["parameters"] == {"a": {"string_value": "b"}}


def test_no_file_leaves_all_to_triton(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    assert read_config(tmp_path, "m") == {}


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"no folder .*/m in the model repository"):
        read_config(tmp_path, "m")


def test_a_mistake_is_named_with_its_place(tmp_path: Path) -> None:
    _write(tmp_path, "max_batch_size: 8\nbackendd: 1\n")
    with pytest.raises(ConfigFileError, match=r"config\.pbtxt: 2:1.*backendd"):
        read_config(tmp_path, "m")


def test_versions_are_the_folders_that_triton_would_take_for_one(tmp_path: Path) -> None:
    assert versions_on_disk(tmp_path, "m") == set()
    for name in ("1", "12", "0", "03", "-4", "x", "\u0663"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "5").write_text("a file")
    assert versions_on_disk(tmp_path, "m") == {1, 12}
