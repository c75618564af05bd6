"""The recipe for photographs beside what a person would use instead, on the same labels.

    python -m benchmarks.photographs SOURCE                    # all of RUNS
    python -m benchmarks.photographs SOURCE clothing_20 tiles  # some of them

SOURCE has the Parquet files of benchmarks.photo_folders, which lays out the folders. A run is configs/photos.yaml, or
another configuration, on one draw of the labels. Where iter0 is a linear probe, logistic regressions on the features of
its network stand beside it, on all labels, the held-out ones among them: alone, with self-training, and with labels of
the pool that follow an estimate of its classes (distribution alignment). Writes
benchmarks/studies/photographs.csv, going on where it stopped, photographs_stages.csv (seconds and memory of each stage)
and photographs.md.

F features.
"""

import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from benchmarks.expand import commands
from benchmarks.photo_folders import PARTS, drawn_table, lay_out
from benchmarks.processes import ROOT, hardware
from benchmarks.processes import run as run_measured
from benchmarks.study import RESULTS, copy_project, environment, fingerprint
from commands.configure import values
from commands.docs import percent
from noisy_student.core import metrics
from noisy_student.core.config import changed
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, read_json, write_bytes, write_csv
from noisy_student.models.classifier import load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import features_of
from noisy_student.store.splits import Split, read_split, write_truth
from noisy_student.training.linear_probe import choose_penalty

TABLES = {name: RESULTS / f"{name}.csv" for name in ("photographs", "photographs_stages")}
KEYS = ["run", "draw", "params"]
CONFIDENCE, ROUNDS = 0.8, 2  # of self-training on frozen features
REGRESSION, SMALL = "logistic regression", "small"
EM_STEPS = 100  # of the estimate of the pool's classes
BEFORE_TEACHER = ["check", "prepare", "pretrain", "extract_features", "extract_features@labeled", "train_teacher"]
BEFORE_STUDENTS = ["extract_features@calibration", "extract_features@pool"]  # once one stage with that of the labels
MAKING = ("predict_pool", "pseudo_label", "train_student", "predict_for_distilled", "distill")  # stages of a model


class Run(NamedTuple):
    """A set of photographs, the labels of each class, the draws of them, and changes to the recipe by dotted key.

    In the first draw of an `oracle`, the last iteration is also trained with the true labels of the pool.
    """

    photographs: str
    labels: int
    draws: tuple[int, ...]
    changes: dict[str, Any] = {}
    oracle: bool = False
    config: str = "photos"


