"""One stage on several ranks: the same logits, the same weights in each run, killed ranks, and what a rank brings.

    python -m benchmarks.ranks    # about half an hour on two cores; goes on where it stopped

The small run of benchmarks.small_run, its ranks on one thread each and exchanging by gloo. Writes benchmarks/ranks.csv
and benchmarks/ranks.md.
"""

import os
import random
import re
import signal
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from benchmarks.processes import ROOT, hardware
from benchmarks.rows import add_row, has_row
from benchmarks.small_run import Project
from commands.docs import percent
from noisy_student.core.errors import cli_main
from noisy_student.core.files import read_json, write_bytes
from noisy_student.core.launch import TORCHRUN

TABLE = ROOT / "benchmarks" / "ranks.csv"
COUNTS, SEEDS, KILLS, ROUNDS = (1, 2, 4), (0, 1, 2), 10, 3
LABELING, STUDENT, RESULTS = "predict_pool@iter1", "train_student@iter1", "evaluate@iter1"
FEATURES = [f"extract_features@{split}" for split in ("labeled", "calibration", "pool")]
BEFORE = ["check", "prepare", "pretrain", *FEATURES, "train_teacher", LABELING, "pseudo_label@iter1"]
HEAVY = {"iterations.iter1.model": "wrn_10_1", "training.steps": 60, "training.batch_size": 128}
ABOUT = f"""The small run (MNIST-5k, cnn_8, 150 steps, all noise) with its teacher's labeling and its student's
training on 1, 2 and 4 ranks of one thread each. Accuracy: of the student on 1,000 test images, the mean over
{len(SEEDS)} seeds ± half of its 95 % t interval. A killed rank gets SIGKILL at a random moment after the stage has
begun its work, {KILLS} times in labeling and in training; `equal` counts the runs that then ended with the bytes of the
uninterrupted one. Rates are those of training wrn_10_1 in batches of 128, the medians of {ROUNDS} rounds in turn."""


def on(count: int) -> None:
    """Let the stages that are started from now on have `count` ranks."""
    if count == 1:
        os.environ.pop(TORCHRUN, None)
    else:
        os.environ[TORCHRUN] = f"--nproc-per-node {count}"


def labeled(project: Project, count: int, number: int) -> dict[str, Any]:
    """Whether `count` ranks predict what one does."""
    on(count)
    project.anew(LABELING)
    return {"equal": project.hashes(LABELING) == project.made[LABELING]}


def trained(seeds: dict[int, Project], count: int, number: int) -> dict[str, Any]:
    """The student's accuracy with the seed of that number, and whether a second training gives the same bytes."""
    project = seeds[SEEDS[number]]
    on(count)
    project.anew(STUDENT)
    first = project.hashes(STUDENT)
    project.anew(STUDENT)
    equal = project.hashes(STUDENT) == first
    on(1)
    project.anew(RESULTS)
    (results,) = (project.folder / "metrics").glob("*/iter1/results.json")
    return {"equal": equal, "accuracy": read_json(results)["accuracy"]}


def killed(project: Project, name: str, count: int, number: int) -> dict[str, Any]:
    """Whether a stage ends with the same bytes after one of its ranks was killed."""
    draw = random.Random(f"{name} {count} {number}")  # noqa: S311 no secret
    on(count)
    project.anew(name)
    expected = project.hashes(name)
    kills = 0
    while not kills:
        project.forget(name)
        run = project.start(project.lines[name][0])
        if run.until(lambda: _began(project, name), seconds=draw.uniform(0, 1)) and (found := run.ranks()):
            with suppress(psutil.NoSuchProcess):
                draw.choice(found).send_signal(signal.SIGKILL)
        said = run.ended()
        kills += run.returncode != 0
    named = bool(re.search(r"^error: rank \d+ on .* was killed by SIGKILL; run again to go on$", said, re.MULTILINE))
    resumed = "goes on" in project.finish(name)
    return {"equal": project.hashes(name) == expected, "named": named, "resumed": resumed}


def _began(project: Project, name: str) -> bool:
    """Whether a stage has something to go on with."""
    return bool(project.checkpoints(name) or project.work(name, "hashes/pool-*"))


def rate(project: Project, count: int, number: int) -> dict[str, Any]:
    """Images a second in training on `count` ranks, of one thread each, or on one of two threads (`count` 1)."""
    on(count)
    params = project.folder / "params.yaml"
    text = params.read_text()
    params.write_text(re.sub(r"(?m)^(\s+threads:) \d+$", rf"\1 {2 if count == 1 else 1}", text))
    said = project.anew(STUDENT)
    return {"rate": float(re.findall(r"([\d,]+) images/s", said)[-1].replace(",", ""))}


@cli_main
def main() -> None:
    on(1)
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        seeds = {seed: Project(Path(folder) / str(seed), BEFORE, {"seed": seed}) for seed in SEEDS}
        heavy = Project(Path(folder) / "heavy", BEFORE, HEAVY)
        work: list[tuple[str, tuple[int, ...], int, Callable[[int, int], dict[str, Any]]]] = [
            ("labeling", COUNTS, 1, lambda count, number: labeled(seeds[0], count, number)),
            ("training", COUNTS, len(SEEDS), lambda count, number: trained(seeds, count, number)),
            ("rank killed in labeling", (2,), KILLS, lambda count, number: killed(seeds[0], LABELING, count, number)),
            ("rank killed in training", (2,), KILLS, lambda count, number: killed(seeds[0], STUDENT, count, number)),
            ("rate", (1, 2), ROUNDS, lambda count, number: rate(heavy, count, number)),
        ]
        for kind, counts, rounds, do in work:
            for number in range(rounds):
                for count in counts:
                    add({"kind": kind, "ranks": count, "round": number}, do)


def add(key: dict[str, Any], do: Callable[[int, int], dict[str, Any]]) -> None:
    """Do that piece of work unless it stands in the table, and add it."""
    if not has_row(TABLE, **key):
        found = add_row(TABLE, key | do(key["ranks"], key["round"]))
        write_bytes(TABLE.with_suffix(".md"), markdown(found).encode())


def markdown(rows: pd.DataFrame) -> str:
    """The table of all rows."""
    lines = ["# Several ranks", "", f"{ABOUT} {hardware()}.", ""]
    lines += ["| work | ranks | runs | equal | killed rank named | went on | accuracy, % | images/s |"]
    lines += ["|---|---:|---:|---:|---:|---:|---:|---:|"]
    for (kind, count), group in rows.groupby(["kind", "ranks"], sort=False):
        cells = [_count(group, name) for name in ("equal", "named", "resumed")]
        accuracy = percent(group["accuracy"]) if _has(group, "accuracy") else ""
        speed = f"{group['rate'].median():,.0f}" if _has(group, "rate") else ""
        lines.append(f"| {kind} | {count} | {len(group)} | {' | '.join([*cells, accuracy, speed])} |")
    return "\n".join(lines) + "\n"


def _has(group: pd.DataFrame, name: str) -> bool:
    return name in group and group[name].notna().any()


def _count(group: pd.DataFrame, name: str) -> str:
    return str(int(group[name].astype(bool).sum())) if _has(group, name) else ""


if __name__ == "__main__":
    main()
