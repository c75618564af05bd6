"""Split the source into labeled, pool, calibration, validation and test images, no image in two of them.

Reads   the source: an installed package, or the folder of downloads
Writes  a folder for each split, the pool's truth in a file of its own, a report with the number of labels
Params  seed, data
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pandas as pd

from noisy_student.config import Params
from noisy_student.errors import exits_with_a_sentence
from noisy_student.files import write_json
from noisy_student.images import Selection, pixel_hash, write_split, write_truth
from noisy_student.randomness import Seed
from noisy_student.sources import DataParams, check_sizes, load
from noisy_student.splits import draw, report
from noisy_student.work import guarded

MEGABYTE = 1_000_000


@exits_with_a_sentence
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--pool-truth", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    args = parser.parse_args(argv)

    params = Params()
    data = params.section("data", DataParams)
    seed = params.section("seed", Seed)
    check_sizes(data)

    with guarded(__file__, params, {}):
        dataset = load(data)
        arrays = [part.images for part in dataset.parts]
        labels = np.concatenate([part.labels for part in dataset.parts])
        ids = [name for part in dataset.parts for name in part.ids]
        hashes = [found for array in arrays for found in pixel_hash(array)]
        own_test = len(dataset.test.ids) if dataset.test else 0
        splits = draw(data, seed, labels, hashes, own_test, len(dataset.classes))

        index = pd.DataFrame({"id": ids, "label": labels, "sha256": hashes})
        for name, rows in splits.rows.items():
            known = index.iloc[rows] if name != "pool" else index.iloc[rows].drop(columns="label")
            images = Selection(arrays, rows)
            write_split(getattr(args, name), images, known, dataset.classes, data.shard_megabytes * MEGABYTE)
        pool = index.iloc[splits.rows["pool"]]
        write_truth(args.pool_truth, pool["id"], pool["label"].to_numpy())
        write_json(args.report, {"source": data.source, **report(splits, labels, dataset.classes)})


if __name__ == "__main__":
    main()
