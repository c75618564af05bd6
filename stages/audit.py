"""Audit an iteration's pseudo-labels: what was kept, how much is right, and what its student says of the same images.

Reads   the logits of the pool and the calibration split, the pseudo-labels, the student; the labeled, calibration and
        pool images; the pool's truth
Writes  a folder: audit.json (figures), pictures.parquet (images worth a look), map.parquet (a map of images by the
        student's features)
Params  seed, runtime
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json, write_json, write_parquet
from noisy_student.core.metrics import fit_temperature, softmax
from noisy_student.core.randomness import Seed, generator
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.audit import Labeling, groups, labeling, pool_figures, student_figures, threshold_curve
from noisy_student.evaluation.feature_map import feature_map
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import logits_and_features
from noisy_student.store.pictures import picture
from noisy_student.store.pseudo_labels import read_logits, read_pseudo_labels
from noisy_student.store.splits import Split, read_split, read_truth

SAMPLE = 1000  # pool images that the student predicts, at most
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
    inputs = {"logits": logits, "pseudo_labels": pseudo_labels, "student": student, "labeled": labeled}
    inputs |= {"calibration": calibration, "pool": pool, "pool_truth": pool_truth}
    with guarded(__file__, params, inputs):
        splits = {"labeled": read_split(labeled), "calibration": read_split(calibration), "pool": read_split(pool)}
        chosen_by = read_json(pseudo_labels / "report.json")
        temperature = chosen_by["temperature"]
        truth, kept = read_truth(pool_truth), read_pseudo_labels(pseudo_labels)
        found = labeling(read_logits(logits, "pool"), temperature, kept, truth)
        classifier, description = load_classifier(student, setup(runtime))
        seen = of_student(classifier, splits, runtime, seed)

        classes = splits["labeled"].classes
        prior = np.bincount(splits["labeled"].labels, minlength=len(classes)) / len(splits["labeled"])
        known = softmax(read_logits(logits, "calibration"), temperature)
        figures = {
            "iteration": description["name"],
            "threshold": chosen_by["threshold"],
            "warnings": chosen_by["warnings"],
        }
        figures |= pool_figures(found, classes, prior)
        figures["by_threshold"] = threshold_curve(found, known, splits["calibration"].labels)
        figures["student"] = student_figures(found, seen["pool"].rows, seen["pool"].predicted)
        write_json(out / "audit.json", figures)
        save_table(out / "pictures.parquet", pictures(found, splits["pool"], seen["pool"]))
        save_table(out / "map.parquet", map_of(found, splits, seen))


class Seen(NamedTuple):
    """What the student says of some images of a split, S of them."""

    rows: np.ndarray  # int64 (S,), of the split
    predicted: np.ndarray  # int64 (S,)
    confidence: np.ndarray  # float64 (S,), calibrated
    features: np.ndarray  # float16 (S,F)


def of_student(student: Classifier, splits: dict[str, Split], runtime: RuntimeParams, seed: int) -> dict[str, Seen]:
    """What the student says of a sample of each split; the sample depends on the seed and the split's size alone."""
    rows, predictions = {}, {}
    for name, split in splits.items():
        most = SAMPLE if name != "labeled" else MAP_IMAGES
        draw = generator(seed, f"audit of {name}")
        rows[name] = np.sort(draw.permutation(len(split))[:most])
        predictions[name] = logits_and_features(student, split.selection(rows[name]), runtime)
    held_out = splits["calibration"].labels[rows["calibration"]]
    temperature = fit_temperature(predictions["calibration"][0], held_out)
    found = {}
    for name, (logits, features) in predictions.items():
        probabilities = softmax(logits, temperature)
        found[name] = Seen(rows[name], probabilities.argmax(axis=1), probabilities.max(axis=1), features)
    return found


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
    chosen = {name: slice(None, MAP_IMAGES) for name in splits}
    truths = {"labeled": splits["labeled"].labels, "calibration": splits["calibration"].labels, "pool": found.truth}
    tables, features = [], []
    for name, split in splits.items():
        of_split = Seen(*(values[chosen[name]] for values in seen[name]))
        names = np.array([*split.classes, ""])
        columns: dict[str, Any] = {
            "split": name,
            "id": split.ids[of_split.rows],
            "predicted": names[of_split.predicted],
            "confidence": of_split.confidence.round(4),
            "truth": names[truths[name][of_split.rows]],
            "kept": found.is_kept[of_split.rows] if name == "pool" else True,
            "picture": [picture(image, MAP_SIDE) for image in split.images(of_split.rows)],
        }
        tables.append(pd.DataFrame(columns))
        features.append(of_split.features)
    table = pd.concat(tables, ignore_index=True)
    table[["x", "y"]] = feature_map(np.concatenate(features)).round(4)
    return table


def save_table(path: Path, table: pd.DataFrame) -> None:
    write_parquet(path, pa.Table.from_pandas(table, preserve_index=False))


if __name__ == "__main__":
    main()
