"""The audit of an iteration's pseudo-labels: what was kept of the pool, how much of it is right, and where the student
sees it otherwise.

    audit.json        figures
    pictures.parquet  images worth a look
    map.parquet       a map of images by the student's features

N pool images, n of them kept, M calibration images, S images of the sample, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from noisy_student.core.files import read_json, read_parquet, write_json, write_parquet
from noisy_student.store.pseudo_labels import PseudoLabels

CONFIDENCE_BINS = 20
THRESHOLDS = (*np.round(np.linspace(0, 0.99, 34), 2).tolist(), 0.995, 0.999)
ENOUGH = 10  # images, at least, that a precision is of
PER_GROUP = 24  # images shown of each kind


@dataclass(frozen=True)
class Audit:
    """The audit of an iteration's pseudo-labels."""

    figures: dict[str, Any]
    pictures: pd.DataFrame  # group, id, predicted, before, truth, confidence, picture
    map: pd.DataFrame  # split, id, predicted, truth, confidence, kept, picture, x, y


def save_audit(folder: Path, audit: Audit) -> None:
    """Write `audit` into `folder`."""
    write_json(folder / "audit.json", audit.figures)
    for name, table in (("pictures", audit.pictures), ("map", audit.map)):
        write_parquet(folder / f"{name}.parquet", pa.Table.from_pandas(table, preserve_index=False))


def read_audit(folder: Path) -> Audit:
    """The audit that `save_audit` wrote. Raises `UserError` when it cannot be read."""
    pictures, places = (read_parquet(folder / f"{name}.parquet").to_pandas() for name in ("pictures", "map"))
    return Audit(read_json(folder / "audit.json"), pictures, places)


@dataclass(frozen=True)
class Labeling:
    """What a teacher said of the pool, and what was kept of it."""

    predicted: np.ndarray  # int64 (N,), the most probable class
    confidence: np.ndarray  # float64 (N,), its calibrated probability
    kept: PseudoLabels
    truth: np.ndarray  # int64 (N,), -1 where unknown

    @property
    def is_kept(self) -> np.ndarray:
        """bool (N,)."""
        found = np.zeros(len(self.predicted), bool)
        found[self.kept.rows] = True
        return found

    @property
    def is_wrong(self) -> np.ndarray:
        """bool (N,); False where the truth is unknown."""
        return (self.truth >= 0) & (self.predicted != self.truth)


def pool_figures(found: Labeling, classes: list[str], calibration: np.ndarray) -> dict[str, Any]:
    """What was kept, unique and with copies, by class and by confidence.

    `calibration` (M,) are the teacher's classes for the calibration split.

    `drift` is the share of pool images that would need another class for the pool to have the class shares of the
    calibration split, both as the teacher predicts them; `drift_by_chance` is what M images alone make of it.
    """
    kept, known = found.kept, found.truth >= 0
    bins = np.linspace(0, 1, CONFIDENCE_BINS + 1)
    histogram = {
        "all": np.histogram(found.confidence, bins)[0].tolist(),
        "kept": np.histogram(found.confidence[kept.rows], bins)[0].tolist(),
    }
    pool, held_out = (np.bincount(each, minlength=len(classes)) / len(each) for each in (found.predicted, calibration))
    spread = np.sqrt(2 * pool * (1 - pool) / (np.pi * len(calibration)))  # the mean distance of a share from its own
    return {
        "pool_images": len(found.predicted),
        "unique_images": len(kept.rows),
        "images_with_copies": int(kept.copies.sum()),
        "known_kept": int(known[kept.rows].sum()),
        "wrong_kept": int(found.is_wrong[kept.rows].sum()),
        "confidence": histogram,
        "drift": float(np.abs(pool - held_out).sum() / 2),
        "drift_by_chance": float(spread.sum() / 2),
        "by_class": [
            {**_of_class(found, k, name), "calibration_share": float(held_out[k]), "predicted_share": float(pool[k])}
            for k, name in enumerate(classes)
        ],
    }


