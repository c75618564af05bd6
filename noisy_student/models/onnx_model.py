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
PROVIDERS = ("CUDAExecutionProvider", "CPUExecutionProvider")  # of onnxruntime, the first that is there
BATCH_PIXELS = 2**20  # that go through the network at once, at most


class OnnxModel:
    """The model in an exported `folder`, which runs on so many `threads`; 0: on all cores.

    Raises `UserError` where there is none that can be read.
    """

    def __init__(self, folder: Path, file: str = MODEL, threads: int = 0):
        try:
            import onnxruntime
        except ModuleNotFoundError:
            raise UserError(
                f"{folder} is an exported model, which needs onnxruntime; pip install onnxruntime"
            ) from None
        self.description = _description(folder / DESCRIPTION)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        providers = [each for each in PROVIDERS if each in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(folder / file, options, providers=providers)
        except Exception as error:  # the errors of onnxruntime have no common class
            raise UserError(f"{folder / file} cannot be read ({one_line(error)}); export the model again") from None

    @property
    def device(self) -> str:
        """What it runs on, such as cpu."""
        return str(self.session.get_providers()[0]).removesuffix("ExecutionProvider").lower()

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Probabilities float32 (N,K) of uint8 `images` (N,H,W,C), which may be memory-mapped."""
        height, width = images.shape[1:3]
        size = max(1, BATCH_PIXELS // (height * width))
        parts = [
            self.session.run([PROBABILITIES], {IMAGES: np.asarray(images[start : start + size])})[0]
            for start in range(0, len(images), size)
        ]
        return np.concatenate(parts)


def _description(path: Path) -> dict[str, Any]:
    """The model.json at `path`, with what a prediction needs."""
    found = read_json(path)
    if not isinstance(found, dict) or not {"classes", "channels", "preparation"} <= found.keys():
        raise UserError(f"{path} does not describe an exported model; export the model again")
    return found