LONGER = {  # a third iteration, taught by the second
    "iterations.iter3": {
        "teacher": "iter2",
        "model": "timm/tf_efficientnet_lite1",
        "pseudo_labels": {"kept_fraction": 0.8},
    },
    "current": "iter3",
    "controls.same_size.of": "iter3",
    "distilled.small.teacher": "iter3",
}
BRIEF = {"data.image_size": 32, "teacher.training.steps": 150, "iterations.iter1.training.steps": 150, "distilled": {}}
SCRATCH = {  # nets and weights alone
    "pretraining.source": "none",
    "pretraining.models": [],
    "teacher.model": "cnn_16",
    "iterations.iter1.model": "cnn_24",
    "iterations.iter2.model": "cnn_32",
    "training.initial": "scratch",
    "training.frozen": 0.0,  # of a pretrained body
}
ITERATIONS_ALONE: dict[str, Any] = {"controls": {}, "distilled": {}}
TUNED_TEACHER = {  # the training of the control in place of a probe
    "teacher.training.steps": 150,
    "teacher.noise": {"jitter": 8, "resized_crop": 0.35, "flip": True, "fill": 128, "dropout": 0.2},
}
ALIKE = {"data.near_duplicates": 1.0}  # all photographs of tiles look alike; the test split has other tiles
RUNS = {
    "clothing_20": Run("clothing", 20, (0, 1, 2), oracle=True),
    "clothing_20_fourth": Run("clothing", 20, (0, 1, 2), {"data.calibration": 0.2}),  # of the labels is held out
    "clothing_20_fresh": Run("clothing", 20, (3, 4, 5)),  # draws that no recipe was tried on
    "clothing_20_longer": Run("clothing", 20, (0, 1, 2), LONGER),
    "clothing_5": Run("clothing", 5, (0,)),
    "clothing_50": Run("clothing", 50, (0,)),
    "tiles": Run("tiles", 15, (0, 1, 2), ALIKE),
    "tiles_near_duplicates": Run("tiles", 15, (0, 1, 2)),
    "tiles_balanced": Run("tiles", 15, (0, 1, 2), ALIKE | {"pseudo_labels.balance": True}),
    "cifar10_bundled": Run("cifar10", 50, (0,), {"data.image_size": 32}),
    "cifar10_from_scratch": Run("cifar10", 50, (0,), config="folder"),
    "cifar10_bundled_150_steps": Run("cifar10", 50, (0,), BRIEF),
    "cifar10_from_scratch_150_steps": Run("cifar10", 50, (0,), BRIEF | SCRATCH),
    "choose_probe_8": Run("clothing_validation", 8, (100,), ITERATIONS_ALONE),
    "choose_tuned_teacher_8": Run("clothing_validation", 8, (100,), ITERATIONS_ALONE | TUNED_TEACHER),
}


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the folder of the Parquet files")
    parser.add_argument("runs", nargs="*", help=f"of: {', '.join(RUNS)}; none: all")
    args = parser.parse_args(argv)
    if unknown := set(args.runs) - set(RUNS):
        raise UserError(f"there is no run {min(unknown)}; there are {', '.join(RUNS)}")
    for name in args.runs or RUNS:
        for draw in RUNS[name].draws:
            run_draw(name, draw, args.source)
            write_bytes(RESULTS / "photographs.md", markdown(*map(read_csv, TABLES.values())).encode())


def run_draw(name: str, draw: int, source: Path) -> None:
    """Do a run, unless it stands in the tables with the same parameters, and add it to them."""
    run, params = RUNS[name], params_of(RUNS[name], draw)
    key = dict(zip(KEYS, (name, draw, fingerprint(params)), strict=True))
    found = {table: read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS) for table, path in TABLES.items()}
    if key in found["photographs"][KEYS].to_dict("records"):
        return
    print(f"photographs: {name}, draw {draw}", flush=True)
    with tempfile.TemporaryDirectory(prefix=name) as folder:
        stages = run_stages(Path(folder), params, run, draw, source)
        rows = list(models(Path(folder)))
        if params["teacher"]["training"].get("steps") == 0:  # a probe: its network is the pretrained one
            rows += regressions(Path(folder), params)
    for table, new in (("photographs_stages", stages), ("photographs", rows)):  # the latter says that the draw is done
        old = found[table]
        kept = old[(old["run"] != name) | (old["draw"] != draw)]
        found[table] = pd.concat([kept, pd.DataFrame([key | row for row in new])], ignore_index=True)
        found[table] = found[table].sort_values(["run", "draw"], kind="stable", ignore_index=True)
        write_csv(TABLES[table], found[table])


def params_of(run: Run, draw: int) -> dict[str, Any]:
    """The parameters of a run's draw."""
    recipe = values(ROOT / f"configs/{run.config}.yaml")
    oracle = {"pool_controls.oracle": {"kind": "oracle", "of": recipe["current"]}}
    return changed(recipe, {"seed": draw, **run.changes, **(oracle if run.oracle and draw == run.draws[0] else {})})


def run_stages(folder: Path, params: dict[str, Any], run: Run, draw: int, source: Path) -> list[dict[str, Any]]:
    """Run the stages of dvc.yaml in `folder`; seconds and megabytes of each.

    The folder of photographs does not tell the labels of its pool, so they are written beside it after `prepare`: they
    measure the pseudo-labels and train the oracle.
    """
    table = drawn_table(run.photographs, source, run.labels, draw)
    lay_out(table, folder / params["data"]["path"])
    stages = []
    for stage, lines in commands(copy_project(folder, params), params):
        figures = [run_measured(folder, sys.executable, *line.split()[1:], environment=environment()) for line in lines]
        seconds, peak = sum(1 / each.speed for each in figures), max(each.peak_mb for each in figures)
        print(f"  {stage}: {seconds:.0f} s, {peak:,.0f} MB", flush=True)
        stages.append({"stage": stage, "seconds": seconds, "megabytes": peak})
        if stage == "prepare":
            write_pool_truth(folder / "data", table)
    return stages


