"""The demo's models: deterministic, better from version to version, and told apart by shape."""

from pathlib import Path

import numpy as np
import pytest

from tidegate_demo.train import HeldOut, train


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def held_out(repository: Path) -> HeldOut:
    return train(repository)


def weights(repository: Path, version: int) -> dict[str, np.ndarray]:
    with np.load(repository / "digits" / str(version) / "weights.npz") as file:
        return dict(file)


def test_version_1_is_weak_and_version_2_is_good(held_out: HeldOut) -> None:
    assert 0.80 < held_out.accuracy(1) < 0.90
    assert held_out.accuracy(2) > 0.97


def test_training_again_gives_the_same_models(
    repository: Path, held_out: HeldOut, tmp_path: Path
) -> None:
    again = train(tmp_path)

    assert (again.predictions[1] == held_out.predictions[1]).all()
    assert (again.predictions[2] == held_out.predictions[2]).all()
    for version in (1, 2, 3, 4):
        first, second = weights(repository, version), weights(tmp_path, version)
        assert all((first[name] == second[name]).all() for name in first)


def test_version_3_fails_on_enough_images_to_be_noticed_and_not_on_all(held_out: HeldOut) -> None:
    says = held_out.predictions[3]

    assert 0.05 < (says == 3).mean() < 0.2
    assert 0.05 < (says == 5).mean() < 0.2


def test_version_4_differs_in_shape_alone(repository: Path, held_out: HeldOut) -> None:
    good, other = weights(repository, 2), weights(repository, 4)

    assert good.pop("shape").tolist() == [64]
    assert other.pop("shape").tolist() == [8, 8]
    assert all((good[name] == other[name]).all() for name in good)
