"""What the tests of sources and of the stage that prepares them share: parameters, and the stage run with them."""

from pathlib import Path

import yaml

from stages import prepare

DATA = {
    "source": "mnist_5k",
    "path": "images",
    "downloads": None,
    "test_seed": 0,
    "test": 1000,
    "labeled_per_class": 10,
    "calibration": 100,
    "validation": 100,
    "pool": None,
    "near_duplicates": None,
    "image_size": 32,
    "resize": "crop",
    "background": 0,
    "max_megapixels": 50.0,
    "max_bad_fraction": 0.01,
    "shard_megabytes": 64,
    "streamed_pool": False,
}
SPLITS = ("labeled", "pool", "calibration", "validation", "test")
OUTPUTS = (*SPLITS, "pool_truth.parquet", "quarantine.csv", "left_out.csv", "card", "report.json")
NO_CORRECTIONS = "id,label\n"


def run_prepare(data: dict, seed: int = 0, out: str = "out") -> None:
    """Run the stage in the current folder, which has a corrections.csv, with its outputs below `out`."""
    Path("params.yaml").write_text(yaml.safe_dump({"seed": seed, "data": data}))
    flags = []
    for name in OUTPUTS:
        flags += [f"--{name.partition('.')[0].replace('_', '-')}", f"{out}/{name}"]
    prepare.main([*flags, "--corrections", "corrections.csv"])
