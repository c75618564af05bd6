"""An exported model, which runs where torch is not installed.

N images, H x W pixels, C channels, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np

from noisy_student.core.errors import UserError, one_line
from noisy_student.core.files import read_json

MODEL, INT8, DESCRIPTION = "model.onnx", "model.int8.onnx", "model.json"
IMAGES, PROBABILITIES = "images", "probabilities"
BATCH_PIXELS = 2**20  # that go through the network at once, at most


class OnnxModel:
    """The model in an exported `folder`. Raises `UserError` where there is none that can be read."""

    def __init__(self, folder: Path, file: str = MODEL):
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError(
                f"{folder} is an exported model, which needs onnxruntime; pip install onnxruntime"
            ) from None
        self.description: dict[str, Any] = read_json(folder / DESCRIPTION)
        try:
            self.session = onnxruntime.InferenceSession(folder / file, providers=onnxruntime.get_available_providers())
        except Exception as error:  # the errors of onnxruntime have no common class
            raise UserError(f"{folder / file} cannot be read ({one_line(error)}); export the model again") from None

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float32 (N,K) of uint8 `images` (N,H,W,C), which may be memory-mapped."""
        height, width = images.shape[1:3]
        size = max(1, BATCH_PIXELS // (height * width))
        parts = [
            self.session.run([PROBABILITIES], {IMAGES: np.asarray(images[start : start + size])})[0]
            for start in range(0, len(images), size)
        ]
        return np.concatenate(parts)
