"""Images with their targets: from labels, pseudo-labels, or a teacher's logits.

N images, H x W pixels, C channels, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from noisy_student.store.pseudo_labels import PseudoLabels
from noisy_student.store.selection import Selection
from noisy_student.store.splits import Split
from noisy_student.store.targets import OneHot, Probabilities, Targets


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images and their targets. Pixels are read, or decoded, when they are indexed, and targets are made then."""

    images: Selection | np.ndarray  # uint8 (N,H,W,C)
    targets: Targets | np.ndarray  # float32 (N,K), rows sum to 1
    copies: np.ndarray | None = None  # int64 (N,), how often each image stands in an epoch; None: once
    teacher_logits: Selection | np.ndarray | None = None  # float32 (N,K), of images that a teacher is distilled on
    features: Selection | None = None  # float16 (N,F), of a pretrained network

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    def from_labels(cls, split: Split, teacher_logits: Selection | None = None) -> "LabeledImages":
        """The images of a labeled `split` with their labels as targets."""
        return cls(split.selection(), OneHot(split.labels, len(split.classes)), teacher_logits=teacher_logits)

    @classmethod
    def from_pseudo_labels(
        cls, pool: Split, pseudo_labels: PseudoLabels, features: Selection | None = None
    ) -> "LabeledImages":
        """The images of the `pool` that have a pseudo-label; `features` are those of the whole pool."""
        rows, soft = pseudo_labels.rows, pseudo_labels.soft_targets
        targets = OneHot(pseudo_labels.labels, len(pool.classes)) if soft is None else soft
        of_rows = features.at(rows) if features else None
        return cls(pool.selection(rows), targets, pseudo_labels.copies, features=of_rows)

    @classmethod
    def from_logits(cls, pool: Split, logits: Selection, features: Selection | None = None) -> "LabeledImages":
        """All images of the `pool` with a teacher's `logits` (N,K), whose probabilities are the targets."""
        return cls(pool.selection(), Probabilities(logits), teacher_logits=logits, features=features)

    def thinned(self, most: int) -> "LabeledImages":
        """At most `most` of the images, evenly spread."""
        if len(self) <= most:
            return self
        rows = np.arange(0, len(self), -(-len(self) // most))
        return LabeledImages(
            _at(self.images, rows),
            _at(self.targets, rows),
            None if self.copies is None else self.copies[rows],
            None if self.teacher_logits is None else _at(self.teacher_logits, rows),
            None if self.features is None else self.features.at(rows),
        )


def _at(values: Any, rows: np.ndarray) -> Any:
    """The `rows` (n,) of an array, which are copied, or of anything else, which are read later."""
    return values[rows] if isinstance(values, np.ndarray) else values.at(rows)