def write_pool_truth(data: Path, table: pd.DataFrame) -> None:
    """Write the labels that `table` has of the images in the pool, which are named by their row there."""
    classes, ids = read_split(data / "labeled").classes, read_split(data / "pool").ids
    labels = table["label"].iloc[[int(Path(name).stem) for name in ids]]
    write_truth(data / "pool_truth.parquet", ids, np.array([classes.index(label) for label in labels]))


def models(folder: Path) -> Iterator[dict[str, Any]]:
    """The figures of the iterations, the controls and the distilled models."""
    for file in sorted((folder / "metrics").glob("*/*/results.json")):
        result = read_json(file)
        kept = ("model", "parameters", "accuracy", "balanced_accuracy", "kept_fraction", "pseudo_label_precision")
        yield {"name": file.parent.name, **{key: result[key] for key in kept if key in result}}


def regressions(folder: Path, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The figures of logistic regressions on frozen features, on all labels, held-out ones too."""
    runtime = RuntimeParams(**params["runtime"])
    classifier, description = load_classifier(folder / "models/iter0", setup(runtime))
    splits = {name: read_split(folder / "data" / name) for name in (*PARTS, "calibration", "validation")}

    def features(split: Split) -> np.ndarray:
        return features_of(classifier, split.selection(), runtime).astype(np.float32)

    with_labels = [splits[name] for name in ("labeled", "calibration", "validation")]
    known = np.concatenate([features(split) for split in with_labels])
    labels = np.concatenate([split.labels for split in with_labels])
    pool, test = features(splits["pool"]), features(splits["test"])
    unfitted = regression(known, labels)
    alone = clone(unfitted).fit(known, labels)
    both = np.concatenate([labels, np.full(len(pool), -1)])
    self_trained = SelfTrainingClassifier(unfitted, threshold=CONFIDENCE, max_iter=ROUNDS)
    self_trained.fit(np.concatenate([known, pool]), both)
    sure = aligned(alone.predict_proba(pool), np.bincount(labels) / len(labels))
    kept = sure.max(axis=1) >= CONFIDENCE
    following = clone(unfitted).fit(
        np.concatenate([known, pool[kept]]), np.concatenate([labels, sure[kept].argmax(axis=1)])
    )
    found = {"": alone, ", self-training": self_trained, ", self-training, aligned": following}
    rows = []
    for which, model in found.items():
        right = metrics.accuracy_by_class(model.predict(test), splits["test"].labels, len(description["classes"]))
        row = {"name": f"{REGRESSION}{which}", "model": f"{description['model']}, frozen"}
        row["accuracy"] = model.score(test, splits["test"].labels)
        rows.append(row | {"balanced_accuracy": metrics.balanced_accuracy(right)})
    return rows


def aligned(probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """`probabilities` (N,K) of a model that learned classes of frequencies `prior` (K,), as images of other frequencies
    have them, which are estimated (Saerens et al. 2002, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities", section 2.2)."""
    estimate, found = prior, probabilities
    for _ in range(EM_STEPS):
        found = probabilities * (estimate / prior)
        found /= found.sum(axis=1, keepdims=True)
        estimate = found.mean(axis=0)
    return found


def regression(features: np.ndarray, labels: np.ndarray) -> Pipeline:
    """A logistic regression on standardized features, its penalty the best by cross-validation on `labels`."""
    penalty = choose_penalty(StandardScaler().fit_transform(features), labels)
    return make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=1000))


