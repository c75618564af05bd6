"""The audit of an iteration's pseudo-labels: what was kept of the pool, how much of it is right, and where the student
sees it otherwise. Pure functions.

N pool images, n of them kept, M calibration images, S images of the sample, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core import metrics
from noisy_student.store.pseudo_labels import PseudoLabels

CONFIDENCE_BINS = 20
THRESHOLDS = np.round(np.linspace(0, 0.99, 34), 2)
PER_GROUP = 24  # images shown of each kind


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


def labeling(logits: np.ndarray, temperature: float, kept: PseudoLabels, truth: np.ndarray) -> Labeling:
    """What the teacher's `logits` (N,K) say at `temperature`; `truth` int64 (N,) is -1 where unknown."""
    probabilities = metrics.softmax(logits, temperature)
    return Labeling(probabilities.argmax(axis=1), probabilities.max(axis=1), kept, truth)


def pool_figures(found: Labeling, classes: list[str], prior: np.ndarray) -> dict[str, Any]:
    """What was kept, unique and with copies, by class and by confidence, beside the labeled images' `prior` (K,)."""
    kept, known = found.kept, found.truth >= 0
    bins = np.linspace(0, 1, CONFIDENCE_BINS + 1)
    histogram = {
        "all": np.histogram(found.confidence, bins)[0].tolist(),
        "kept": np.histogram(found.confidence[kept.rows], bins)[0].tolist(),
    }
    return {
        "pool_images": len(found.predicted),
        "unique_images": len(kept.rows),
        "images_with_copies": int(kept.copies.sum()),
        "known_images": int(known.sum()),
        "wrong_kept": int(found.is_wrong[kept.rows].sum()),
        "confidence": histogram,
        "drift": float(np.abs(_shares(found.predicted, len(classes)) - prior).sum() / 2),
        "by_class": [_of_class(found, k, name, float(prior[k])) for k, name in enumerate(classes)],
    }


def _of_class(found: Labeling, label: int, name: str, prior: float) -> dict[str, Any]:
    """A class: its share of the labeled images, of the pool as predicted, and its pseudo-labels."""
    kept = found.kept.labels == label
    rows = found.kept.rows[kept]
    known = found.truth[rows] >= 0
    return {
        "class": name,
        "labeled_share": prior,
        "predicted_share": float((found.predicted == label).mean()),
        "unique": int(kept.sum()),
        "with_copies": int(found.kept.copies[kept].sum()),
        "precision": float((found.truth[rows][known] == label).mean()) if known.any() else None,
    }


def _shares(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=classes) / max(len(labels), 1)


def threshold_curve(found: Labeling, calibration: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Yield and precision against the threshold of confidence.

    `yield` is the share of the pool that reaches it, and `precision` that of those which are right, where the truth is
    known. `held_out_precision` is measured on the calibration split: `calibration` (M,K), its calibrated probabilities,
    and its `labels` (M,). A precision without images is None.
    """
    known = found.truth >= 0
    right, held_out_right = found.predicted == found.truth, calibration.argmax(axis=1) == labels
    rows = []
    for threshold in THRESHOLDS:
        reached, held_out = found.confidence >= threshold, calibration.max(axis=1) >= threshold
        rows.append(
            {
                "threshold": float(threshold),
                "yield": float(reached.mean()),
                "precision": _mean(right[reached & known]),
                "held_out_precision": _mean(held_out_right[held_out]),
            }
        )
    return rows


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


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

    The groups are `surest`, `least sure` and `confidently wrong` of the kept ones, and of the sample at `rows` (S,)
    `changed`, where the student's class `predicted` (S,), with its `confidence` (S,), is not the teacher's, `before`.
    """
    kept = found.kept.rows
    by_confidence = kept[np.argsort(-found.confidence[kept], kind="stable")]
    wrong = by_confidence[found.is_wrong[by_confidence]]
    tables = [
        _of_teacher("surest", _from_each_class(found, by_confidence), found),
        _of_teacher("least sure", _from_each_class(found, by_confidence[::-1]), found),
        _of_teacher("confidently wrong", wrong[:PER_GROUP], found),
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