def _of_class(found: Labeling, label: int, name: str) -> dict[str, Any]:
    """The pseudo-labels of a class: unique images, images with copies, and how many of the known ones are right."""
    kept = found.kept.labels == label
    rows = found.kept.rows[kept]
    known = found.truth[rows] >= 0
    return {
        "class": name,
        "unique": int(kept.sum()),
        "with_copies": int(found.kept.copies[kept].sum()),
        "known": int(known.sum()),
        "right": int((found.truth[rows] == label).sum()),
    }


def threshold_curve(
    found: Labeling, calibration: np.ndarray, labels: np.ndarray, chosen: float
) -> list[dict[str, Any]]:
    """How many reach a threshold of confidence, and how many of those are right, by threshold; one is the `chosen` one.

    `reached` is a share of the pool, and `precision` is of those pool images whose truth is known.
    `calibration_precision` is measured on the calibration split: `calibration` (M,K), the teacher's probabilities, and
    its `labels` (M,). A precision of fewer than ENOUGH images is None.
    """
    known = found.truth >= 0
    right, calibration_right = found.predicted == found.truth, calibration.argmax(axis=1) == labels
    rows = []
    for threshold in sorted({*THRESHOLDS, chosen}):
        reached, held_out = found.confidence >= threshold, calibration.max(axis=1) >= threshold
        rows.append(
            {
                "threshold": threshold,
                "reached": float(reached.mean()),
                "precision": _mean(right[reached & known]),
                "calibration_precision": _mean(calibration_right[held_out]),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) >= ENOUGH else None


def student_figures(found: Labeling, rows: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """How often the student disagrees with its teacher on a sample of the pool, at `rows` (S,), and who is right.

    `predicted` (S,) are the student's classes.
    """
    teacher, truth, known = found.predicted[rows], found.truth[rows], found.truth[rows] >= 0
    changed = predicted != teacher
    return {
        "sample": len(rows),
        "changed": int(changed.sum()),
        "known": int(known.sum()),
        "mended": int((changed & known & (predicted == truth)).sum()),
        "spoiled": int((changed & known & (teacher == truth)).sum()),
    }


def groups(found: Labeling, rows: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> pd.DataFrame:
    """Which pool images to show: columns group, row, predicted, confidence, before.

    The groups are `surest`, `least sure` and `wrong` of the kept ones. Those in `changed` are of the sample at `rows`
    (S,): the student's class `predicted` (S,), with its `confidence` (S,), is not the teacher's, `before`.
    """
    kept = found.kept.rows
    by_confidence = kept[np.argsort(-found.confidence[kept], kind="stable")]
    wrong = by_confidence[found.is_wrong[by_confidence]]
    tables = [
        _of_teacher("surest", _from_each_class(found, by_confidence), found),
        _of_teacher("least sure", _from_each_class(found, by_confidence[::-1]), found),
        _of_teacher("wrong", wrong[:PER_GROUP], found),
    ]
    changed = np.flatnonzero(predicted != found.predicted[rows])
    changed = changed[np.argsort(-confidence[changed], kind="stable")][:PER_GROUP]
    of_student = {"row": rows[changed], "predicted": predicted[changed], "confidence": confidence[changed]}
    of_student |= {"before": found.predicted[rows[changed]]}
    return pd.concat([*tables, pd.DataFrame({"group": "changed", **of_student})], ignore_index=True)


def _of_teacher(group: str, rows: np.ndarray, found: Labeling) -> pd.DataFrame:
    of_teacher = {"predicted": found.predicted[rows], "confidence": found.confidence[rows]}
    return pd.DataFrame({"group": group, "row": rows, **of_teacher, "before": found.predicted[rows]})


def _from_each_class(found: Labeling, rows: np.ndarray) -> np.ndarray:
    """The first PER_GROUP of `rows` (n,), in turn from each class that is predicted."""
    turn = pd.Series(found.predicted[rows]).groupby(found.predicted[rows]).cumcount().to_numpy()
    return rows[np.argsort(turn, kind="stable")][:PER_GROUP]
