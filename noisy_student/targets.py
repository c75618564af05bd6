"""From the teacher's logits to what the student is taught: calibrate -> filter -> balance -> soft or hard.

N pool images, n of them kept, K classes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from noisy_student.config import Section
from noisy_student.errors import Refusal
from noisy_student.files import REMEDY, read_array, read_parquet, write_json, write_parquet
from noisy_student.metrics import nll, softmax

TABLE, COLUMNS = "pseudo_labels.parquet", ["row", "label", "confidence", "copies", "target"]
TEMPERATURES = np.geomspace(0.05, 20, 400)  # the grid that `fit_temperature` searches


class PseudoLabelParams(Section):
    """How the teacher's logits become pseudo-labels."""

    kind: Literal["soft", "hard"]  # the teacher's probabilities, or its most probable class
    calibrate: bool  # divide the logits by a temperature fitted on the calibration split first (Guo et al. 2017)
    threshold: float = Field(ge=0, le=1)  # the least confidence at which a pool image is kept
    balance: bool  # equally many images a class: the most confident, or duplicates where they are too few


@dataclass(frozen=True)
class PseudoLabels:
    """The kept pool images and what the student is taught about them."""

    rows: np.ndarray  # int64 (n,), positions in the pool, rising
    labels: np.ndarray  # int64 (n,), the most probable class
    confidence: np.ndarray  # float32 (n,), its probability
    targets: np.ndarray  # float32 (n,K), rows sum to 1
    copies: np.ndarray  # int64 (n,), at least 1: how often the image stands in the student's training set


def make(
    logits: np.ndarray, params: PseudoLabelParams, temperature: float, generator: np.random.Generator
) -> PseudoLabels:
    """Pseudo-labels out of the teacher's `logits` (N,K) for the pool (Xie et al. 2019, algorithm 1 and section 3.2).

    Raises `Refusal` when no image reaches the threshold.
    """
    probabilities = softmax(logits, temperature)
    confidence, labels = probabilities.max(axis=1), probabilities.argmax(axis=1)
    rows = np.flatnonzero(confidence >= params.threshold)
    if not len(rows):
        raise Refusal(
            f"no pool image reaches pseudo_labels.threshold {params.threshold}: the teacher's highest confidence is "
            f"{confidence.max() if len(confidence) else 0:.3f}; lower the threshold"
        )
    copies = np.ones(len(rows), dtype=np.int64)
    if params.balance:
        copies = balanced_copies(labels[rows], confidence[rows], generator)
    rows, copies = rows[copies > 0], copies[copies > 0]
    targets = probabilities[rows] if params.kind == "soft" else one_hot(labels[rows], logits.shape[1])
    return PseudoLabels(rows, labels[rows], confidence[rows].astype(np.float32), targets.astype(np.float32), copies)


def balanced_copies(labels: np.ndarray, confidence: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """How often each image is used (n,) so that every class that occurs has equally many.

    That many is the mean over the classes that occur, rounded up. A larger class keeps its most confident images, a
    smaller one keeps all and repeats some, evenly and by the generator's choice (Xie et al. 2019, section 3.2, "data
    balancing").
    """
    copies = np.zeros(len(labels), dtype=np.int64)
    present = np.unique(labels)
    wanted = -(-len(labels) // len(present))
    for k in present:
        members = np.flatnonzero(labels == k)
        best = members[np.argsort(-confidence[members], kind="stable")[:wanted]]
        copies[best] = wanted // len(best)
        copies[generator.permutation(best)[: wanted % len(best)]] += 1
    return copies


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which `logits` (N,K) explain `labels` (N,) best (Guo et al. 2017, section 4.2).

    A label is taken to be wrong with probability 1 / (N + 2): a teacher that has all N right would else be given
    boundless confidence (after Platt 1999, section 2.2).
    """
    doubt = 1 / (len(labels) + 2)
    losses = [nll(softmax(logits, temperature), labels, doubt) for temperature in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """Rows of the identity: float32 (N,) -> (N,K)."""
    return np.eye(classes, dtype=np.float32)[labels]


def read_logits(folder: Path, split: str) -> np.ndarray:
    """The logits float32 (N,K) of a split, out of the files of its shards.

    Raises `Refusal` when there are none.
    """
    shards = sorted(folder.glob(f"{split}-*.npy"))
    if not shards:
        raise Refusal(f"{folder} holds no logits of the {split} split; {REMEDY}")
    return np.concatenate([read_array(shard) for shard in shards])


def save_pseudo_labels(folder: Path, made: PseudoLabels, classes: list[str], temperature: float, pool: int) -> None:
    """Write pseudo-labels as a table, and beside it what a person wants to know of them."""
    flat = pa.array(made.targets.reshape(-1))
    columns = {
        "row": made.rows,
        "label": made.labels,
        "confidence": made.confidence,
        "copies": made.copies,
        "target": pa.FixedSizeListArray.from_arrays(flat, made.targets.shape[1]),
    }
    write_parquet(folder / TABLE, pa.table(columns))
    unique, used = (np.bincount(made.labels, weights, len(classes)) for weights in (None, made.copies))
    report = {
        "pool_images": pool,
        "temperature": temperature,
        "unique_images": len(made.rows),
        "images_with_copies": int(made.copies.sum()),
        "unique_by_class": dict(zip(classes, unique.astype(int).tolist(), strict=True)),
        "with_copies_by_class": dict(zip(classes, used.astype(int).tolist(), strict=True)),
        "classes_without_images": [name for name, images in zip(classes, unique, strict=True) if not images],
    }
    write_json(folder / "report.json", report)


def read_pseudo_labels(folder: Path) -> PseudoLabels:
    """The pseudo-labels that `save_pseudo_labels` wrote. Raises `Refusal` when they cannot be read."""
    table = read_parquet(folder / TABLE).combine_chunks()
    if table.column_names != COLUMNS:
        raise Refusal(f"{folder / TABLE} has the columns {', '.join(table.column_names)}; {REMEDY}")
    targets = table["target"].combine_chunks()
    return PseudoLabels(
        rows=table["row"].to_numpy(),
        labels=table["label"].to_numpy(),
        confidence=table["confidence"].to_numpy(),
        targets=targets.flatten().to_numpy().reshape(len(table), -1),
        copies=table["copies"].to_numpy(),
    )
