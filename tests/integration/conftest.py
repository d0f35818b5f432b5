"""What integration tests share: one real control plane for the whole run."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate_tools.controlplane import ControlPlane

sys.path.insert(0, str(Path(__file__).parent))  # the helpers beside the tests


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane(tmp_path_factory.mktemp("control-plane")) as started:
        yield started