def markdown(rows: pd.DataFrame, stages: pd.DataFrame) -> str:
    """The tables of accuracies, of differences and of time."""
    lines = [
        "# photographs: the recipe for photographs, and what a person would use instead on the same labels",
        "",
        "Test accuracy and balanced accuracy in per cent: the mean over n draws of the labels ± half of its 95 % t "
        f"interval. Seconds and memory of a stage are those of the first draw. {hardware()}.",
        "",
        "| photographs | name | model | n | accuracy | balanced | pool kept | precision |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    rows = rows.sort_values("name", key=lambda names: names.map(place), kind="stable")
    rows, stages = (each.sort_values("run", key=in_order, kind="stable") for each in (rows, stages))
    figures = ("accuracy", "balanced_accuracy", "kept_fraction", "pseudo_label_precision")
    for (run, name), group in rows.groupby(["run", "name"], sort=False):
        cells = " | ".join(percent(group[figure]) if figure in group else "" for figure in figures)
        lines.append(f"| {run} | {name} | {group['model'].iloc[0]} | {len(group)} | {cells} |")
    lines += ["", "| photographs | difference, points | n | accuracy | draws above 0 | balanced | draws above 0 |"]
    lines += ["|---|---|---:|---:|---:|---:|---:|"]
    for run, group in rows.groupby("run", sort=False):
        lines += differences(str(run), group)
    lines += ["", "| photographs | model | minutes until it is there | accuracy |", "|---|---|---:|---:|"]
    for run, group in rows.groupby("run", sort=False):
        lines += minutes(str(run), group, stages[stages["run"] == run])
    lines += ["", "| photographs | stage | s | MB |", "|---|---|---:|---:|"]
    for run, group in stages.groupby("run", sort=False):
        first = group[group["draw"] == group["draw"].iloc[0]]
        for stage in first.itertuples():
            lines.append(f"| {run} | {stage.stage} | {stage.seconds:,.0f} | {stage.megabytes:,.0f} |")
        recipe = first[~first["stage"].str.contains("pool_control")]  # the oracle is none of it
        lines.append(f"| {run} | all | {recipe['seconds'].sum():,.0f} | {recipe['megabytes'].max():,.0f} |")
    return "\n".join(lines) + "\n"


def minutes(run: str, rows: pd.DataFrame, stages: pd.DataFrame) -> Iterator[str]:
    """A line for each iteration and distilled model: what the time of the first draw buys."""
    seconds = stages[stages["draw"] == stages["draw"].iloc[0]].set_index("stage")["seconds"]
    spent = seconds[seconds.index.isin(BEFORE_TEACHER)].sum()
    for name, group in rows.groupby("name", sort=False):
        own = seconds.index.isin([f"{stage}@{name}" for stage in MAKING])
        if name == "iter0" or own.any():
            spent += seconds[own].sum()
            yield f"| {run} | {name} | {spent / 60:.1f} | {percent(group['accuracy'])} |"
        if name == "iter0":
            spent += seconds[seconds.index.isin(BEFORE_STUDENTS)].sum()


def in_order(names: pd.Series) -> pd.Series:
    """Where the runs of those `names` stand among RUNS; after them, if they are no longer there."""
    return names.map({name: number for number, name in enumerate(RUNS)}).fillna(len(RUNS))


def place(name: str) -> int:
    """Where a model stands among those of a run: regressions, iterations, then the others."""
    return 0 if name.startswith(REGRESSION) else 1 if name.startswith("iter") else 2


def differences(run: str, rows: pd.DataFrame) -> Iterator[str]:
    """A line for each other model that the last iteration is compared with, and for the small one and its rivals."""
    names = rows["name"].unique()
    last = max(name for name in names if name.startswith("iter"))
    by_name = [rows.pivot(index="draw", columns="name", values=of) for of in ("accuracy", "balanced_accuracy")]
    pairs = [(last, name) for name in names if name != last]
    pairs += [(SMALL, name) for name in (REGRESSION, "same_size") if SMALL in names and name in names]
    for model, other in pairs:
        found = [(each[model] - each[other]).dropna() for each in by_name]
        cells = " | ".join(f"{percent(each, sign='+')} | {(each > 0).sum()} of {len(each)}" for each in found)
        yield f"| {run} | {model} - {other} | {len(found[0])} | {cells} |"


if __name__ == "__main__":
    main()
