"""Logits and pseudo-labels on the disk.

N images, n of them kept, K classes.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, read_array, read_parquet, write_json, write_parquet, write_parts
from noisy_student.core.metrics import softmax
from noisy_student.store.selection import Selection
from noisy_student.store.targets import Targets

TABLE_FILE, TABLE_COLUMNS = "pseudo_labels.parquet", ["row", "label", "confidence", "copies"]
TARGETS_FILE = "targets.npy"
ROWS_AT_ONCE = 2**14  # of logits or targets that memory holds


@dataclass(frozen=True)
class PseudoLabels:
    """The kept pool images with their targets."""

    rows: np.ndarray  # int64 (n,), positions in the pool, rising
    labels: np.ndarray  # int64 (n,), the most probable class
    confidence: np.ndarray  # float32 (n,), its probability
    copies: np.ndarray  # int64 (n,), at least 1: how often the image stands in the student's training set
    soft_targets: Targets | None = None  # float32 (n,K), rows sum to 1; None: all of the target is on the label


@dataclass(frozen=True)
class Predicted:
    """What a teacher says of a split."""

    labels: np.ndarray  # int64 (N,), the most probable class
    confidence: np.ndarray  # float64 (N,), its probability


def read_logits(folder: Path, split: str) -> Selection:
    """The logits float32 (N,K) of a split, read when they are indexed; for the name `features-<split>` its features
    float16 (N,F).

    Raises `UserError` when there are none.
    """
    shards = sorted(folder.glob(f"{split}-*.npy"))
    if not shards:
        raise UserError(f"{folder} holds no logits of the {split} split; {REMEDY}")
    arrays = [read_array(shard) for shard in shards]
    return Selection(arrays, np.arange(sum(map(len, arrays))))


def predicted(logits: Selection | np.ndarray, temperature: float) -> Predicted:
    """What the `logits` (N,K), at least one, say at `temperature`."""
    probabilities = (softmax(part, temperature) for part in parts(logits))
    labels, confidence = zip(*((each.argmax(axis=1), each.max(axis=1)) for each in probabilities), strict=True)
    return Predicted(np.concatenate(labels), np.concatenate(confidence))


def by_parts(function: Callable[[np.ndarray], np.ndarray], values: Any) -> np.ndarray:
    """What `function` makes of the rows of `values`, at least one, of which memory holds ROWS_AT_ONCE."""
    return np.concatenate([function(part) for part in parts(values)])


def parts(values: Any) -> Iterator[np.ndarray]:
    """The rows of `values` (N,…), ROWS_AT_ONCE at a time."""
    for start in range(0, len(values), ROWS_AT_ONCE):
        yield values[start : start + ROWS_AT_ONCE]


def save_pseudo_labels(
    folder: Path, pseudo_labels: PseudoLabels, classes: list[str], pool: int, chosen_by: Mapping[str, float | None]
) -> None:
    """Write pseudo-labels as a table, soft targets as an array, and a report for people beside them.

    `pool` is the number of pool images, and `chosen_by` has the temperature and the limits of the selection.
    """
    columns = {
        "row": pseudo_labels.rows,
        "label": pseudo_labels.labels,
        "confidence": pseudo_labels.confidence,
        "copies": pseudo_labels.copies,
    }
    write_parquet(folder / TABLE_FILE, pa.table(columns))
    if (targets := pseudo_labels.soft_targets) is not None:
        write_parts(folder / TARGETS_FILE, targets.shape, np.dtype(np.float32), parts(targets))
    unique, used = (
        np.bincount(pseudo_labels.labels, weights, len(classes)) for weights in (None, pseudo_labels.copies)
    )
    report = {
        "pool_images": pool,
        **chosen_by,
        "unique_images": len(pseudo_labels.rows),
        "images_with_copies": int(pseudo_labels.copies.sum()),
        "unique_by_class": dict(zip(classes, unique.astype(int).tolist(), strict=True)),
        "with_copies_by_class": dict(zip(classes, used.astype(int).tolist(), strict=True)),
        "classes_without_images": [name for name, images in zip(classes, unique, strict=True) if not images],
    }
    write_json(folder / "report.json", report)


def read_pseudo_labels(folder: Path) -> PseudoLabels:
    """The pseudo-labels that `save_pseudo_labels` wrote. Raises `UserError` when they cannot be read."""
    table = read_parquet(folder / TABLE_FILE).combine_chunks()
    if table.column_names != TABLE_COLUMNS:
        raise UserError(f"{folder / TABLE_FILE} has the columns {', '.join(table.column_names)}; {REMEDY}")
    soft = folder / TARGETS_FILE
    return PseudoLabels(
        rows=table["row"].to_numpy(),
        labels=table["label"].to_numpy(),
        confidence=table["confidence"].to_numpy(),
        copies=table["copies"].to_numpy(),
        soft_targets=Selection([read_array(soft)], np.arange(len(table))) if soft.exists() else None,
    )
