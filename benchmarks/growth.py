"""What ten times the images cost: python -m benchmarks.growth [SIZE ...]

For each SIZE (10,000, 100,000 and 1,000,000 if none is named) a folder of as many small photos is prepared, its pool
labeled, and a student trained on it for a few steps; the seconds of the same stages on START images are taken off, and
what is left is held against the size before. Written to benchmarks/growth.csv and growth.md after each size; sizes that
stand there are not measured again.
"""

import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import pictures
from benchmarks.expand import expanded
from benchmarks.processes import ROOT, hardware, pipeline, run
from benchmarks.study import changed, copy_project
from noisy_student.core.errors import cli_main
from noisy_student.core.files import read_csv, write_bytes, write_csv

GROWTH = ROOT / "benchmarks" / "growth.csv"
SIZES = (10_000, 100_000, 1_000_000)
START = 1_000
STAGES = {"prepare": "prepare", "labeling": "predict_pool@iter1", "training": "train_student@iter1"}
ALL_STAGES = ("prepare", "train_teacher", "predict_pool@iter1", "pseudo_label@iter1", "train_student@iter1")
PARAMS: dict[str, Any] = {
    "data.source": "folder",
    "data.path": "pictures",
    "data.test": 20,
    "data.calibration": 10,
    "data.validation": 10,
    "teacher.model": "cnn_4",
    "teacher.training": {"steps": 1, "validations": 1},
    "pseudo_labels.precision": None,
    "training.steps": 20,
    "training.validations": 1,
    "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_4"}},
    "controls": {},
    "current": "iter1",
}
ABOUT = """Folders of 32-pixel JPEG photos, all distinct, one in ten labeled; models are cnn_4, and the student takes 20
steps. Seconds are less those of the same stage on {start:,} images; peaks are resident memory of the largest process.
{hardware}."""


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", type=int, default=SIZES)
    for size in (START, *parser.parse_args(argv).sizes):
        rows = read_csv(GROWTH) if GROWTH.exists() else pd.DataFrame(columns=["images"])
        if size not in rows["images"].to_numpy():
            rows = pd.concat([rows, pd.DataFrame([measured(size)])]).sort_values("images")
            write_csv(GROWTH, rows)
            write_bytes(GROWTH.with_suffix(".md"), table(rows).encode())


def measured(size: int) -> dict[str, Any]:
    """The row of that many images."""
    with tempfile.TemporaryDirectory(prefix="growth-") as name:
        folder, params = Path(name), changed(pipeline()[1], PARAMS)
        stages = expanded(copy_project(folder, params), params)
        print(f"{size:,} photos", flush=True)
        pictures.write(folder / PARAMS["data.path"], size)
        row: dict[str, Any] = {"images": size}
        names = {stage: what for what, stage in STAGES.items()}
        for stage in ALL_STAGES:
            done = run(folder, sys.executable, *stages[stage]["cmd"].split()[1:])
            if what := names.get(stage):
                row |= {f"{what}_seconds": 1 / done.speed, f"{what}_peak_mb": done.peak_mb}
        files = sum(file.is_file() for out in ("pool", "logits") for file in (folder / "data" / out).rglob("*"))
        return row | {"files": files, "hardware": hardware()}


def table(rows: pd.DataFrame) -> str:
    """The growth from size to size, as Markdown."""
    rows = rows.set_index("images")
    shown = pd.DataFrame(index=rows.index.drop(START))
    for what in STAGES:
        seconds = (rows[f"{what}_seconds"] - rows.loc[START, f"{what}_seconds"]).drop(START)
        shown[f"{what}, s"] = seconds.round(2)
        if what != "training":  # it has as many steps in each row
            shown[f"{what}, times the row above"] = (seconds / seconds.shift()).round(1)
        shown[f"{what}, peak MB"] = rows[f"{what}_peak_mb"].round().astype(int)
    shown["files of pool and logits"] = rows["files"].astype(int)
    cells = [["images", *shown], ["---:"] * (len(shown.columns) + 1), *shown.reset_index().astype(object).to_numpy()]
    lines = [f"| {' | '.join('' if pd.isna(cell) else str(cell) for cell in line)} |" for line in cells]
    about = ABOUT.format(start=START, hardware=rows["hardware"].iloc[-1])
    return "\n".join(["# What ten times the images cost", "", about, "", *lines]) + "\n"


if __name__ == "__main__":
    main()
