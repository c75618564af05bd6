"""Images with their targets: from labels, pseudo-labels, or a teacher's logits.

N images, H x W pixels, C channels, K classes.
"""

from dataclasses import dataclass

import numpy as np

from noisy_student.core.metrics import one_hot, softmax
from noisy_student.store.pseudo_labels import PseudoLabels
from noisy_student.store.selection import Selection
from noisy_student.store.splits import Split


@dataclass(frozen=True, eq=False)
class LabeledImages:
    """Images and their targets. Pixels are read, or decoded, when they are indexed."""

    images: Selection | np.ndarray  # uint8 (N,H,W,C)
    targets: np.ndarray  # float32 (N,K), rows sum to 1
    copies: np.ndarray | None = None  # int64 (N,), how often each image stands in an epoch; None: once
    teacher_logits: np.ndarray | None = None  # float32 (N,K), of images that a teacher is distilled on
    features: Selection | None = None  # float16 (N,F), of a pretrained network

    def __len__(self) -> int:
        return len(self.targets)

    @classmethod
    def from_labels(cls, split: Split, teacher_logits: np.ndarray | None = None) -> "LabeledImages":
        """The images of a labeled `split` with their labels as targets."""
        return cls(split.selection(), one_hot(split.labels, len(split.classes)), teacher_logits=teacher_logits)

    @classmethod
    def from_pseudo_labels(
        cls, pool: Split, pseudo_labels: PseudoLabels, features: Selection | None = None
    ) -> "LabeledImages":
        """The images of the `pool` that have a pseudo-label; `features` are those of the whole pool."""
        rows = pseudo_labels.rows
        of_rows = features.at(rows) if features else None
        return cls(pool.selection(rows), pseudo_labels.targets, pseudo_labels.copies, features=of_rows)

    @classmethod
    def from_logits(cls, pool: Split, logits: np.ndarray, features: Selection | None = None) -> "LabeledImages":
        """All images of the `pool` with a teacher's `logits` (N,K), whose probabilities are the targets."""
        return cls(pool.selection(), softmax(logits).astype(np.float32), teacher_logits=logits, features=features)

    def thinned(self, most: int) -> "LabeledImages":
        """At most `most` of the images, evenly spread."""
        if len(self) <= most:
            return self
        rows = np.arange(0, len(self), -(-len(self) // most))
        images = self.images.at(rows) if isinstance(self.images, Selection) else self.images[rows]
        copies, logits = (None if each is None else each[rows] for each in (self.copies, self.teacher_logits))
        features = self.features.at(rows) if self.features else None
        return LabeledImages(images, self.targets[rows], copies, logits, features)
