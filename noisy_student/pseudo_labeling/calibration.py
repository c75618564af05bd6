"""Calibration of a teacher on held-out labels: the temperature of its logits, and a threshold for a wanted precision.

N images, K classes.
"""

import numpy as np

from noisy_student.core.errors import UserError
from noisy_student.core.metrics import nll, softmax

TEMPERATURES = np.geomspace(0.05, 20, 400)  # the grid that `fit_temperature` searches


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which `logits` (N,K) explain `labels` (N,) best (Guo et al. 2017, section 4.2).

    A label counts as wrong with probability 1 / (N + 2); otherwise a teacher with all N right would get unlimited
    confidence (after Platt 1999, section 2.2).
    """
    doubt = 1 / (len(labels) + 2)
    losses = [nll(softmax(logits, temperature), labels, doubt) for temperature in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


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
