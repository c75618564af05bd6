"""Export a model as ONNX, which runs without torch: python -m commands.export OUT [--model models/iter2] [--int8]

OUT is a folder: model.onnx (uint8 images (N,H,W,C) of any size in, probabilities (N,K) out; resizing and normalization
are inside), model.json (classes, and how images are prepared) and README.md (a model card for Hugging Face). The labels
are compared with those of the original on the images of --check. --int8 adds model.int8.onnx, with weights and
activations of 8 bits, if it keeps those labels. `noisy-student predict --model OUT` labels a folder with it.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from commands.model_card import model_card, results_of
from commands.trained import trained
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import digest, write_bytes, write_json
from noisy_student.core.metrics import softmax
from noisy_student.models.checkpoint import WEIGHTS
from noisy_student.models.classifier import load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.onnx_export import export, quantize
from noisy_student.models.onnx_model import DESCRIPTION, INT8, MODEL, OnnxModel
from noisy_student.models.prediction import predict_logits
from noisy_student.store.splits import read_split

LEAST_EQUAL = 0.999  # of the labels, for an exported model
INT8_LEAST_EQUAL = 0.99  # of the labels, for one of 8 bits
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
    args = parser.parse_args(argv)
    if (args.out / WEIGHTS).exists():
        raise UserError(f"{args.out} holds a trained model; name another folder")

    folder, runtime = trained(args.model)
    classifier, description = load_classifier(folder, setup(runtime))
    images = first_images(args.check, MAX_CHECKED)
    original = timed(lambda given: softmax(predict_logits(classifier, given, runtime)), images)
    export(args.out, load_classifier(folder, torch.device("cpu"))[0], description)  # one that has not predicted yet
    exported = {**description, "exported_from": folder.as_posix(), "weights_sha256": digest(folder / WEIGHTS)}
    write_json(args.out / DESCRIPTION, exported)
    report(check_same(args.out, MODEL, images, original, LEAST_EQUAL), args.out / MODEL, original, runtime)
    if args.int8:
        add_int8(args.out, first_images(args.calibration, CALIBRATION_IMAGES), images, original, runtime)
    figures = results_of(exported["weights_sha256"])
    write_bytes(args.out / "README.md", model_card(exported, figures).encode())
    print(f"see {args.out}")


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


def first_images(folder: Path, most: int) -> np.ndarray:
    """The first images of the split in `folder`."""
    split = read_split(folder)
    return split.images(np.arange(min(most, len(split))))


def check_same(folder: Path, file: str, images: np.ndarray, original: Timed, least: float) -> Timed:
    """What an exported file predicts. Raises `UserError` where too few labels are those of the original."""
    found = timed(OnnxModel(folder, file).probabilities, images)
    if (same := equal(found, original)) < least:
        raise UserError(f"{folder / file} gives the original's label to {100 * same:.1f} % of {len(images):,} images")
    return found


def equal(one: Timed, other: Timed) -> float:
    """The share of images that get the same label."""
    return float((one.probabilities.argmax(axis=1) == other.probabilities.argmax(axis=1)).mean())


def report(found: Timed, file: Path, original: Timed, runtime: RuntimeParams) -> None:
    """Print how an exported file compares with the original."""
    images, off = len(found.probabilities), float(np.abs(found.probabilities - original.probabilities).max())
    print(
        f"{file}: {file.stat().st_size / 1e6:.1f} MB; the same label for {100 * equal(found, original):.2f} % of "
        f"{images:,} images, probabilities at most {off:.1g} off; {found.rate:,.0f} images/s where torch has "
        f"{original.rate:,.0f} on {runtime.threads} threads",
        flush=True,
    )


def add_int8(
    folder: Path, calibration: np.ndarray, images: np.ndarray, original: Timed, runtime: RuntimeParams
) -> None:
    """Add the model of 8 bits; where it does not keep the labels, say so and remove it."""
    quantize(folder, calibration)
    try:
        report(check_same(folder, INT8, images, original, INT8_LEAST_EQUAL), folder / INT8, original, runtime)
    except UserError as error:
        (folder / INT8).unlink()
        print(f"{error}, so it is not kept", flush=True)


if __name__ == "__main__":
    main()
