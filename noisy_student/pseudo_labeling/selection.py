"""Selects pool images and makes their targets: filter -> balance -> soft or hard targets.

N pool images, n of them kept, K classes.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from noisy_student.core.config import ParamsModel, overlay
from noisy_student.core.errors import UserError
from noisy_student.core.metrics import softmax
from noisy_student.store.pseudo_labels import Predicted, PseudoLabels
from noisy_student.store.selection import Selection
from noisy_student.store.splits import half
from noisy_student.store.targets import Probabilities


class PseudoLabelParams(ParamsModel):
    """How the teacher's logits become pseudo-labels."""

    kind: Literal["soft", "hard"]  # the teacher's probabilities, or its most probable class
    calibrate: bool  # divide the logits by a temperature fitted on the calibration split first (Guo et al. 2017)
    target_temperature: float = Field(default=1.0, gt=0)  # that divides calibrated logits of soft targets; <1: sharper
    threshold: float = Field(ge=0, le=1)  # the least confidence at which a pool image is kept
    precision: float | None = Field(default=None, gt=0, le=1)  # chooses the threshold: the lowest one that has this
    # precision on the calibration split
    # chooses the threshold: the one that this fraction of the pool reaches (Cascante-Bonilla et al. 2021)
    kept_fraction: float | None = Field(default=None, gt=0, le=1)
    # fraction of the calibration images that pass the out-of-distribution filter, see ood.py; null: no filter
    ood_quantile: float | None = Field(default=None, gt=0, le=1)
    # k: the filter's score is the similarity to the k-th nearest labeled image; null: the negative energy of the logits
    ood_neighbors: int | None = Field(default=None, ge=1, le=10**6)
    balance: bool  # equally many images a class: the most confident, or duplicates where they are too few
    # that many, with duplicates; null: the mean over the classes
    per_class: int | None = Field(default=None, ge=1, le=10**7)

    @model_validator(mode="after")
    def _options_agree(self) -> "PseudoLabelParams":
        if self.per_class and not self.balance:
            raise ValueError("must have balance true where per_class is set")
        if self.ood_neighbors and not self.ood_quantile:
            raise ValueError("must have ood_quantile, such as 0.95, where ood_neighbors is set")
        if self.precision and self.threshold:
            raise ValueError("must have threshold 0 where precision chooses it (or precision null)")
        if self.kept_fraction and (self.threshold or self.precision):
            raise ValueError("must have threshold 0 and precision null where kept_fraction chooses the threshold")
        if self.kind == "hard" and self.target_temperature != 1:
            raise ValueError("must have target_temperature 1 where kind is hard, for it sharpens soft ones")
        return self


def of_iteration(defaults: PseudoLabelParams, own: dict[str, Any], name: str) -> PseudoLabelParams:
    """The options of the iteration called `name`: the `defaults` with its `own` options in their place."""
    return overlay(defaults, own, f"iterations.{name}.pseudo_labels")


@dataclass(frozen=True)
class Limits:
    """The limits that a pool image must reach to be kept."""

    threshold: float  # its confidence, at least
    ood_score: float = -np.inf  # its score in ood.py, at least; a lower score is less like the labeled images

    def figures(self) -> dict[str, float | None]:
        """The limits for a report; None where there is none."""
        return {"threshold": self.threshold, "least_ood_score": self.ood_score if np.isfinite(self.ood_score) else None}


def make(
    pool: Predicted,
    params: PseudoLabelParams,
    generator: np.random.Generator,
    limits: Limits | None = None,
    ood_score: np.ndarray | None = None,
) -> PseudoLabels:
    """Pseudo-labels, hard ones, out of what the teacher says of the pool (Xie et al. 2019, algorithm 1 and section
    3.2).

    `limits` are those of `find_limits`, and `ood_score` (N,) is the pool's. Without them the threshold of `params`
    alone decides. Raises `UserError` when no image is kept.
    """
    limits, labels, confidence = limits or Limits(params.threshold), pool.labels, pool.confidence
    known = ood_score is None or ood_score >= limits.ood_score
    rows = np.flatnonzero((confidence >= limits.threshold) & known)
    if not len(rows):
        raise UserError(_none_kept(confidence, limits))
    copies = np.ones(len(rows), dtype=np.int64)
    if params.balance:
        copies = balanced_copies(labels[rows], confidence[rows], generator, params.per_class)
    rows, copies = rows[copies > 0], copies[copies > 0]
    return PseudoLabels(rows, labels[rows], confidence[rows].astype(np.float32), copies)


def softened(
    pseudo_labels: PseudoLabels, logits: Selection, temperature: float, params: PseudoLabelParams
) -> PseudoLabels:
    """The same pseudo-labels with targets of the kind that `params` ask for; `logits` (N,K) are the pool's."""
    if params.kind == "hard":
        return pseudo_labels
    targets = Probabilities(logits.at(pseudo_labels.rows), temperature * params.target_temperature)
    return replace(pseudo_labels, soft_targets=targets)


