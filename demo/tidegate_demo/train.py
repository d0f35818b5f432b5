"""Trains the demo's four versions of a digit classifier and lays out Triton's model repository.

The data are scikit-learn's handwritten digits; a fixed quarter of them is never trained on and
is what the demo's clients send. What each version says about each of those images is recorded,
so that every answer that comes back can be held against it.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

MODEL: Final = "digits"
SOURCE: Final = Path(__file__).parents[1] / "models" / MODEL
SEED: Final = 7
HELD_OUT: Final = 0.25
LOWER_HALF: Final = 32
"""Pixels from here on are the lower half of an image, all that version 1 looks at."""
RAISES_ON: Final = 3
SLOW_ON: Final = 5
SLOW_SECONDS: Final = 0.4

Array = npt.NDArray[Any]


class HeldOut(msgspec.Struct, frozen=True):
    """The images that clients send, what they show, and what each version says they show."""

    images: Array
    labels: Array
    predictions: dict[int, Array]

    def accuracy(self, version: int) -> float:
        """Share of the held-out images that a version reads right."""
        return float((self.predictions[version] == self.labels).mean())


def train(repository: Path) -> HeldOut:
    """Write the four versions into ``repository`` (replacing the model there)."""
    data = load_digits()
    pixels = (data.data / 16).astype(np.float32)
    seen, unseen, seen_labels, labels = train_test_split(
        pixels, data.target, test_size=HELD_OUT, random_state=SEED, stratify=data.target
    )
    weak = LogisticRegression(max_iter=300).fit(seen[:, LOWER_HALF:], seen_labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        good = MLPClassifier((48,), random_state=SEED, max_iter=200).fit(seen, seen_labels)

    upper_half_ignored = np.zeros((LOWER_HALF, 10), np.float32)
    weak_layers = [(np.vstack([upper_half_ignored, weak.coef_.T]), weak.intercept_)]
    good_layers = list(zip(good.coefs_, good.intercepts_, strict=True))

    model = repository / MODEL
    shutil.rmtree(model, ignore_errors=True)
    model.mkdir(parents=True)
    shutil.copy(SOURCE / "config.pbtxt", model)
    _write(model / "1", weak_layers)
    _write(model / "2", good_layers)
    _write(model / "3", good_layers, raises_on=[RAISES_ON], slow_on=[SLOW_ON])
    _write(model / "4", good_layers, shape=(8, 8))

    reads_well = good.predict(unseen)
    predictions = {1: weak.predict(unseen[:, LOWER_HALF:]), 2: reads_well, 3: reads_well}
    return HeldOut(unseen, labels, predictions)


def _write(
    directory: Path,
    layers: list[tuple[Array, Array]],
    *,
    shape: tuple[int, ...] = (64,),
    raises_on: list[int] | None = None,
    slow_on: list[int] | None = None,
) -> None:
    directory.mkdir()
    shutil.copy(SOURCE / "model.py", directory)
    arrays: dict[str, Array] = {
        "shape": np.array(shape, np.int64),
        "raises_on": np.array(raises_on or [], np.int64),
        "slow_on": np.array(slow_on or [], np.int64),
        "seconds": np.array(SLOW_SECONDS),
    }
    for number, (weight, bias) in enumerate(layers):
        arrays[f"weight{number}"] = weight.astype(np.float32)
        arrays[f"bias{number}"] = bias.astype(np.float32)
    np.savez(directory / "weights.npz", allow_pickle=False, **arrays)
