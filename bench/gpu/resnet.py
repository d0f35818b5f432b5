"""A ResNet as a model of Triton's python backend: random weights, images made on its device.

A row of the input stands for an image: its first value scales a random picture that lies on the
device already, so that what is measured is the device, not the wire. Of the output, the first
logits are sent back. Triton copies this file into its model repository as ``model.py``.
"""

import json
import os
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

# Triton starts its models without the PYTHONPATH that it was given.
sys.path.insert(0, os.environ["BENCH_PACKAGES"])

import torch
import torchvision

PIXELS = 224


class TritonPythonModel:
    """ResNet-``depth``, ``depth`` a parameter of the model's config."""

    def initialize(self, args: dict[str, str]) -> None:
        """Build the network, and run each power of two once: the first run of a size is slow."""
        config = json.loads(args["model_config"])
        depth = config["parameters"]["depth"]["string_value"]
        self._width = int(config["output"][0]["dims"][0])
        on_gpu = args["model_instance_kind"] == "GPU"
        self._device = torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        torch.manual_seed(0)
        self._network = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        self._network.eval().to(self._device)
        self._picture = torch.rand(3, PIXELS, PIXELS, device=self._device)
        rows, most = 1, int(config["max_batch_size"])
        while rows <= most:
            self._logits(np.zeros((rows, self._width), np.float32))
            rows *= 2

    def execute(self, requests: list[Any]) -> list[Any]:
        """One run for all requests that Triton hands over at once."""
        inputs = [pb_utils.get_input_tensor_by_name(one, "x").as_numpy() for one in requests]
        logits = self._logits(np.concatenate(inputs))
        ends = np.cumsum([len(one) for one in inputs])[:-1]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("y", np.ascontiguousarray(one))])
            for one in np.split(logits, ends)
        ]

    def _logits(self, x: Any) -> Any:
        with torch.inference_mode():
            scale = torch.from_numpy(x[:, 0].copy()).to(self._device)
            images = self._picture * (1 + scale.view(-1, 1, 1, 1))
            return self._network(images)[:, : self._width].cpu().numpy()
