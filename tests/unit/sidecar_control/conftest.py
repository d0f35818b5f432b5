"""Routing tables for the tests of the sidecar's control side."""

from collections.abc import Callable

import pytest

from tidegate_contract.table import Arm, LoadedVersion, RoutingTable, Share


def _table(
    revision: int = 1,
    *,
    baseline: dict[int, int] | None = None,
    others: dict[int, list[str] | None] | None = None,
    pods: dict[int, list[str]] | None = None,
    model: str = "m",
    namespace: str = "default",
) -> RoutingTable:
    """A table whose split is its baseline (version 1 by default).

    ``others``: further versions to load, with the pods that may; ``pods``: the same for the
    baseline's versions.
    """
    baseline = baseline or {1: 10_000}
    rows = {version: (pods or {}).get(version) for version in baseline} | (others or {})
    return RoutingTable(
        namespace=namespace,
        model=model,
        revision=revision,
        split_revision=revision,
        split=[Arm(name="stable", version=v, weight=w) for v, w in baseline.items()],
        versions=[LoadedVersion(version=v, pods=uids) for v, uids in rows.items()],
        baseline=[Share(version=v, weight=w) for v, w in baseline.items()],
    )


@pytest.fixture
def table() -> Callable[..., RoutingTable]:
    """Makes a table."""
    return _table
