"""The JSON of KServe v2 as msgspec reads it: types are checked, what they mean is not.

These are records of msgspec's own kind, which stay interpreted in a compiled build.
"""

from typing import Annotated, Any

import msgspec


class InputJson(msgspec.Struct, omit_defaults=True):
    """An input of a request. ``data``: empty where its bytes come after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: msgspec.Raw = msgspec.Raw()


class WantedJson(msgspec.Struct, omit_defaults=True):
    """An output that a request asks for."""

    name: str
    parameters: dict[str, Any] = {}


class RequestJson(msgspec.Struct, omit_defaults=True):
    """A request."""

    inputs: list[InputJson]
    outputs: list[WantedJson] = []
    id: str = ""
    parameters: dict[str, Any] = {}


class OutputJson(msgspec.Struct):
    """An output of an answer."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}


class ReplyJson(msgspec.Struct):
    """Triton's answer. ``parameters``: empty where it has none."""

    outputs: list[OutputJson] = []
    parameters: msgspec.Raw = msgspec.Raw()


class IndexQueryJson(msgspec.Struct):
    """What the repository index takes; anything else of the body stays here."""

    ready: bool = False


class RegionJson(msgspec.Struct):
    """What registering a region of shared memory takes."""

    key: str
    byte_size: Annotated[int, msgspec.Meta(ge=0)]
    offset: Annotated[int, msgspec.Meta(ge=0)] = 0
