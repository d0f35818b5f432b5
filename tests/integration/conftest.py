"""What integration tests share: one real control plane for the whole run."""

from collections.abc import Iterator

import pytest

from tidegate_tools.controlplane import ControlPlane


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        yield started
