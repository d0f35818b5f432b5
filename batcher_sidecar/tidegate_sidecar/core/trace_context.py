"""W3C Trace Context: the span that a request was sent in, as its headers tell.

What is wrong there is as if it were not there: the request itself is as good as any
(https://www.w3.org/TR/trace-context/, sections 3.2, 3.3 and 4.3).
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"
FRESH: Final = (TRACEPARENT, TRACESTATE, "x-request-id")
"""Headers that are another in every request, and mean nothing to its model."""

_MOST_STATE: Final = 512
"""Characters that everybody passes on; a state with more goes no further."""
_SAMPLED: Final = 1
_PARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


class TraceContext(NamedTuple):
    """A span of somebody else's. ``flags``: its trace's. ``state``: as it came; empty: none."""

    trace_id: int
    span_id: int
    flags: int
    state: str


def sampled(headers: Mapping[str, str]) -> TraceContext | None:
    """The span that a request was sent in; None where none is told, or its trace is not recorded.

    ``headers``: by lower-case name. Versions after 00 are read as 00, whatever follows that.
    """
    text = headers.get(TRACEPARENT)
    if text is None:
        return None
    match = _PARENT.fullmatch(text.strip(" \t"))
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    flags = int(match[4], 16)
    if not flags & _SAMPLED:
        return None
    state = headers.get(TRACESTATE, "")
    if len(state) > _MOST_STATE:
        state = ""
    return TraceContext(int(match[2], 16), int(match[3], 16), flags, state)
