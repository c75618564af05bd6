"""What do labels bring that a person adds where the model is unsure? python -m benchmarks.labels_by_hand

The default run, then the same run with LABELS more labels: of the pool images that `noisy-student label` would show,
or of as many at random; their labels are the true ones. Goes on where it stopped, about a quarter of an hour a seed on
two cores. Writes benchmarks/studies/labels_by_hand.csv and .md.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.processes import ROOT
from benchmarks.rows import add_row, has_row
from benchmarks.study import RESULTS, run_commands
from commands.configure import values
from commands.docs import percent
from commands.label_next import to_label
from noisy_student.core.errors import cli_main
from noisy_student.core.files import read_csv, read_json, write_bytes
from noisy_student.core.markdown import markdown_table
from noisy_student.core.randomness import generator
from noisy_student.store.splits import read_split, read_truth

TABLE = RESULTS / "labels_by_hand.csv"
SEEDS, LABELS = (0, 1, 2), 30
NONE, UNSURE, RANDOM = "none", "where the model is unsure", "at random"  # which images get a label
WORK = {"DVC_ROOT": str(ROOT)}  # what stages have finished stays below it
ABOUT = f"""The default run with {LABELS} more labels. Test accuracy of the first teacher and of the last student, and
its gain over the run without them, over seeds {", ".join(map(str, SEEDS))}; mean ± half of the 95 % t interval."""


@cli_main
def main() -> None:
    for seed in SEEDS:
        missing = [how for how in (NONE, UNSURE, RANDOM) if not has_row(TABLE, seed=seed, labels=how)]
        if missing:
            with tempfile.TemporaryDirectory(prefix="labels-") as folder:
                run_all(Path(folder), seed, missing)


def run_all(folder: Path, seed: int, missing: list[str]) -> None:
    """The run of that seed without more labels, from which they are chosen, and those with the labels `missing`."""
    params = values() | {"seed": seed}
    first = folder / NONE
    run_commands(first, params, WORK)
    for how in missing:
        if how != NONE:
            run_commands(folder / how, params, WORK, corrections(first, how, seed))
        found = add_row(TABLE, {"seed": seed, "labels": how, **figures(folder / how)}, by=["seed"])
        write_bytes(TABLE.with_suffix(".md"), table(found).encode())


def corrections(finished: Path, how: str, seed: int) -> str:
    """corrections.csv with the true labels of pool images that are chosen after the run in the folder `finished`."""
    pool, truth = read_split(finished / "data/pool"), read_truth(finished / "data/pool_truth.parquet")
    known = np.flatnonzero(truth >= 0)
    if how == UNSURE:
        model = finished / "models" / values()["current"]
        named = to_label(model, finished / "data/pool", LABELS, pool.ids[truth < 0]).table["id"]
        rows = np.flatnonzero(np.isin(pool.ids, named))
    else:
        rows = generator(seed, "labels at random").choice(known, LABELS, replace=False)
    lines = [f"{pool.ids[row]},{pool.classes[truth[row]]}" for row in rows]
    return "\n".join(["id,label", *lines]) + "\n"


def figures(folder: Path) -> dict[str, Any]:
    """Test accuracies of the finished run in `folder`."""
    history, summary = read_csv(folder / "metrics/history.csv"), read_json(folder / "metrics/summary.json")
    first, last = (float(history["accuracy"].iloc[at]) for at in (0, -1))
    return {"training_labels": summary["training_labels"], "teacher": first, "student": last}


def table(rows: pd.DataFrame) -> str:
    """The table of all runs, a line for each way to choose images."""
    students = rows.pivot(index="seed", columns="labels", values="student")
    lines = []
    for how, group in rows.groupby("labels", sort=False):
        gains = (students[how] - students[NONE]).dropna()
        gain = percent(gains, sign="+") if how != NONE else ""
        labels = f"{group['training_labels'].iloc[0]:,}"
        lines.append([how, labels, str(len(group)), percent(group["teacher"]), percent(group["student"]), gain])
    header = ["labels added", "training labels", "n", "teacher, %", "last student, %", "gain, points"]
    return f"# Labels by hand\n\n{ABOUT}\n\n{markdown_table(header, lines)}\n"


if __name__ == "__main__":
    main()
