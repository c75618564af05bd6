"""Targets of images, made when they are asked for: those of a large pool would not fit into memory.

N images, K classes.
"""

import numpy as np

from noisy_student.core.metrics import one_hot, softmax
from noisy_student.store.selection import Selection


class OneHot:
    """All of the target is on the label, float32 (N,K)."""

    def __init__(self, labels: np.ndarray, classes: int):
        self.labels, self.shape = labels, (len(labels), classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        return one_hot(self.labels[part], self.shape[1])

    def at(self, rows: np.ndarray) -> "OneHot":
        """The targets of the images at `rows` (n,)."""
        return OneHot(self.labels[rows], self.shape[1])


class Probabilities:
    """The softmax of logits float32 (N,K) divided by a temperature, float32 (N,K)."""

    def __init__(self, logits: Selection, temperature: float = 1.0):
        self.logits, self.temperature, self.shape = logits, temperature, logits.shape

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        return softmax(self.logits[part], self.temperature).astype(np.float32)

    def at(self, rows: np.ndarray) -> "Probabilities":
        """The targets of the images at `rows` (n,)."""
        return Probabilities(self.logits.at(rows), self.temperature)


Targets = OneHot | Probabilities | Selection  # a Selection is of float32 (N,K), whose rows sum to 1