def _none_kept(confidence: np.ndarray, limits: Limits) -> str:
    highest = confidence.max() if len(confidence) else 0.0
    if highest < limits.threshold:
        return (
            f"no pool image has a confidence of at least {limits.threshold:.3f}; the highest is {highest:.3f}; "
            "lower pseudo_labels.threshold or precision"
        )
    return "no confident pool image passes the out-of-distribution filter; raise pseudo_labels.ood_quantile"


def find_limits(
    params: PseudoLabelParams,
    logits: np.ndarray,
    labels: np.ndarray,
    temperature: float,
    ood_score: np.ndarray | None = None,
    pool: Predicted | None = None,
) -> Limits:
    """The limits for pool images, measured on the calibration split or, for a fraction of the pool, on the pool.

    `logits` (M,K), true `labels` (M,) and `ood_score` (M,), see ood.py, are those of the calibration split, and `pool`
    is what the teacher says of the pool.
    """
    threshold, least = params.threshold, -np.inf
    if params.kept_fraction and pool is not None:
        threshold = reached_threshold(pool.confidence, params.kept_fraction)
    if params.precision:
        threshold = precise_threshold(softmax(logits, temperature), labels, params.precision)
    if params.ood_quantile and ood_score is not None:
        least = float(np.quantile(ood_score, 1 - params.ood_quantile))
    return Limits(threshold, least)


def precise_threshold(probabilities: np.ndarray, labels: np.ndarray, precision: float) -> float:
    """The lowest threshold of confidence above which a fraction `precision` of the predictions (M,K) is right.

    Raises `UserError` when there is none.
    """
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    reached = np.sort(confidence)
    precise = [c for c in reached if right[confidence >= c].mean() >= precision]
    if not precise:
        best = max(right[confidence >= c].mean() for c in reached)
        raise UserError(
            f"no threshold has precision {precision} on the calibration images; the highest is {best:.3f}; lower "
            "pseudo_labels.precision, or set it to null"
        )
    return float(precise[0])


def reached_threshold(confidence: np.ndarray, fraction: float) -> float:
    """The highest threshold that at least a `fraction` of the `confidence` (N,) reaches."""
    falling = np.sort(confidence)[::-1]
    return float(falling[math.ceil(fraction * len(falling)) - 1])


def balanced_copies(
    labels: np.ndarray, confidence: np.ndarray, generator: np.random.Generator, per_class: int | None = None
) -> np.ndarray:
    """How often each image is used (n,) so that every class that occurs has equally many.

    The number is `per_class`, or else the mean over the classes that occur, rounded up. A larger class keeps its most
    confident images. A smaller class keeps all and repeats some at random, as evenly as possible (Xie et al. 2019,
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


def true_labels(truth: np.ndarray, params: PseudoLabelParams, generator: np.random.Generator) -> PseudoLabels:
    """The pseudo-labels, hard ones, of an oracle, a teacher that is sure and right: `truth` (N,), -1 where unknown.

    All images with a known label are kept, whatever the filters of `params`. They are balanced where `params` say so.
    Raises `UserError` when none is.
    """
    rows = np.flatnonzero(truth >= 0)
    if not len(rows):
        raise UserError("no label of the pool is known, so there is no oracle; take the control of kind oracle out")
    sure = Predicted(truth[rows], np.ones(len(rows)))
    pseudo_labels = make(sure, params, generator, Limits(threshold=0))
    return replace(pseudo_labels, rows=rows[pseudo_labels.rows])


def shuffled(pseudo_labels: PseudoLabels, generator: np.random.Generator) -> PseudoLabels:
    """The same images and targets, but each target, with its copies, is assigned to a random image."""
    return _reassigned(pseudo_labels, generator.permutation(len(pseudo_labels.rows)))


def with_random_errors(pseudo_labels: PseudoLabels, truth: np.ndarray, generator: np.random.Generator) -> PseudoLabels:
    """The same images and targets, but each target, with its copies, is assigned to a random image of the same true
    class: as many errors of each kind as the teacher's, but on images that it is not drawn to err on.

    `truth` (N,) is that of the pool; images of unknown class, -1, keep their targets. Raises `UserError` when none is
    known.
    """
    classes, order = truth[pseudo_labels.rows], np.arange(len(pseudo_labels.rows))
    if not (classes >= 0).any():
        raise UserError("no label of the pool is known, so there are no random errors; take that control out")
    for k in np.unique(classes[classes >= 0]):
        members = np.flatnonzero(classes == k)
        order[members] = generator.permutation(members)
    return _reassigned(pseudo_labels, order)


def half_of(pseudo_labels: PseudoLabels, generator: np.random.Generator) -> PseudoLabels:
    """Those of half of the images of each class."""
    rows = half(pseudo_labels.labels, generator)
    return replace(_reassigned(pseudo_labels, rows), rows=pseudo_labels.rows[rows])


def _reassigned(pseudo_labels: PseudoLabels, order: np.ndarray) -> PseudoLabels:
    """The same images, each with the target, and its copies, of the one whose number stands in its place in `order`."""
    taken = {name: getattr(pseudo_labels, name)[order] for name in ("labels", "confidence", "copies")}
    soft = pseudo_labels.soft_targets
    return replace(pseudo_labels, **taken, soft_targets=None if soft is None else soft.at(order))
