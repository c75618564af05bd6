"""Which model does the gate name in good runs and in spoiled ones? python -m benchmarks.gate SOURCE

Six default runs, and four that are spoiled: a teacher that learned nothing, a pool of other images (photographs out of
SOURCE/cifar10-train.parquet), a last student that learns nothing, and too few held-out labels. Goes on where it
stopped, about five minutes a run on two cores. Writes benchmarks/studies/gate.csv and gate.md.
"""

import shutil
import tempfile
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import digits_folder
from benchmarks.processes import ROOT
from benchmarks.rows import add_row, has_row
from benchmarks.study import RESULTS, run_without_dvc
from commands.configure import values
from noisy_student.core.config import changed
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_bytes
from noisy_student.core.markdown import markdown_table
from noisy_student.evaluation.gate import sentence
from noisy_student.evaluation.results import percent

TABLE = RESULTS / "gate.csv"
OTHERS, LABELED = 3700, 56  # photographs in the spoiled pool; digits of a class beside it
UNGUARDED = {f"guards.{name}": "off" for name in ("collapsed", "useless", "imprecise", "untested")}
RUNS: dict[str, dict[str, Any]] = {
    **{f"good, seed {seed}": {"seed": seed} for seed in range(6)},
    "a teacher that learned nothing": {
        "teacher.training.steps": 1,
        "teacher.training.validations": 1,
        "pseudo_labels.precision": None,  # which such a teacher has at no threshold, so that the run would stop
        **UNGUARDED,
    },
    "a pool of other images": {
        "data.source": "folder",
        "data.image_size": digits_folder.SIDE,
        "data.test": 260,  # and no label is left to fill the pool
        **UNGUARDED,
    },
    "a last student that learns nothing": {"iterations.iter2.training": {"learning_rate": 1e-9}},
    "few held-out labels": {"data.calibration": 10, "data.validation": 10, **UNGUARDED},
}
ABOUT = """Default runs, and runs that were spoiled on purpose. Accuracies of the test split, which the gate does not
see; what it named, and the sentence that the run ended with."""
COLUMNS = ["run", "iter0", "iter1", "iter2", "control", "named", "what the run said"]


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the folder of CIFAR-10's Parquet files")
    source = parser.parse_args(argv).source
    for name, changes in RUNS.items():
        if not has_row(TABLE, run=name):
            with tempfile.TemporaryDirectory(prefix="gate-") as folder:
                spoiled = changes.get("data.source") == "folder"
                place = {"data.path": str(other_pool(source, Path(folder) / "images"))} if spoiled else {}
                found = add_row(TABLE, {"run": name, **figures(changed(values(), changes | place))})
            write_bytes(TABLE.with_suffix(".md"), table(found).encode())


def other_pool(source: Path, folder: Path) -> Path:
    """A folder of labeled digits whose pool is photographs."""
    digits_folder.main([str(source), str(folder), "--others", str(OTHERS)])
    shutil.rmtree(folder / "pool" / "digits")
    for of_class in (folder / "labeled").iterdir():
        for file in sorted(of_class.iterdir())[LABELED:]:
            file.unlink()
    return folder


def figures(params: dict[str, Any]) -> dict[str, Any]:
    """The row of a run with these `params`."""
    history, summary = partial(run_without_dvc, root=ROOT)("gate-", params)
    accuracies = dict(zip(history["iteration"], history["accuracy"], strict=True))
    deploy = summary["deploy"]
    return {
        **accuracies,
        "control": summary["control"]["accuracy"],
        "named": deploy["name"],
        "decided": deploy["decided"],
        "said": sentence(deploy),
    }


def table(rows: pd.DataFrame) -> str:
    """The table of all runs."""
    lines = [
        [row["run"], *(percent(row[name]) for name in COLUMNS[1:5]), row["named"], row["said"]]
        for row in rows.to_dict("records")
    ]
    return f"# The gate\n\n{ABOUT}\n\n{markdown_table(COLUMNS, lines)}\n"


if __name__ == "__main__":
    main()
