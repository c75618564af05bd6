"""From the teacher's logits to what the student is taught: calibrate -> filter -> balance -> soft or hard.

N pool images, n of them kept, K classes.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from noisy_student.config import Section, overlay
from noisy_student.errors import Refusal
from noisy_student.files import REMEDY, read_array, read_parquet, write_json, write_parquet
from noisy_student.metrics import nll, softmax

TABLE, COLUMNS = "pseudo_labels.parquet", ["row", "label", "confidence", "copies", "target"]
TEMPERATURES = np.geomspace(0.05, 20, 400)  # the grid that `fit_temperature` searches


class PseudoLabelParams(Section):
    """How the teacher's logits become pseudo-labels."""

    kind: Literal["soft", "hard"]  # the teacher's probabilities, or its most probable class
    calibrate: bool  # divide the logits by a temperature fitted on the calibration split first (Guo et al. 2017)
    target_temperature: float = Field(default=1.0, gt=0)  # that divides calibrated logits of soft targets; <1: sharper
    threshold: float = Field(ge=0, le=1)  # the least confidence at which a pool image is kept
    precision: float | None = Field(default=None, gt=0, le=1)  # in place of the threshold: the lowest one at which this
    # fraction of the calibration images that reach it is right
    in_distribution: float | None = Field(default=None, gt=0, le=1)  # fraction of the calibration images with as much
    # evidence as a pool image has to have; null: no filter
    neighbours: int | None = Field(default=None, ge=1, le=10**6)  # the evidence is then the likeness to that many-th
    # nearest labeled image in the teacher's features; null: the logits' energy
    balance: bool  # equally many images a class: the most confident, or duplicates where they are too few
    # that many, with duplicates; null: the mean over the classes
    per_class: int | None = Field(default=None, ge=1, le=10**7)

    @model_validator(mode="after")
    def _options_agree(self) -> "PseudoLabelParams":
        if self.per_class and not self.balance:
            raise ValueError("should have balance true where per_class is set")
        if self.neighbours and not self.in_distribution:
            raise ValueError("should have in_distribution, such as 0.95, where neighbours is set")
        if self.precision and self.threshold:
            raise ValueError("should have threshold 0 where precision chooses it (or precision null)")
        if self.kind == "hard" and self.target_temperature != 1:
            raise ValueError("should have target_temperature 1 where kind is hard, for it sharpens soft ones")
        return self


def of_iteration(defaults: PseudoLabelParams, own: dict[str, Any], name: str) -> PseudoLabelParams:
    """How pseudo-labels of the iteration called `name` are made: the `defaults`, overlaid by its `own` options."""
    return overlay(defaults, own, f"iterations.{name}.pseudo_labels")


@dataclass(frozen=True)
class Limits:
    """What a pool image has to reach to be kept."""

    threshold: float  # its confidence, at least
    evidence: float = -np.inf  # see evidence.py, at least: less is further from what the teacher knows


@dataclass(frozen=True)
class PseudoLabels:
    """The kept pool images and what the student is taught about them."""

    rows: np.ndarray  # int64 (n,), positions in the pool, rising
    labels: np.ndarray  # int64 (n,), the most probable class
    confidence: np.ndarray  # float32 (n,), its probability
    targets: np.ndarray  # float32 (n,K), rows sum to 1
    copies: np.ndarray  # int64 (n,), at least 1: how often the image stands in the student's training set


def make(
    logits: np.ndarray,
    params: PseudoLabelParams,
    temperature: float,
    generator: np.random.Generator,
    limits: Limits | None = None,
    evidence: np.ndarray | None = None,
) -> PseudoLabels:
    """Pseudo-labels out of the teacher's `logits` (N,K) for the pool (Xie et al. 2019, algorithm 1 and section 3.2).

    `limits` are those of `find_limits`, and `evidence` (N,) that of the pool; without them the threshold of `params`
    alone parts the pool. Raises `Refusal` when no image reaches them.
    """
    limits = limits or Limits(params.threshold)
    probabilities = softmax(logits, temperature)
    confidence, labels = probabilities.max(axis=1), probabilities.argmax(axis=1)
    known = evidence is None or evidence >= limits.evidence
    rows = np.flatnonzero((confidence >= limits.threshold) & known)
    if not len(rows):
        raise Refusal(_none_kept(confidence, limits))
    copies = np.ones(len(rows), dtype=np.int64)
    if params.balance:
        copies = balanced_copies(labels[rows], confidence[rows], generator, params.per_class)
    rows, copies = rows[copies > 0], copies[copies > 0]
    targets = one_hot(labels[rows], logits.shape[1])
    if params.kind == "soft":
        targets = softmax(logits[rows], temperature * params.target_temperature)
    return PseudoLabels(rows, labels[rows], confidence[rows].astype(np.float32), targets.astype(np.float32), copies)


