"""How much memory the sidecar may have: its container's limit, else what the machine has."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

_LIMITS: Final = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container sees its own, with cgroups of version 2 and 1."""


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # it is not there, or says "max"
            limit = min(limit, int((root / path).read_text()))
    return limit
