"""A model's configuration as its author wrote it: ``config.pbtxt`` in the model repository.

Triton tells the configuration of a loaded version only, and with what it completed by itself.
Sent back with a longer list of versions, that form was seen (Triton 2.51) to load every
serving version again and to force one version's completed shapes upon the others. Without
the file, a version has to be loaded before the configuration is known: by default the
highest on disk, which may be the very one that fails. So the file is read where it can be.
"""

from pathlib import Path
from typing import Any


class ConfigFileError(Exception):
    """The file cannot be read; the message names it and says why."""


def read_config(repository: Path, model: str) -> dict[str, Any]:
    """The configuration in Triton's JSON form; empty where the author left all to Triton.

    Raises:
        ConfigFileError: the model's folder is not there, or the file is not a configuration.
    """
    # Only here: protobuf and the package of gRPC that holds the message cost 11 MiB.
    from google.protobuf import json_format, text_format  # noqa: PLC0415
    from tritonclient.grpc.model_config_pb2 import ModelConfig  # noqa: PLC0415

    file = repository / model / "config.pbtxt"
    if not file.parent.is_dir():
        raise ConfigFileError(f"there is no folder {file.parent} in the model repository")
    try:
        text = file.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError(f"{file}: {error}") from error
    try:
        message = text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise ConfigFileError(f"{file}: {error}") from error
    config: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return config


def versions_on_disk(repository: Path, model: str) -> set[int]:
    """The versions that a model has in the repository; none where that cannot be read."""
    try:
        names = [entry.name for entry in (repository / model).iterdir() if entry.is_dir()]
    except OSError:
        return set()
    return {int(name) for name in names if name.isascii() and name.isdigit() and name[0] != "0"}
