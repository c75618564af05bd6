"""Audit an iteration's pseudo-labels: what was kept, how much is right, and what its student says of the same images.

Reads   the logits of the pool and the calibration split, the pseudo-labels, the student; the labeled, calibration and
        pool images; the pool's truth
Writes  a folder: audit.json (figures), pictures.parquet (images worth a look), map.parquet (a map of images by the
        student's features)
Params  seed, runtime, guards
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json
from noisy_student.core.metrics import fit_temperature, softmax
from noisy_student.core.randomness import Seed, generator
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.audit import (
    Audit,
    Labeling,
    groups,
    pool_figures,
    save_audit,
    student_figures,
    threshold_curve,
)
from noisy_student.evaluation.feature_map import feature_map
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import logits_and_features
from noisy_student.pseudo_labeling.guards import GuardParams, faults, warnings
from noisy_student.store.pictures import picture
from noisy_student.store.pseudo_labels import predicted, read_logits, read_pseudo_labels
from noisy_student.store.splits import Split, read_split, read_truth

SAMPLE = 1000  # images of a split that the student predicts, at most
BLOCKS = 32  # that they are drawn from, where images are read in blocks
MAP_IMAGES = 300  # of a split that are on the map, at most
MAP_SIDE = 48  # pixels of a picture on it


@command
def main(
    *,
    logits: Path,
    pseudo_labels: Path,
    student: Path,
    labeled: Path,
    calibration: Path,
    pool: Path,
    pool_truth: Path,
    out: Path,
) -> None:
    params = ParamsFile()
    seed, runtime = params.section("seed", Seed), params.section("runtime", RuntimeParams)
    guards = params.section("guards", GuardParams)
    folders = {"labeled": labeled, "calibration": calibration, "pool": pool}
    inputs = {"logits": logits, "pseudo_labels": pseudo_labels, "student": student, "pool_truth": pool_truth}
    with guarded(__file__, params, inputs | folders):
        splits = {name: read_split(folder) for name, folder in folders.items()}
        teacher = read_teacher(logits, pseudo_labels, pool_truth)
        classifier, description = load_classifier(student, setup(runtime))
        seen = of_student(classifier, splits, runtime, seed)
        name = description["name"]
        found = {"iteration": name, **figures(teacher, splits["calibration"], seen, guards, name)}
        shown = pictures(teacher.labeling, splits["pool"], seen["pool"])
        save_audit(out, Audit(found, shown, map_of(teacher.labeling, splits, seen)))


class Teacher(NamedTuple):
    """What the teacher says of the pool and of the calibration split, M images, K classes."""

    labeling: Labeling
    calibration: np.ndarray  # float64 (M,K), its probabilities
    threshold: float


def read_teacher(logits: Path, pseudo_labels: Path, pool_truth: Path) -> Teacher:
    """The teacher's predictions in the folder `logits`, and the pseudo-labels that were made of them."""
    chosen_by, kept = read_json(pseudo_labels / "report.json"), read_pseudo_labels(pseudo_labels)
    temperature = chosen_by["temperature"]
    of_pool = predicted(read_logits(logits, "pool"), temperature)
    found = Labeling(of_pool.labels, of_pool.confidence, kept, read_truth(pool_truth))
    return Teacher(found, softmax(read_logits(logits, "calibration")[:], temperature), chosen_by["threshold"])


class Seen(NamedTuple):
    """What the student says of some images of a split, S of them in random order."""

    rows: np.ndarray  # int64 (S,), of the split
    images: np.ndarray  # uint8 (S,H,W,C)
    predicted: np.ndarray  # int64 (S,)
    confidence: np.ndarray  # float64 (S,), calibrated
    features: np.ndarray  # float16 (S,F)


def of_student(student: Classifier, splits: dict[str, Split], runtime: RuntimeParams, seed: int) -> dict[str, Seen]:
    """What the student says of a sample of each split; the sample depends on the seed and the split alone."""
    rows = {name: sample(split, generator(seed, f"audit of {name}")) for name, split in splits.items()}
    images = {name: split.images(rows[name]) for name, split in splits.items()}
    found = {name: logits_and_features(student, images[name], runtime) for name in splits}
    temperature = fit_temperature(found["calibration"][0], splits["calibration"].labels[rows["calibration"]])
    probabilities = {name: softmax(logits, temperature) for name, (logits, _) in found.items()}
    return {
        name: Seen(rows[name], images[name], each.argmax(axis=1), each.max(axis=1), found[name][1])
        for name, each in probabilities.items()
    }


def sample(split: Split, draw: np.random.Generator) -> np.ndarray:
    """Rows int64 (S,) of at most SAMPLE images in random order; where images are read in blocks, of at most BLOCKS."""
    rows, blocks = draw.permutation(len(split)), split.selection().blocks()
    if blocks is not None:
        chosen = draw.permutation(np.unique(blocks))[:BLOCKS]
        rows = rows[np.isin(blocks[rows], chosen)]
    return rows[:SAMPLE]


def figures(
    teacher: Teacher, calibration: Split, seen: dict[str, Seen], guards: GuardParams, name: str
) -> dict[str, Any]:
    """What is wrong with the pseudo-labels of the iteration called `name`, if anything, and how many are right."""
    found, of_pool = teacher.labeling, seen["pool"]
    given = teacher.calibration, calibration.labels, teacher.threshold
    wrong = faults(found.predicted, found.kept, *given, calibration.classes, guards.least_precision)
    return {
        "threshold": teacher.threshold,
        "warnings": warnings(wrong, guards, name),
        **pool_figures(found, calibration.classes, teacher.calibration.argmax(axis=1)),
        "by_threshold": threshold_curve(found, *given),
        "student": student_figures(found, of_pool.rows, of_pool.predicted),
    }


def pictures(found: Labeling, pool: Split, seen: Seen) -> pd.DataFrame:
    """The pool images of `groups`, classes by name, with their ids and pictures; the truth is "" where unknown."""
    table = groups(found, seen.rows, seen.predicted, seen.confidence)
    rows, names = table.pop("row").to_numpy(np.int64), np.array([*pool.classes, ""])
    table["id"], table["truth"] = pool.ids[rows], names[found.truth[rows]]
    for column in ("predicted", "before"):
        table[column] = names[table[column].to_numpy(np.int64)]
    table["picture"] = [picture(image) for image in pool.images(rows)]
    return table


def map_of(found: Labeling, splits: dict[str, Split], seen: dict[str, Seen]) -> pd.DataFrame:
    """Where images of each split lie, what the student says of them, their true class if known, and their pictures."""
    truths = {"labeled": splits["labeled"].labels, "calibration": splits["calibration"].labels, "pool": found.truth}
    tables, features = [], []
    for name, split in splits.items():
        few = Seen(*(values[:MAP_IMAGES] for values in seen[name]))
        names = np.array([*split.classes, ""])
        columns: dict[str, Any] = {
            "split": name,
            "id": split.ids[few.rows],
            "predicted": names[few.predicted],
            "confidence": few.confidence.round(4),
            "truth": names[truths[name][few.rows]],
            "kept": found.is_kept[few.rows] if name == "pool" else True,
            "picture": [picture(image, MAP_SIDE) for image in few.images],
        }
        tables.append(pd.DataFrame(columns))
        features.append(few.features)
    table = pd.concat(tables, ignore_index=True)
    table[["x", "y"]] = feature_map(np.concatenate(features)).round(4)
    return table


if __name__ == "__main__":
    main()
