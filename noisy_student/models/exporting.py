"""A trained classifier as a file that does not need this package: an ONNX file needs no torch either, and a program of
torch.export needs torch alone.

N images, H x W pixels, C channels, K classes.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisy_student.models.classifier import Classifier
from noisy_student.models.onnx_model import IMAGES, INT8, MODEL, PROBABILITIES

MOST = 2**15  # images in a batch, and pixels a side
PROGRAM = "model.pt2"
AT_ONCE = 256  # images that a program is given


class Exported(nn.Module):
    """Probabilities float32 (N,K) of uint8 images (N,H,W,C) of any size: crop or pad, resize, normalize, classify."""

    def __init__(self, classifier: Classifier, image_size: tuple[int, int], pads: bool, background: int):
        super().__init__()
        self.classifier, self.image_size, self.pads, self.background = classifier, image_size, pads, background

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).float()
        square = self._padded(pixels) if self.pads else self._cropped(pixels)
        for side in square.shape[2:]:
            torch._check(side > 0)
        resized = F.interpolate(square, size=self.image_size, mode="bilinear", antialias=True)
        return self.classifier(resized.round().clamp(0, 255)).softmax(1)

    def _cropped(self, pixels: Tensor) -> Tensor:
        """The middle square of `pixels` (N,C,H,W)."""
        height, width = pixels.shape[2:]
        side = torch.sym_min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        # a slice would be a view, whose strides differ for square images, so that a program would refuse either
        rows, columns = (first + torch.arange(side, device=pixels.device) for first in (top, left))
        return pixels.index_select(2, rows).index_select(3, columns)

    def _padded(self, pixels: Tensor) -> Tensor:
        """All of `pixels` (N,C,H,W) in the middle of a square."""
        height, width = pixels.shape[2:]
        side = torch.sym_max(height, width)
        top, left = (side - height) // 2, (side - width) // 2
        edges = [left, side - width - left, top, side - height - top]
        return F.pad(pixels, edges, value=float(self.background))


def export_program(classifier: Classifier, description: dict[str, Any]) -> torch.export.ExportedProgram:
    """The program of a classifier, whose model.json is `description`; see `Exported` for what it takes and gives."""
    how, size = description["preparation"], tuple(description["image_size"])
    module = Exported(classifier, (size[0], size[1]), how["resize"] == "pad", how["background"]).eval().cpu()
    example = torch.zeros(2, size[0] + 8, size[1] + 5, description["channels"], dtype=torch.uint8)
    axes = {axis: torch.export.Dim(name, min=1, max=MOST) for axis, name in enumerate("NHW")}
    with _quiet():
        return torch.export.export(module, (example,), dynamic_shapes=(axes,))


def save_program(folder: Path, program: torch.export.ExportedProgram) -> None:
    """Write the program into `folder`, for torch."""
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        torch.export.save(program, folder / PROGRAM)


def program_of(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """What the program in `folder` gives for uint8 images (N,H,W,C): probabilities float32 (N,K)."""
    with _quiet():
        module = torch.export.load(folder / PROGRAM).module()

    def probabilities(images: np.ndarray) -> np.ndarray:
        parts = [torch.from_numpy(images[at : at + AT_ONCE]) for at in range(0, len(images), AT_ONCE)]
        with torch.inference_mode():
            return np.concatenate([module(part).numpy() for part in parts])

    return probabilities


def save_onnx(folder: Path, program: torch.export.ExportedProgram) -> None:
    """Write the program into `folder`, as ONNX."""
    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        translated = torch.onnx.export(program, dynamo=True, input_names=[IMAGES], output_names=[PROBABILITIES])
        if translated is None:
            raise ValueError("the exporter returned no program")
        translated.save(folder / MODEL)


def quantize(folder: Path, images: np.ndarray) -> None:
    """Write the model of 8 bits beside the exported one in `folder`; convolutions and matrices take 8 bits.

    The ranges of activations are measured on uint8 `images` (N,H,W,C).
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = iter([{IMAGES: each[None]} for each in images])

        def get_next(self) -> Any:
            return next(self.batches, None)

    with _quiet():
        quantize_static(
            folder / MODEL,
            folder / INT8,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print their steps, and warn of their own calls."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
