"""What integration tests share: one real control plane for each process that runs some of them."""

from collections.abc import Iterator

import pytest

from tidegate_tools.controlplane import ControlPlane

LONGEST = (
    "test_sidecar_control",
    "test_operator_faults",
    "test_story",
    "test_story_with_deaths",
    "test_abtest",
    "test_prometheus_faults",
    "test_operator",
    "test_cli",
)
"""Modules, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first: processes side by side then end at about the same time."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        yield started
