"""What ten times the images cost: python -m benchmarks.growth [SIZE ...]

For each SIZE (10,000, 100,000 and 1,000,000 if none is named) as many small photos are prepared, their pool labeled,
and a student trained on it for a few steps: photos in a folder, and photos in shards, whose pool stays there. The
seconds of the same stages on START images are taken off, and what is left is held against the size before. Written to
benchmarks/growth.csv and growth.md after each size; sizes that stand there are not measured again.
"""

import sys
import tempfile
from argparse import ArgumentParser
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import pictures
from benchmarks.expand import expanded
from benchmarks.processes import ROOT, hardware, pipeline, run
from benchmarks.rows import add_row, has_row
from benchmarks.study import copy_project
from commands import list_shards
from noisy_student.core.config import changed
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_bytes
from noisy_student.core.markdown import markdown_table

GROWTH = ROOT / "benchmarks" / "growth.csv"
SIZES = (10_000, 100_000, 1_000_000)
START = 1_000
STAGES = {"prepare": "prepare", "labeling": "predict_pool@iter1", "training": "train_student@iter1"}
ALL_STAGES = ("prepare", "train_teacher", "predict_pool@iter1", "pseudo_label@iter1", "train_student@iter1")
PARAMS: dict[str, Any] = {
    "data.test": 20,
    "data.calibration": 10,
    "data.validation": 10,
    "teacher.model": "cnn_4",
    "teacher.training": {"steps": 1, "validations": 1},
    "pseudo_labels.precision": None,
    "guards.collapsed": "off",  # a teacher of one step calls all images the same
    "guards.useless": "off",
    "guards.imprecise": "off",
    "training.steps": 200,
    "training.validations": 1,
    "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_4"}},
    "controls": {},
    "current": "iter1",
}
PICTURES, SHARDS = "pictures", "shards.csv"
KINDS: dict[str, dict[str, Any]] = {
    "folder": {"data.source": "folder", "data.path": PICTURES},
    "shards": {"data.source": "shards", "data.path": SHARDS, "data.streamed_pool": True},
}
NAMES = {"folder": "a folder", "shards": "shards"}
ABOUT = """32-pixel JPEG photos, all distinct, one in ten labeled: in a folder, or in tars of 10,000, where the pool
stays and is decoded when it is used. Models are cnn_4, and the student takes 200 steps. Seconds of `prepare` and
labeling are less those of the same stage on {start:,} images, those of training are whole, for it has as many steps in
each row. Peaks are resident memory of the largest process. {hardware}."""


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    for kind, size in product(KINDS, (START, *parser.parse_args(argv).sizes)):
        if not has_row(GROWTH, kind=kind, images=size):
            found = add_row(GROWTH, measured(kind, size), by=["kind", "images"])
            write_bytes(GROWTH.with_suffix(".md"), table(found).encode())


def measured(kind: str, size: int) -> dict[str, Any]:
    """The row of that many images in a folder or in shards."""
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder, own = Path(name), PARAMS | KINDS[kind]
        params = changed(pipeline()[1], own | {"data.path": str(folder / own["data.path"])})
        stages = expanded(copy_project(folder, params), params)
        print(f"{size:,} photos: {kind}", flush=True)
        if kind == "folder":
            pictures.write(folder / PICTURES, size)
        else:
            pictures.write_shards(folder / PICTURES, size)
            list_shards.main([f"{folder / PICTURES}/*.tar", "--out", str(folder / SHARDS)])
        row: dict[str, Any] = {"kind": kind, "images": size}
        names = {stage: what for what, stage in STAGES.items()}
        for stage in ALL_STAGES:
            done = run(folder, sys.executable, *stages[stage]["cmd"].split()[1:])
            if what := names.get(stage):
                row |= {f"{what}_seconds": 1 / done.speed, f"{what}_peak_mb": done.peak_mb}
        files = sum(file.is_file() for out in ("pool", "logits") for file in (folder / "data" / out).rglob("*"))
        return row | {"files": files, "hardware": hardware()}


def table(rows: pd.DataFrame) -> str:
    """The growth from size to size, as Markdown."""
    parts = ["# What ten times the images cost", ABOUT.format(start=START, hardware=rows["hardware"].iloc[-1])]
    for kind, of_kind in rows.groupby("kind"):
        shown = growth(of_kind.set_index("images")).reset_index().astype(object)
        cells = [["" if pd.isna(cell) else str(cell) for cell in line] for line in shown.to_numpy()]
        parts.append(markdown_table([f"images in {NAMES[kind]}", *shown.columns[1:]], cells))
    return "\n\n".join(parts) + "\n"


def growth(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each size but START, as index: seconds, how many times those of the size before, and memory."""
    shown = pd.DataFrame(index=rows.index.drop(START))
    for what in STAGES:
        seconds = rows[f"{what}_seconds"].drop(START)
        if what != "training":
            seconds -= rows.loc[START, f"{what}_seconds"]
        shown[f"{what}, s"] = seconds.round(2)
        if what != "training":
            shown[f"{what}, times the row above"] = (seconds / seconds.shift()).round(1)
        shown[f"{what}, peak MB"] = rows[f"{what}_peak_mb"].round().astype(int)
    shown["files of pool and logits"] = rows["files"].astype(int)
    return shown


if __name__ == "__main__":
    main()
