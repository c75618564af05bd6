"""Say what a folder of images shows: python -m commands.predict FOLDER OUT.csv [--model models/iter2] [--abstain 0.8]

OUT is a CSV or Parquet file, as its name says, with a row for each file below FOLDER: path, label, confidence, reason.
The confidence is the model's probability, 0 to 1; below --abstain, the label is `abstain`. A file that cannot be used
has a reason instead of a label and a confidence. Images are prepared in the same way as the training images.
"""

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from noisy_student.core.config import PARAMS_FILE, ParamsFile, validated
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import digest, read_json, write_csv, write_parquet
from noisy_student.core.metrics import softmax
from noisy_student.core.progress import meter
from noisy_student.data.listing import files_below
from noisy_student.models.checkpoint import WEIGHTS
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.prediction import BATCH_SIZE, predict_logits
from noisy_student.store.decoding import BadImage, Preparation, decode_file

ABSTAIN = "abstain"
SUMMARY = Path("metrics/summary.json")


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

    classifier, description, runtime = load_trained(args.model)
    table = labeled(args.folder, classifier, description, runtime, args.abstain)
    if args.out.suffix == ".csv":
        write_csv(args.out, table)
    else:
        write_parquet(args.out, pa.Table.from_pandas(table, preserve_index=False))
    unusable = int((table["reason"] != "").sum())
    print(f"{len(table) - unusable:,} files labeled, {unusable:,} unusable; see {args.out}")


def load_trained(model: Path | None) -> tuple[Classifier, dict[str, Any], RuntimeParams]:
    """The classifier in the folder `model`, or the one to use, its description, and how it runs.

    Where there is no params.yaml it runs on a GPU if there is one, and on all cores.
    """
    if model and not model.is_dir():
        raise UserError(
            f"there is no folder {model}; name a model's folder, or run `dvc repro` if a stage makes this one"
        )
    if not PARAMS_FILE.exists():
        if not model:
            raise UserError(f"there is no {PARAMS_FILE} here that names a model; add --model and a model's folder")
        threads = torch.get_num_threads()
        runtime = RuntimeParams(device="auto", precision="float32", threads=threads, deterministic=True)
        return *load_classifier(model, setup(runtime)), runtime
    params = ParamsFile()
    runtime = params.section("runtime", RuntimeParams)
    return *load_classifier(model or deployed(params), setup(runtime)), runtime


def deployed(params: ParamsFile) -> Path:
    """The folder of the model that the last run says to deploy; where it is undecided, that of `current`."""
    deploy = read_json(SUMMARY).get("deploy") if SUMMARY.exists() else None
    if not deploy or not deploy["decided"]:
        return Path("models") / params.section("current", str)
    folder = Path(deploy["folder"])
    if not (folder / WEIGHTS).exists() or digest(folder / WEIGHTS) != deploy["weights_sha256"]:
        raise UserError(
            f"{folder} is not there as {SUMMARY} has it, which says to deploy it; run `dvc repro`, or name a model's "
            "folder with --model"
        )
    print(f"with {folder}, the model to deploy; --model names another one", flush=True)
    return folder


def labeled(
    folder: Path, classifier: Classifier, description: dict[str, Any], runtime: RuntimeParams, abstain: float = 0.0
) -> pd.DataFrame:
    """A row for each file below `folder`: path, label, confidence (NaN where there is none), reason ("" where used)."""
    how = validated(Preparation, description["preparation"], "preparation")
    names, found = np.array([*description["classes"], ""], dtype=object), list(files_below(folder))
    rows = []
    with meter("labeling", len(found)) as progress:
        for start in range(0, len(found), BATCH_SIZE):
            paths, images, reasons = decoded(folder, found[start : start + BATCH_SIZE], how, description["channels"])
            usable = [reason == "" for reason in reasons]
            labels, confidence = np.full(len(paths), len(names) - 1), np.full(len(paths), np.nan)
            if len(images):
                probabilities = softmax(predict_logits(classifier, images, runtime))
                labels[usable], confidence[usable] = probabilities.argmax(axis=1), probabilities.max(axis=1)
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
