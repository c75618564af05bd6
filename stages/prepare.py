"""Split the source into labeled, pool, calibration, validation and test images, no image in two of them.

Reads   the source (an installed package, the folder of downloads, or one's own images), the corrections
Writes  a folder for each split, the pool's truth in a file of its own, the files that cannot be used (quarantine) and
        the images that are like others (left out), each with its reason, the data card, a report of small figures
Params  seed, data
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_csv, write_json
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import guarded, work_folder
from noisy_student.data.corrections import read_corrections
from noisy_student.data.data_card import write_card
from noisy_student.data.near_duplicates import leaks
from noisy_student.data.sources import DataParams, check_sizes, load
from noisy_student.data.splitting import check_every_class_has_labels, draw, left_out, report
from noisy_student.store.splits import write_split, write_truth

MEGABYTE = 1_000_000
SPLITS = ("labeled", "pool", "calibration", "validation", "test")


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    for name in (*SPLITS, "pool-truth", "corrections", "quarantine", "left-out", "card", "report"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    data = params.section("data", DataParams)
    seed = params.section("seed", Seed)
    check_sizes(data)

    with guarded(__file__, params, {"corrections": args.corrections}, data.user_path()):
        dataset = load(data, work_folder())
        images, index, ids = dataset.all_images(), dataset.index(), dataset.all_ids()
        splits = draw(data, seed, index)
        corrections = read_corrections(args.corrections, ids, index.hashes, dataset.classes)
        splits = splits.with_labels_of(np.array(list(corrections), np.int64))
        labels = index.labels.copy()
        labels[list(corrections)] = list(corrections.values())
        if data.near_duplicates:
            splits = splits.without(leaks(images, splits.rows, data.near_duplicates))
        check_every_class_has_labels(splits, labels, dataset.classes)

        preparation, shard_bytes = data.preparation(), data.shard_megabytes * MEGABYTE
        for name, rows in splits.rows.items():
            known = {"label": labels[rows]} if name != "pool" else {}
            hashes = pd.arrays.ArrowExtensionArray(pa.array(index.hashes[rows]))  # no object for each
            split = pd.DataFrame({"id": ids.iloc[rows].array, **known, "sha256": hashes})
            drops = index.drops[rows] if index.drops is not None and name == "pool" else None
            write_split(getattr(args, name), images.at(rows), split, dataset.classes, preparation, shard_bytes, drops)
        write_truth(args.pool_truth, ids.iloc[splits.rows["pool"]].array, labels[splits.rows["pool"]])

        figures = {"source": data.source, **report(splits, labels, dataset.classes), **dataset.figures()}
        tables = {"left_out": left_out(splits, labels, ids, dataset.classes), "quarantine": dataset.quarantine()}
        write_card(args.card, figures, images, labels, splits.rows, splits.near, tables)
        write_csv(args.quarantine, tables["quarantine"])
        write_csv(args.left_out, tables["left_out"])
        write_json(args.report, figures)


if __name__ == "__main__":
    main()
