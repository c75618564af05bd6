"""Export a model as ONNX, which runs without torch: python -m commands.export OUT [--model models/iter2] [--int8]

OUT is a folder: model.onnx (uint8 images (N,H,W,C) of any size in, probabilities (N,K) out; resizing and normalization
are inside), model.json (classes, and how images are prepared) and README.md (a model card for Hugging Face). The labels
are compared with those of the original on the images of --check. --int8 adds model.int8.onnx, with weights and
activations of 8 bits, if it keeps those labels. --torch adds model.pt2, the same program for torch.export.load.
`noisy-student predict --model OUT` labels a folder with the ONNX file.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from commands.model_card import model_card, results_of
from commands.trained import trained
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import digest, read_json, replacing, write_bytes, write_json
from noisy_student.core.metrics import softmax
from noisy_student.models.checkpoint import WEIGHTS
from noisy_student.models.classifier import load_classifier
from noisy_student.models.device import setup
from noisy_student.models.exporting import PROGRAM, export_program, program_of, quantize, save_onnx, save_program
from noisy_student.models.onnx_model import DESCRIPTION, INT8, MODEL, OnnxModel
from noisy_student.models.prediction import predict_logits
from noisy_student.store.splits import read_split

LEAST_EQUAL = {MODEL: 0.999, PROGRAM: 0.999, INT8: 0.99}  # of the labels
MAX_CHECKED = 2000  # images
CALIBRATION_IMAGES = 100  # that the range of activations is measured on, at most


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a folder to write into")
    parser.add_argument("--model", type=Path, help="a model's folder; none: the one to deploy, or that of `current`")
    parser.add_argument("--check", type=Path, default=Path("data/test"), help="a split to compare labels on")
    parser.add_argument("--calibration", type=Path, default=Path("data/calibration"), help="a split for --int8")
    parser.add_argument("--int8", action="store_true", help="also a model of 8 bits, if it keeps the labels")
    parser.add_argument("--torch", action="store_true", help="also a program for torch.export.load")
    args = parser.parse_args(argv)
    check_out(args.out)
    folder, runtime = trained(args.model)
    runtime = runtime.model_copy(update={"precision": "float32"})  # that of the exported model
    device = setup(runtime)
    classifier, description = load_classifier(folder, device)
    images = first_images(args.check, MAX_CHECKED, description, "--check")
    measured = first_images(args.calibration, CALIBRATION_IMAGES, description, "--calibration") if args.int8 else None
    original = timed(lambda given: softmax(predict_logits(classifier, given, runtime)), images)
    comparison = Comparison(images, original, device.type, runtime.threads)
    fresh = load_classifier(folder, torch.device("cpu"))[0]  # the exporter takes none that has predicted
    exported = {**description, "exported_from": folder.as_posix(), "weights_sha256": digest(folder / WEIGHTS)}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(args.out) as temporary:
        program = export_program(fresh, description)
        save_onnx(temporary, program)
        write_json(temporary / DESCRIPTION, exported)
        print(comparison.with_onnx(temporary / MODEL), flush=True)
        if args.torch:
            save_program(temporary, program)
            print(comparison.with_exported(temporary / PROGRAM, program_of(temporary), "cpu"), flush=True)
        if measured is not None:
            print(add_int8(temporary, measured, comparison), flush=True)
        card = model_card(exported, results_of(exported["weights_sha256"]))
        write_bytes(temporary / "README.md", card.encode())
    print(f"see {args.out}")


def check_out(folder: Path) -> None:
    """Raise `UserError` where the folder holds something that no export wrote."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    earlier = read_json(folder / DESCRIPTION) if (folder / DESCRIPTION).exists() else None
    if not isinstance(earlier, dict) or "exported_from" not in earlier:
        raise UserError(f"{folder} holds something else than an exported model; name another folder")


class Timed(NamedTuple):
    """Probabilities (N,K), and how long they took."""

    probabilities: np.ndarray
    seconds: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.probabilities) / self.seconds


def timed(predict: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> Timed:
    """What `predict` says of `images` (N,H,W,C); the first few are predicted twice, so that no start is timed."""
    predict(images[:8])
    start = time.perf_counter()
    return Timed(predict(images), time.perf_counter() - start)


def first_images(folder: Path, most: int, description: dict[str, Any], option: str) -> np.ndarray:
    """The first images of the split in `folder`, which an `option` names."""
    if not folder.is_dir():
        raise UserError(f"there is no split {folder}; name one with {option}, such as data/validation")
    split = read_split(folder)
    if [split.channels, list(split.image_size)] != [description["channels"], list(description["image_size"])]:
        raise UserError(f"the images of {folder} are not those of the model; name another split with {option}")
    return split.images(np.arange(min(most, len(split))))


class Comparison(NamedTuple):
    """What an exported file is compared with."""

    images: np.ndarray  # uint8 (N,H,W,C)
    original: Timed
    device: str  # of the original, as torch calls it
    threads: int

    def with_onnx(self, file: Path) -> str:
        """Like `with_exported`, for an ONNX file."""
        exported = OnnxModel(file.parent, file.name, self.threads)
        return self.with_exported(file, exported.probabilities, exported.device)

    def with_exported(self, file: Path, predict: Callable[[np.ndarray], np.ndarray], device: str) -> str:
        """A sentence on an exported file, which predicts on that device. Raises `UserError` where it gives too few
        images the original's label."""
        found, images = timed(predict, self.images), f"{len(self.images):,} images"
        same = found.probabilities.argmax(axis=1) == self.original.probabilities.argmax(axis=1)
        share = 100 * float(same.mean())
        if same.mean() < LEAST_EQUAL[file.name]:
            raise UserError(f"{file.name} gives the original's label to {share:.1f} % of {images}")
        off = float(np.abs(found.probabilities - self.original.probabilities).max())
        rates = f"{found.rate:,.0f} images/s on {device}, and torch {self.original.rate:,.0f} on"
        return (
            f"{file.name}: {file.stat().st_size / 1e6:.1f} MB; the same label for {share:.2f} % of {images}; "
            f"probabilities at most {off:.1g} off; {rates} {self.device}, {self.threads} threads each"
        )


def add_int8(folder: Path, calibration: np.ndarray, comparison: Comparison) -> str:
    """Add the model of 8 bits to the exported `folder`; return a sentence. One that does not keep the labels is
    removed."""
    quantize(folder, calibration)
    try:
        return comparison.with_onnx(folder / INT8)
    except UserError as error:
        (folder / INT8).unlink()
        return f"{error}, so it is not kept"


if __name__ == "__main__":
    main()
