"""The strategies that are installed: our own, and those that other packages offer.

A package offers one by an entry point of the group ``tidegate.strategies``: its name is what a
BatchPolicy's ``strategy`` says, its object makes one without arguments.
"""

import logging
from importlib.metadata import entry_points
from typing import Final

from tidegate_sidecar.core.strategies import BUILT_IN, Strategies

GROUP: Final = "tidegate.strategies"

_log = logging.getLogger(__name__)


def installed() -> Strategies:
    """Find all; one that cannot be imported is left out, and the log says why."""
    found = dict(BUILT_IN)
    for one in entry_points(group=GROUP):
        try:
            found[one.name] = one.load()
        except Exception:  # noqa: BLE001 - whatever it is, it must not keep the pod from serving
            _log.exception("strategy %s of %s cannot be used", one.name, one.value)
    return found
