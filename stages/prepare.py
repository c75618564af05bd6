"""Split the source into labeled, pool, calibration, validation and test images, no image in two of them.

Reads   the source (an installed package, the folder of downloads, or a user's images), the corrections
Writes  a folder for each split, the pool's true labels in a separate file, lists of unusable files (quarantine) and of
        duplicate images (left out) with their reasons, the data card, a short report
Params  seed, data
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_csv, write_json
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import guarded, work_folder
from noisy_student.data import splitting
from noisy_student.data.corrections import read_corrections
from noisy_student.data.data_card import CARD, write_card
from noisy_student.data.dataset import Dataset
from noisy_student.data.image_folder import check_pool
from noisy_student.data.near_duplicates import leaks
from noisy_student.data.sources import DataParams, check_sizes, load
from noisy_student.store.encoded_images import EncodedImages
from noisy_student.store.selection import Selection
from noisy_student.store.splits import write_split, write_truth
from noisy_student.store.streamed_splits import write_streamed_split

MEGABYTE = 1_000_000


@command
def main(
    *,
    labeled: Path,
    pool: Path,
    calibration: Path,
    validation: Path,
    test: Path,
    pool_truth: Path,
    corrections: Path,
    quarantine: Path,
    left_out: Path,
    card: Path,
    report: Path,
) -> None:
    params = ParamsFile()
    data, seed = params.section("data", DataParams), params.section("seed", Seed)
    check_sizes(data)

    folders = {"labeled": labeled, "pool": pool, "calibration": calibration, "validation": validation, "test": test}
    with guarded(__file__, params, {"corrections": corrections}, data.user_path()):
        dataset = load(data, work_folder(), data.streamed_pool)
        if data.is_user_images and not data.labeled_per_class:  # otherwise labeled images that are left fill the pool
            check_pool(data.source, Path(data.path), dataset)
        images, index, ids = dataset.all_images(), dataset.index(), dataset.all_ids()
        corrected = read_corrections(corrections, ids, index.hashes, dataset.classes)
        splits = splitting.draw(data, seed, index).with_labels_of(np.array(list(corrected), np.int64))
        labels = index.labels.copy()
        labels[list(corrected)] = list(corrected.values())
        if data.near_duplicates:
            splits = without_near_duplicates(splits, images, data.near_duplicates, card / CARD)
        splitting.check_every_class_has_labels(splits, labels, dataset.classes)
        if places := dataset.image_places:
            splits = splits.with_pool(places.in_shard_order(splits.rows["pool"]))

        for name, rows in splits.rows.items():
            table, drops = index_of_split(name, rows, ids, index, labels)
            stays = places.by_shard(rows) if places and name == "pool" else None
            write(folders[name], stays or images.at(rows), table, drops, dataset, data)
        write_truth(pool_truth, ids.iloc[splits.rows["pool"]].array, labels[splits.rows["pool"]])
        figures = splitting.report(splits, labels, dataset.classes)
        print(*splitting.sizes_sentences(figures["images"]), sep="\n", flush=True)
        figures = {"source": data.source, **figures, **dataset.figures()}
        tables = {
            "left_out": splitting.left_out(splits, labels, ids, dataset.classes),
            "quarantine": dataset.quarantine(),
        }
        write_card(card, figures, images, labels, splits.rows, splits.near, tables)
        write_csv(quarantine, tables["quarantine"])
        if unusable := len(tables["quarantine"]):
            print(f"warning: files that cannot be used: {unusable:,}; {quarantine} says why", flush=True)
        write_csv(left_out, tables["left_out"])
        write_json(report, figures)


def without_near_duplicates(
    splits: splitting.Splits, images: Selection, threshold: float, card: Path
) -> splitting.Splits:
    """`splits` without what shows nearly the same as another image, of which it says how many there are."""
    near = leaks(images, splits.rows, threshold)
    if near:
        print(*splitting.near_duplicates_sentences(near, splits.rows, card), sep="\n", flush=True)
    return splits.without(near)


def index_of_split(
    name: str, rows: np.ndarray, ids: pd.Series, index: splitting.Index, labels: np.ndarray
) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The index of the split's images, whose labels are left out for the pool, and the pool's drops, if it has any."""
    known = {"label": labels[rows]} if name != "pool" else {}
    hashes = pd.arrays.ArrowExtensionArray(pa.array(index.hashes[rows]))  # no object for each
    drops = index.drops[rows] if index.drops is not None and name == "pool" else None
    return pd.DataFrame({"id": ids.iloc[rows].array, **known, "sha256": hashes}), drops


def write(
    folder: Path,
    images: Selection | list[EncodedImages],
    table: pd.DataFrame,
    drops: np.ndarray | None,
    dataset: Dataset,
    data: DataParams,
) -> None:
    """Write a split of `images`, or of where they are in a user's shards; its index is `table`."""
    preparation = data.preparation() | dataset.found_preparation()
    if isinstance(images, Selection):
        write_split(folder, images, table, dataset.classes, preparation, data.shard_megabytes * MEGABYTE, drops)
    else:
        write_streamed_split(folder, images, table, dataset.classes, preparation)


if __name__ == "__main__":
    main()