def _none_kept(confidence: np.ndarray, limits: Limits) -> str:
    highest = confidence.max() if len(confidence) else 0.0
    if highest < limits.threshold:
        return (
            f"no pool image has the confidence {limits.threshold:.3f} that is asked for, the highest is {highest:.3f}; "
            "lower pseudo_labels.threshold or precision"
        )
    return "no pool image is both sure and like the calibration images; raise pseudo_labels.in_distribution"


def find_limits(
    params: PseudoLabelParams,
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    evidence: np.ndarray | None = None,
) -> Limits:
    """What a pool image has to reach, by what the calibration split has: the teacher's `logits` (M,K) and `evidence`
    (M,), and its `labels` (M,)."""
    threshold, least = params.threshold, -np.inf
    if params.precision:
        threshold = precise_threshold(softmax(logits, temperature), labels, params.precision)
    if params.in_distribution and evidence is not None:
        least = float(np.quantile(evidence, 1 - params.in_distribution))
    return Limits(threshold, least)


def precise_threshold(probabilities: np.ndarray, labels: np.ndarray, precision: float) -> float:
    """The lowest confidence such that of the images (M,K) that reach it a fraction of `precision` is labeled right.

    Raises `Refusal` when there is none.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    reached = np.sort(confidence)
    precise = [c for c in reached if right[confidence >= c].mean() >= precision]
    if not precise:
        best = max(right[confidence >= c].mean() for c in reached)
        raise Refusal(
            f"at no threshold {precision} of the calibration images are labeled right: at most {best:.3f} are; lower "
            "pseudo_labels.precision, or set it to null"
        )
    return float(precise[0])


def balanced_copies(
    labels: np.ndarray, confidence: np.ndarray, generator: np.random.Generator, per_class: int | None = None
) -> np.ndarray:
    """How often each image is used (n,) so that every class that occurs has equally many.

    That many is `per_class` or the mean over the classes that occur, rounded up. A larger class keeps its most
    confident images, a smaller one keeps all and repeats some, evenly and by the generator's choice (Xie et al. 2019,
    section 3.2, "data balancing").
    """
    copies = np.zeros(len(labels), dtype=np.int64)
    present = np.unique(labels)
    wanted = per_class or -(-len(labels) // len(present))
    for k in present:
        members = np.flatnonzero(labels == k)
        best = members[np.argsort(-confidence[members], kind="stable")[:wanted]]
        copies[best] = wanted // len(best)
        copies[generator.permutation(best)[: wanted % len(best)]] += 1
    return copies


def true_labels(
    truth: np.ndarray, classes: int, params: PseudoLabelParams, generator: np.random.Generator
) -> PseudoLabels:
    """What a teacher makes of the pool that is sure of the `truth` (N,), -1 where unknown: an oracle.

    So all images whose label is known are kept, whatever the filters of `params`, and balanced where they say so.
    Raises `Refusal` when none is.
    """
    rows = np.flatnonzero(truth >= 0)
    if not len(rows):
        raise Refusal("no label of the pool is known, so there is no oracle; take the control of kind oracle out")
    sure = np.where(one_hot(truth[rows], classes) > 0, 0.0, -np.inf)
    made = make(sure, params, 1.0, generator, Limits(threshold=0))
    return replace(made, rows=rows[made.rows])


def shuffled(made: PseudoLabels, generator: np.random.Generator) -> PseudoLabels:
    """The same images and targets, each target and its copies with an image of the generator's choice."""
    order = generator.permutation(len(made.rows))
    taken = {name: getattr(made, name)[order] for name in ("labels", "confidence", "targets", "copies")}
    return replace(made, **taken)


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
    """The logits float32 (N,K) of a split, or of `features-` and its name the features, out of its shards' files.

    Raises `Refusal` when there are none.
    """
    shards = sorted(folder.glob(f"{split}-*.npy"))
    if not shards:
        raise Refusal(f"{folder} holds no logits of the {split} split; {REMEDY}")
    return np.concatenate([read_array(shard) for shard in shards])


def save_pseudo_labels(
    folder: Path, made: PseudoLabels, classes: list[str], temperature: float, limits: Limits, pool: int
) -> None:
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
        "threshold": limits.threshold,
        "least_evidence": limits.evidence if np.isfinite(limits.evidence) else None,
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
