"""Fill the figures of README.md and docs/ from committed files: python -m commands.docs [--check]

The lines between `<!-- figures: NAME -->` and `<!-- end -->` are written by the function of that NAME in FIGURES; words
after the name are its arguments. The pictures of PICTURES are drawn from the same files. --check writes nothing and
exits 1 at the first file that differs.
"""

import json
import os
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from commands.configure import values
from commands.pictures import accuracy_picture
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.markdown import markdown_table
from noisy_student.core.metrics import mean_interval

ROOT = Path(__file__).resolve().parent.parent
TABLES = ("history.csv", "summary.json", "confusion.csv")  # what the table is made of
STUDIES = Path("benchmarks/studies")
FIGURES_BLOCK = re.compile(r"(<!-- figures: ([^\n]+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def last_lines() -> str:
    """What `make repro` ends with."""
    command = [sys.executable, "-m", "commands.table", *(f"metrics/{name}" for name in TABLES)]
    plain = {**os.environ, "COLUMNS": "100", "FORCE_COLOR": ""}
    done = subprocess.run(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line.rstrip() for line in done.stdout.strip("\n").splitlines()]
    return "\n".join(["```text", *lines, "```"])


def results() -> str:
    """The teacher, the last student and its gains, for each study of a whole run."""
    titles = {"default": "MNIST-5k", "fashion_mnist": "Fashion-MNIST", "cifar10_folder": "CIFAR-10, as a folder"}
    rows = []
    for study, title in titles.items():
        runs = read_study(study).query("setting == 'default'")
        first, last = (getattr(runs.groupby("seed"), end)() for end in ("first", "last"))
        labels = sorted({f"{count:,}" for count in runs["training_labels"]})
        accuracies = [percent(each["accuracy"]) for each in (first, last)]
        gains = [percent(last["accuracy"] - first["accuracy"], "+"), percent(last["gain_over_control"], "+")]
        rows.append([title, " to ".join(labels), str(len(last)), *accuracies, *gains])
    header = ["images", "training labels", "seeds", "teacher, %", "last student, %", "over the teacher"]
    return markdown_table([*header, "over the control"], rows)


def photographs() -> str:
    """What photographs of clothing gave, on all draws of the labels by the present recipe."""
    rows = read_study("photographs").query("run in ('clothing_20', 'clothing_20_fresh')")
    last, control, regression = (
        percent(rows[rows["name"] == name]["accuracy"]) for name in ("iter2", "same_size", "logistic regression")
    )
    draws = f"{rows['draw'].nunique()} draws of labels; the recipe was made on three"
    return (
        f"On photographs of clothing, 20 labels a class, the last student has {last} %, its control {control} %,\n"
        f"and logistic regression on frozen features of a smaller network {regression} %\n({draws})."
    )


def transfer() -> str:
    """Labels a class against the ways to begin, before and after an iteration."""
    rows, runs = [], read_study("transfer")
    ways = {"scratch": "from scratch", "head_only": "head alone", "two_rates": "body at 0.3 of the rate"}
    ways |= {"layer_decay": "each layer at 0.6 of the next"}
    for labels in (10, 50, 200):
        for iteration, title in (("iter0", "teacher"), ("iter1", "its student")):
            chosen = [runs.query(f"setting == '{way}_{labels}' and iteration == '{iteration}'") for way in ways]
            rows.append([str(labels), title, *(percent(each["accuracy"]) for each in chosen)])
    return markdown_table(["labels a class", "test accuracy, %", *ways.values()], rows)


def distillation(study: str) -> str:
    """The images that a small model learns from against the temperature."""
    titles = {"pool": "distilled on the pool", "labeled": "on the labeled images", "both": "on both"}
    accuracies, rows = read_study(study).groupby("iteration")["accuracy"], []
    for images, title in titles.items():
        rows.append([title, *(percent(accuracies.get_group(f"{images}_{warmth}")) for warmth in (1, 2, 4, 8))])
    return markdown_table(["test accuracy, %", "T = 1", "T = 2", "T = 4", "T = 8"], rows)


def neighbors() -> str:
    """The cost of nearest neighbors."""
    rows = [
        [row.on, f"{row.neighbours:,}", f"{row.megabytes:.2f}", f"{row.images_per_second:,.0f}"]
        for row in pd.read_csv(ROOT / STUDIES / "neighbours.csv").itertuples()
    ]
    return markdown_table(["on", "images compared with", "MB", "images/s"], rows)


def speed() -> str:
    """Each stage's work against what the machine can do at best."""
    titles = {
        "combined": "training with the combined objective",
        "noise": "noise, against a copy of the batch",
        "prepare": "prepare, 20,000 small photos",
        "startup": "start of a training stage, its first step included",
        "noop": "`dvc repro` with nothing to do",
    }
    rows = []
    for row in json.loads((ROOT / "benchmarks/speed.json").read_text()):
        if "ratio" in row:
            work = titles.get(row["work"], row["work"])
            title = ", ".join(filter(None, (work, row["model"], row["precision"])))
            rate = f"{row['seconds']} s" if row["seconds"] else f"{row['images_per_second']:,} images/s"
            ratio = f"{row['ratio']:.3g} ({row['ratio_low']:.3g} to {row['ratio_high']:.3g})"
            limit = f"{row['limit_images_per_second']:,}" if row["images_per_second"] else ""
            rows.append([title, ratio, rate, limit, row["limit_settings"] or ""])
    header = ["work", "ratio (smallest to largest)", "speed", "the limit, images/s", "its settings"]
    return markdown_table(header, rows)


def datasets() -> str:
    """The shipped parameter files and their labels."""
    rows = []
    for each in ("default", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10"):
        name = f"configs/{each}"
        data = values(ROOT / f"{name}.yaml")["data"]
        labels = data["labeled_per_class"] * (100 if name.endswith("cifar100") else 10)
        held_out = data["calibration"] + data["validation"]
        rows.append([f"`{name}.yaml`", f"`{data['source']}`", f"{labels:,}", f"{held_out:,}"])
    return markdown_table(["file", "source", "training labels", "held-out labels"], rows)


def table(path: str, number: str) -> str:
    """The table of that number, from 1 on, of a committed Markdown file."""
    tables = re.findall(r"(?:^\|.*\n)+", (ROOT / path).read_text(), re.MULTILINE)
    return tables[int(number) - 1].rstrip("\n")


def read_study(name: str) -> pd.DataFrame:
    """The rows of a study: a row for each setting, seed and iteration."""
    return pd.read_csv(ROOT / STUDIES / f"{name}.csv")


def percent(fractions: pd.Series, sign: str = "") -> str:
    """Mean and half of the 95 % interval of `fractions`, in per cent; empty without any, and one value alone."""
    known = 100 * fractions.dropna().to_numpy(dtype=np.float64)
    if not len(known):
        return ""
    mean, half = mean_interval(known)
    return f"{mean:{sign}.2f}" + (f" ± {half:.2f}" if np.isfinite(half) else "")


def fill(text: str) -> str:
    """`text` with every block of figures written anew."""

    def written(block: re.Match[str]) -> str:
        name, *arguments = block[2].split()
        return f"{block[1]}{FIGURES[name](*arguments)}\n{block[4]}"

    return FIGURES_BLOCK.sub(written, text)


def pages() -> list[Path]:
    """README.md and the pages of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


FIGURES: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (last_lines, results, photographs, transfer, distillation, neighbors, speed, datasets, table)
}


def accuracy() -> str:
    """The picture of accuracy by iteration."""
    return accuracy_picture(read_study("default"), read_study("fashion_mnist"))


PICTURES: dict[str, Callable[[], str]] = {"docs/img/accuracy.svg": accuracy}


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    args = parser.parse_args(argv)
    wanted = {path: fill(path.read_text()) for path in pages()}
    wanted |= {ROOT / name: draw() for name, draw in PICTURES.items()}
    for path, text in wanted.items():
        if path.is_file() and path.read_text() == text:
            continue
        if args.check:
            raise UserError(f"{path.relative_to(ROOT)} differs from the committed figures; run `make docs`")
        path.write_text(text)
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
