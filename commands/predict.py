"""Say what a folder of images shows: python -m commands.predict FOLDER OUT.csv [--model models/iter2] [--abstain 0.8]

OUT is a CSV or Parquet file, as its name says, with a row for each file below FOLDER: path, label, confidence, reason.
The confidence is the model's probability, 0 to 1; below --abstain, the label is `abstain`. A file that cannot be used
has a reason instead of a label and a confidence. Images are prepared in the same way as the training images. A model
that `noisy-student export` wrote needs no torch.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from commands.model_folder import check_folder
from noisy_student.core.config import validated
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import write_csv, write_parquet
from noisy_student.core.metrics import softmax
from noisy_student.core.progress import meter
from noisy_student.data.listing import files_below
from noisy_student.models.onnx_model import MODEL, OnnxModel
from noisy_student.store.decoding import BadImage, Preparation, decode_file

ABSTAIN = "abstain"
FILES_AT_ONCE = 512  # that are decoded before they are labeled


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path, help="a file to write, .csv or .parquet")
    parser.add_argument("--model", type=Path, help="a model's folder; none: the one to deploy, or that of `current`")
    parser.add_argument("--abstain", type=float, default=0.0, help="least confidence, 0 to 1, of a label")
    args = parser.parse_args(argv)
    if args.out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{args.out} must end in .csv or .parquet")
    if not 0 <= args.abstain <= 1:
        raise UserError(f"--abstain was {args.abstain}; it must be from 0 to 1")
    if not args.folder.is_dir():
        raise UserError(f"{args.folder} is no folder of images")

    probabilities, description = predictor(args.model)
    table = labeled(args.folder, probabilities, description, args.abstain)
    if args.out.suffix == ".csv":
        write_csv(args.out, table)
    else:
        write_parquet(args.out, pa.Table.from_pandas(table, preserve_index=False))
    unusable = int((table["reason"] != "").sum())
    print(f"{len(table) - unusable:,} files labeled, {unusable:,} unusable; see {args.out}")


Predictor = Callable[[np.ndarray], np.ndarray]  # uint8 images (N,H,W,C) -> probabilities (N,K)


def predictor(model: Path | None) -> tuple[Predictor, dict[str, Any]]:
    """What predicts, and its description: an exported model, which needs no torch, or a trained one."""
    if model and (model.suffix == ".onnx" or (model / MODEL).exists()):
        exported = OnnxModel(model.parent, model.name) if model.suffix == ".onnx" else OnnxModel(model)
        return exported.probabilities, exported.description
    check_folder(model)
    from commands.trained import load_trained  # not where torch is not installed
    from noisy_student.models.prediction import predict_logits

    classifier, description, runtime = load_trained(model)
    return lambda images: softmax(predict_logits(classifier, images, runtime)), description


def labeled(folder: Path, probabilities: Predictor, description: dict[str, Any], abstain: float = 0.0) -> pd.DataFrame:
    """A row for each file below `folder`: path, label, confidence (NaN where there is none), reason ("" where used)."""
    how = validated(Preparation, description["preparation"], "preparation")
    names, found = np.array([*description["classes"], ""], dtype=object), list(files_below(folder))
    rows = []
    with meter("labeling", len(found)) as progress:
        for start in range(0, len(found), FILES_AT_ONCE):
            paths, images, reasons = decoded(folder, found[start : start + FILES_AT_ONCE], how, description["channels"])
            usable = [reason == "" for reason in reasons]
            labels, confidence = np.full(len(paths), len(names) - 1), np.full(len(paths), np.nan)
            if len(images):
                predicted = probabilities(images)
                labels[usable], confidence[usable] = predicted.argmax(axis=1), predicted.max(axis=1)
            label = np.where(confidence < abstain, ABSTAIN, names[labels])
            of_batch = {"path": paths, "label": label, "confidence": confidence.round(4), "reason": reasons}
            rows.append(pd.DataFrame(of_batch))
            progress.advance(len(paths))
    return (
        pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["path", "label", "confidence", "reason"])
    )


def decoded(
    folder: Path, files: list[tuple[str, str]], how: Preparation, channels: int
) -> tuple[list[str], np.ndarray, list[str]]:
    """The paths of `files`, the usable ones' images uint8 (n,H,W,C), and what is wrong with each, "" for nothing."""
    images, reasons = [], []
    for path, problem in files:
        try:
            if problem:
                raise BadImage(problem)
            images.append(decode_file(folder, path, how, channels))
            reasons.append("")
        except BadImage as bad:
            reasons.append(str(bad))
    size = how.image_size
    return [path for path, _ in files], np.array(images, np.uint8).reshape(-1, size, size, channels), reasons


if __name__ == "__main__":
    main()
