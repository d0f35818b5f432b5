"""Headers that models are told of: Triton makes each a parameter of its request, and so do we.

Triton sees the headers of a batch's request, not those of its members. So those that it was to be
told of become parameters before requests are put together: only requests that have them alike share
a batch, or an answer.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from tidegate_sidecar.core.request import Decoded
from tidegate_sidecar.core.trace_context import FRESH

_MEANT_OTHERWISE: Final = frozenset(
    {
        "binary_data_output",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
    }
)
"""Parameters of the protocol itself, which a header does not set."""


class Forwarding:
    """Chooses headers as Triton does: ``pattern`` is found anywhere in the name, in any case.

    Names are in lower case, over HTTP as over gRPC. Where the request itself has a parameter of
    that name, the header holds. Never chosen is what no two requests have alike (``FRESH``), which
    would leave every request alone.
    """

    def __init__(self, pattern: str) -> None:
        self._wanted = re.compile(pattern, re.IGNORECASE)

    def chosen(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Those of a request's headers, by lower-case name, that its model is told of."""
        return {
            name: value
            for name, value in headers.items()
            if self._wanted.search(name)
            and name not in _MEANT_OTHERWISE
            and name not in FRESH
            and not name.startswith("triton_")
        }

    def add(self, decoded: Decoded, headers: Mapping[str, str]) -> Decoded:
        """A request with its headers among its parameters."""
        told = self.chosen(headers)
        if not told:
            return decoded
        parameters = msgspec.json.decode(decoded.call.parameters) | told
        text = msgspec.json.encode(parameters, order="deterministic")
        passed = decoded.passed
        if passed:
            whole = msgspec.json.decode(passed)
            whole["parameters"] = whole.get("parameters", {}) | told
            passed = msgspec.json.encode(whole)
        return replace(decoded, call=decoded.call._replace(parameters=text), passed=passed)
