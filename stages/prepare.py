"""Split the source into labeled, pool, calibration, validation and test images, no image in two of them.

Reads   the source (an installed package, the folder of downloads, or a user's images), the corrections
Writes  a folder for each split, the pool's true labels in a separate file, lists of unusable files (quarantine) and of
        duplicate images (left out) with their reasons, the data card, a short report
Params  seed, data
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_csv, write_json
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import guarded, work_folder
from noisy_student.data import splitting
from noisy_student.data.corrections import labeled_by_hand, read_corrections
from noisy_student.data.data_card import CARD, write_card
from noisy_student.data.dataset import Dataset
from noisy_student.data.decoding_work import decoding_work
from noisy_student.data.near_duplicates import leaks
from noisy_student.data.sources import DataParams, check_sizes, load_together
from noisy_student.data.user_images import check_pool
from noisy_student.store.selection import Selection
from noisy_student.store.splits import write_split, write_truth
from noisy_student.store.streamed_splits import write_streamed_split

MEGABYTE = 1_000_000


@command
@ranked
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
    lists = {"left_out": left_out, "quarantine": quarantine}
    alone = guarded(__file__, params, {"corrections": corrections}, data.user_path())
    with decoding_work(work_folder()) as work, alone:  # what was decoded stays if `alone` finds a change
        if dataset := load_together(data, work, labeled_by_hand(corrections)):
            drawn = draw(dataset, data, seed, corrections, card / CARD)
            write_splits(folders, drawn, data)
            pool_rows = drawn.splits.rows["pool"]
            write_truth(pool_truth, drawn.ids.iloc[pool_rows].array, drawn.labels[pool_rows])
            write_reports(drawn, data, lists, card, report)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A data set and its splits. N images."""

    dataset: Dataset
    images: Selection  # uint8 (N,H,W,C)
    index: splitting.Index
    ids: pd.Series  # text (N,)
    labels: np.ndarray  # int64 (N,), with corrections; -1 where unknown
    splits: splitting.Splits


def draw(dataset: Dataset, data: DataParams, seed: int, corrections: Path, card: Path) -> Drawn:
    """The splits of `dataset`, after corrections and without near-duplicates."""
    if data.is_user_images and not data.labeled_per_class:  # otherwise labeled images that are left fill the pool
        check_pool(data.source, Path(data.path), dataset)
    images, index, ids = dataset.all_images(), dataset.index(), dataset.all_ids()
    corrected = read_corrections(corrections, ids, index.hashes, dataset.classes)
    splits = splitting.draw(data, seed, index).with_labels_of(np.array(list(corrected), np.int64))
    labels = index.labels.copy()
    labels[list(corrected)] = list(corrected.values())
    if data.near_duplicates:
        splits = without_near_duplicates(splits, images, data.near_duplicates, card)
    splitting.check_every_class_has_labels(splits, labels, dataset.classes)
    if places := dataset.image_places:
        splits = splits.with_pool(places.in_shard_order(splits.rows["pool"]))
    return Drawn(dataset, images, index, ids, labels, splits)


def without_near_duplicates(
    splits: splitting.Splits, images: Selection, threshold: float, card: Path
) -> splitting.Splits:
    """`splits` without what shows nearly the same as another image, of which it says how many there are."""
    near = leaks(images, splits.rows, threshold)
    if near:
        print(*splitting.near_duplicates_sentences(near, splits.rows, card), sep="\n", flush=True)
    return splits.without(near)


def write_splits(folders: dict[str, Path], drawn: Drawn, data: DataParams) -> None:
    """Write each split to its folder: its images, or where they are in a user's shards, and their index."""
    places, classes = drawn.dataset.image_places, drawn.dataset.classes
    preparation = data.preparation() | drawn.dataset.found_preparation()
    for name, rows in drawn.splits.rows.items():
        table, drops = index_of_split(name, rows, drawn)
        if places and name == "pool":
            write_streamed_split(folders[name], places.by_shard(rows), table, classes, preparation)
        else:
            images, shard_bytes = drawn.images.at(rows), data.shard_megabytes * MEGABYTE
            write_split(folders[name], images, table, classes, preparation, shard_bytes, drops)


def index_of_split(name: str, rows: np.ndarray, drawn: Drawn) -> tuple[pd.DataFrame, np.ndarray | None]:
    """The index of the split's images, whose labels are left out for the pool, and the pool's drops, if it has any."""
    known = {"label": drawn.labels[rows]} if name != "pool" else {}
    hashes = pd.arrays.ArrowExtensionArray(pa.array(drawn.index.hashes[rows]))  # no object for each
    drops = drawn.index.drops[rows] if drawn.index.drops is not None and name == "pool" else None
    return pd.DataFrame({"id": drawn.ids.iloc[rows].array, **known, "sha256": hashes}), drops


def write_reports(drawn: Drawn, data: DataParams, lists: dict[str, Path], card: Path, report: Path) -> None:
    """Write what a person may want to know of the splits, and say how large they are."""
    dataset, splits = drawn.dataset, drawn.splits
    figures = splitting.report(splits, drawn.labels, dataset.classes)
    print(*splitting.sizes_sentences(figures["images"]), sep="\n", flush=True)
    figures = {"source": data.source, **figures, **dataset.figures()}
    tables = {
        "left_out": splitting.left_out(splits, drawn.labels, drawn.ids, dataset.classes),
        "quarantine": dataset.quarantine(),
    }
    write_card(card, figures, drawn.images, drawn.labels, splits.rows, splits.near, tables)
    for name, path in lists.items():
        write_csv(path, tables[name])
    if unusable := len(tables["quarantine"]):
        print(f"warning: files that cannot be used: {unusable:,}; {lists['quarantine']} says why", flush=True)
    write_json(report, figures)


if __name__ == "__main__":
    main()
