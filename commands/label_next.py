"""Name the pool images whose label would teach most: python -m commands.label_next OUT [--images 48]

OUT is a folder: label_next.csv (id, label), sheet.png (the images, numbered as in that file) and guesses.csv (the
model's predictions). Fill in the labels that you know, leave the others empty, and append the lines to corrections.csv:
the next run trains on them.

The images are those whose two most probable classes are closest (margin sampling, Scheffer et al. 2001), and among
these the ones that differ most in their probabilities (farthest first, Sener and Savarese 2018).
"""

from argparse import ArgumentParser
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from commands.trained import load_trained
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import write_csv
from noisy_student.core.metrics import softmax
from noisy_student.data.data_card import save_sheet
from noisy_student.models.prediction import predict_split
from noisy_student.store.splits import read_split

CANDIDATES = 10  # for each image that is named
SAME = ("classes", "channels", "image_size")  # in the model and in the pool


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a folder to write into")
    parser.add_argument("--images", type=int, default=48, help="how many to name")
    parser.add_argument("--model", type=Path, help="a model's folder; none: the one to deploy, or that of `current`")
    parser.add_argument("--pool", type=Path, default=Path("data/pool"))
    args = parser.parse_args(argv)
    check_count(args.images)

    if (args.out / "label_next.csv").exists():
        raise UserError(f"{args.out}/label_next.csv is there, perhaps with labels; name another folder")

    found = to_label(args.model, args.pool, args.images)
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "label_next.csv", found.table[["id"]].assign(label=""))
    write_csv(args.out / "guesses.csv", found.table[["id", "guess", "margin"]])
    save_sheet(args.out / "sheet.png", found.images, numbered=True)
    print(f"{len(found.table)} images are in {args.out}/sheet.png; fill in their labels in {args.out}/label_next.csv")


def check_count(images: int) -> None:
    """Raise `UserError` where --images asks for none."""
    if images < 1:
        raise UserError(f"--images was {images}; it must be 1 or more")


class ToLabel(NamedTuple):
    """Pool images whose label would teach most, n of them, the one that would teach most first."""

    table: pd.DataFrame  # id, guess, confidence, margin
    images: np.ndarray  # uint8 (n,H,W,C)
    classes: list[str]


def to_label(model: Path | None, folder: Path, count: int, known: Collection[str] = ()) -> ToLabel:
    """At most `count` images of the pool in `folder` that the `model`, or the one to use, would learn most from.

    Those whose ids are `known` are left out.
    """
    classifier, description, runtime = load_trained(model)
    pool = read_split(folder)
    if [pool.classes, pool.channels, list(pool.image_size)] != [description[key] for key in SAME]:
        raise UserError(f"{folder} has other classes or images than the model was trained on; name another pool")
    logits = np.concatenate(
        [predictions.logits for _, predictions in predict_split(classifier, pool, runtime, "predicting the pool")]
    )
    unknown = np.flatnonzero(~np.isin(pool.ids, list(known)))
    if not len(unknown):
        raise UserError(f"every image of {folder} has a label already; add images to the pool")
    probabilities = softmax(logits[unknown])
    chosen = worth_labeling(probabilities, count)
    guesses = np.array(description["classes"])[probabilities[chosen].argmax(axis=1)]
    figures = {"confidence": probabilities[chosen].max(axis=1), "margin": margins(probabilities[chosen])}
    rows = unknown[chosen]
    return ToLabel(pd.DataFrame({"id": pool.ids[rows], "guess": guesses, **figures}), pool.images(rows), pool.classes)


def worth_labeling(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Rows int64 (count,) of `probabilities` (N,K): unsure ones that differ, the least sure one first."""
    unsure = np.argsort(margins(probabilities), kind="stable")[: CANDIDATES * count]
    candidates = probabilities[unsure]
    chosen = [0]
    nearest = np.linalg.norm(candidates - candidates[0], axis=1)
    while len(chosen) < min(count, len(unsure)):
        nearest[chosen[-1]] = -1  # never again
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(candidates - candidates[chosen[-1]], axis=1))
    return unsure[chosen]


def margins(probabilities: np.ndarray) -> np.ndarray:
    """By how much the most probable class leads, (N,), of `probabilities` (N,K)."""
    highest = np.partition(probabilities, -2, axis=1)
    return highest[:, -1] - highest[:, -2]


if __name__ == "__main__":
    main()
