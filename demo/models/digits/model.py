"""A digit classifier in Triton's python backend: one dense network, read from ``weights.npz``.

Every version is this file; its weights make the difference. ``shape`` is what one image looks
like; ``raises_on`` and ``slow_on`` are the digits at which a broken version shows its faults.
"""

import pathlib
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb


def weights_of(directory: pathlib.Path) -> Any:
    """What one version's directory says."""
    return np.load(directory / "weights.npz")


class TritonPythonModel:
    """One version of the model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Tell Triton what goes in and out, whatever it was told for another version."""
        shape = weights_of(pathlib.Path(__file__).parent)["shape"].tolist()
        described = config.as_dict()
        described["input"] = [{"name": "image", "data_type": "TYPE_FP32", "dims": shape}]
        described["output"] = [
            {"name": "label", "data_type": "TYPE_INT64", "dims": [1]},
            {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]},
        ]
        return config

    def initialize(self, _arguments: Any) -> None:
        """Read the layers: relu between them, softmax at the end."""
        weights = weights_of(pathlib.Path(__file__).parent)
        layers = len([name for name in weights.files if name.startswith("weight")])
        self.layers = [(weights[f"weight{n}"], weights[f"bias{n}"]) for n in range(layers)]
        self.raises_on, self.slow_on = weights["raises_on"], weights["slow_on"]
        self.seconds = float(weights["seconds"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request by itself: one that raises takes no other down."""
        return [self.answer(request) for request in requests]

    def answer(self, request: Any) -> Any:
        """Classify one request's batch of images."""
        images = pb.get_input_tensor_by_name(request, "image").as_numpy()
        probabilities = self.classify(images.reshape(len(images), -1))
        labels = probabilities.argmax(axis=1)
        if np.isin(labels, self.raises_on).any():
            return pb.InferenceResponse(error=pb.TritonError("this version cannot read that digit"))
        if np.isin(labels, self.slow_on).any():
            time.sleep(self.seconds)
        return pb.InferenceResponse(
            [pb.Tensor("label", labels[:, None]), pb.Tensor("probabilities", probabilities)]
        )

    def classify(self, values: Any) -> Any:
        """Probabilities of the ten digits for rows of pixels."""
        for weight, bias in self.layers[:-1]:
            values = np.maximum(values @ weight + bias, 0)
        weight, bias = self.layers[-1]
        logits = values @ weight + bias
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)
