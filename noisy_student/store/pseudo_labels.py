"""Logits and pseudo-labels on the disk.

N images, n of them kept, K classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, read_array, read_parquet, write_json, write_parquet

TABLE_FILE, TABLE_COLUMNS = "pseudo_labels.parquet", ["row", "label", "confidence", "copies", "target"]


@dataclass(frozen=True)
class PseudoLabels:
    """The kept pool images with their targets."""

    rows: np.ndarray  # int64 (n,), positions in the pool, rising
    labels: np.ndarray  # int64 (n,), the most probable class
    confidence: np.ndarray  # float32 (n,), its probability
    targets: np.ndarray  # float32 (n,K), rows sum to 1
    copies: np.ndarray  # int64 (n,), at least 1: how often the image stands in the student's training set


def read_logits(folder: Path, split: str) -> np.ndarray:
    """The logits float32 (N,K) of a split; for the name `features-<split>` its features float16 (N,F).

    Raises `UserError` when there are none.
    """
    shards = sorted(folder.glob(f"{split}-*.npy"))
    if not shards:
        raise UserError(f"{folder} holds no logits of the {split} split; {REMEDY}")
    return np.concatenate([read_array(shard) for shard in shards])


def save_pseudo_labels(
    folder: Path, pseudo_labels: PseudoLabels, classes: list[str], pool: int, chosen_by: Mapping[str, float | None]
) -> None:
    """Write pseudo-labels as a table, and a report for people beside it.

    `pool` is the number of pool images, and `chosen_by` has the temperature and the limits of the selection.
    """
    flat = pa.array(pseudo_labels.targets.reshape(-1))
    columns = {
        "row": pseudo_labels.rows,
        "label": pseudo_labels.labels,
        "confidence": pseudo_labels.confidence,
        "copies": pseudo_labels.copies,
        "target": pa.FixedSizeListArray.from_arrays(flat, pseudo_labels.targets.shape[1]),
    }
    write_parquet(folder / TABLE_FILE, pa.table(columns))
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
    targets = table["target"].combine_chunks()
    return PseudoLabels(
        rows=table["row"].to_numpy(),
        labels=table["label"].to_numpy(),
        confidence=table["confidence"].to_numpy(),
        targets=targets.flatten().to_numpy().reshape(len(table), -1),
        copies=table["copies"].to_numpy(),
    )
