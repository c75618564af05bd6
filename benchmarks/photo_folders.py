"""Photographs as an ordinary folder of JPEG files, from the Parquet files that hold their bytes.

    python -m benchmarks.photo_folders clothing SOURCE FOLDER [--labels-per-class 20] [--draw 0]
    python -m benchmarks.photo_folders tiles SOURCE FOLDER [--labels-per-class 15]

SOURCE has clothing.parquet (path, split, label, jpeg), and tiles, cifar10-train and cifar10-test.parquet (path, label,
jpeg). That many images of each class, drawn anew for each draw, become labeled/<class>/, the other ones pool/. The test
split of clothing is that of its table, whose validation split is left out; clothing_validation has the validation split
in its place, so that recipes can be chosen. A fourth of the tiles of each class is the test split in all draws. Of
CIFAR-10 the first images are taken: CIFAR_TRAINING and CIFAR_TEST.
"""

import io
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from benchmarks.cifar_folder import write
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.randomness import generator
from noisy_student.data.near_duplicates import near_duplicates

HELD_OUT = {  # the split that is the test split, and the one that is left out
    "clothing": ("test", "validation"),
    "clothing_validation": ("validation", "test"),
}
SETS = (*HELD_OUT, "tiles", "cifar10")
CIFAR_TRAINING, CIFAR_TEST = 3000, 1000  # images
PARTS = ("labeled", "pool", "test")
TEST_SHARE = 0.25  # of the tiles of each class, at least
THUMBNAIL = 64  # pixels a side, of images that are compared
ALIKE = 0.9  # agreement of images that are of the same tile; below the one at which `prepare` takes an image out


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETS)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--labels-per-class", type=int, default=20, help="labeled images of each class, or half of the class"
    )
    parser.add_argument("--draw", type=int, default=0, help="which draw of the labels")
    args = parser.parse_args(argv)
    if there := [part for part in PARTS if (args.folder / part).exists()]:
        raise UserError(f"{args.folder / there[0]} is there, and its images would mix with these; remove it")
    lay_out(drawn_table(args.name, args.source, args.labels_per_class, args.draw), args.folder)


def drawn_table(name: str, source: Path, labels: int, draw: int) -> pd.DataFrame:
    """The photographs of that name in the folder `source`: label, jpeg, and part, see `drawn`."""
    return drawn(photographs(name, source, CIFAR_TRAINING, CIFAR_TEST), labels, draw)


def photographs(name: str, source: Path, cifar_training: int | None, cifar_test: int | None) -> pd.DataFrame:
    """The photographs of that name in the folder `source`: label, jpeg, and split where they come with one. Of CIFAR-10
    so many; None: all."""
    if name == "cifar10":
        parts = (("train", cifar_training), ("test", cifar_test))
        tables = (pq.read_table(source / f"cifar10-{part}.parquet").to_pandas()[:count] for part, count in parts)
        table = pd.concat([each.assign(split=part) for each, (part, _) in zip(tables, parts, strict=True)])
        return table.reset_index(drop=True)
    if name in HELD_OUT:
        held_out, other = HELD_OUT[name]
        table = pq.read_table(source / "clothing.parquet").to_pandas()
        return table[table["split"] != other].replace({"split": {held_out: "test"}}).reset_index(drop=True)
    return pq.read_table(source / f"{name}.parquet").to_pandas()


def in_test(table: pd.DataFrame) -> pd.Series:
    """Which photographs of `table` are in the test split: that which they come with, or one that is drawn."""
    return table["split"] == "test" if "split" in table else drawn_test(table["label"], look_alikes(table["jpeg"]))


def lay_out(table: pd.DataFrame, folder: Path) -> None:
    """Write the photographs of `table` into `folder`; a file is named by its row."""
    for number, image in enumerate(table.itertuples()):
        write(folder / (image.part if image.part == "pool" else f"{image.part}/{image.label}"), number, image.jpeg)


def drawn(table: pd.DataFrame, labels: int, draw: int) -> pd.DataFrame:
    """`table` with a column part: labeled, pool or test. Of a class of few images at most half are labeled."""
    test = in_test(table)
    part = pd.Series(np.where(test, "test", "pool"), index=table.index)
    for label, rows in table.index[~test].groupby(table["label"][~test]).items():
        order = generator(draw, f"labels of {label}").permutation(rows)
        part[order[: min(labels, len(order) // 2)]] = "labeled"
    return table.assign(part=part)


def look_alikes(files: pd.Series) -> np.ndarray:
    """The number (N,) of the group of each of N encoded images: those that look alike, directly or over others."""
    thumbnails = [Image.open(io.BytesIO(file)).convert("RGB").resize((THUMBNAIL, THUMBNAIL)) for file in files]
    pairs, _ = near_duplicates(np.stack([np.asarray(each) for each in thumbnails]), ALIKE)
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(files), len(files)))
    return connected_components(graph, directed=False)[1]


def drawn_test(labels: pd.Series, groups: np.ndarray) -> pd.Series:
    """Whether an image is in the test split: whole groups, until it has TEST_SHARE of each class, the rarest first."""
    test = pd.Series(False, index=labels.index)
    for label in labels.value_counts(ascending=True).index:
        of_class = labels == label
        for group in generator(0, f"test of {label}").permutation(np.unique(groups[of_class])):
            if test[of_class].mean() < TEST_SHARE:
                test |= groups == group
    return test


if __name__ == "__main__":
    main()
