"""Guards: pseudo-labels that look wrong stop the run, or warn, as `guards` in params.yaml says.

N pool images, M calibration images, K classes.
"""

from typing import Literal

import numpy as np

from noisy_student.core.config import ParamsModel
from noisy_student.core.errors import UserError
from noisy_student.core.metrics import ece
from noisy_student.store.pseudo_labels import PseudoLabels

Action = Literal["stop", "warn", "off"]
COLLAPSED = 0.99  # of the pool, at least, in one class
SWALLOWING = 0.5  # of the calibration images called a class, at least, that must be of it
ENOUGH = 10  # calibration images, at least, that a sentence goes by
MISCALIBRATED = 0.15  # expected calibration error, more than that
NAMED = 3  # classes in a sentence, at most


class GuardParams(ParamsModel):
    """What to do where pseudo-labels look wrong."""

    collapsed: Action  # the teacher gives nearly the whole pool one class
    useless: Action  # kept labels are right no more often than the most frequent class would be
    swallowing: Action  # most images called a class are of other classes
    empty_class: Action  # a class has no pseudo-label
    miscalibrated: Action  # confidences are far from how often they are right


def faults(
    predicted: np.ndarray,
    kept: PseudoLabels,
    held_out: np.ndarray,
    labels: np.ndarray,
    threshold: float,
    classes: list[str],
) -> dict[str, str]:
    """A sentence for each guard that finds something wrong, by its name in `GuardParams`.

    `predicted` (N,) are the teacher's classes for the pool, of which some are `kept`: those that reach the `threshold`.
    `held_out` (M,K) are its calibrated probabilities for the calibration split, whose true labels are `labels` (M,).
    """
    found = {
        "collapsed": _collapsed(predicted, classes),
        "useless": _useless(held_out, labels, threshold, classes),
        "swallowing": _swallowing(held_out.argmax(axis=1), labels, classes),
        "empty_class": _empty(kept, classes),
        "miscalibrated": _miscalibrated(held_out, labels),
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def warnings(found: dict[str, str], params: GuardParams, iteration: str) -> list[str]:
    """The sentences of `faults` to warn of. Raises `UserError` for the first one that stops the run."""
    for name, sentence in found.items():
        if getattr(params, name) == "stop":
            raise UserError(f"the pseudo-labels of {iteration} look wrong: {sentence}, or set guards.{name} to warn")
    return [sentence for name, sentence in found.items() if getattr(params, name) == "warn"]


def _collapsed(predicted: np.ndarray, classes: list[str]) -> str | None:
    shares = np.bincount(predicted, minlength=len(classes)) / len(predicted)
    largest = int(shares.argmax())
    if shares[largest] < COLLAPSED or len(predicted) < ENOUGH:
        return None
    return (
        f"the teacher calls {100 * shares[largest]:.0f} % of the pool {classes[largest]}; train the teacher for longer"
    )


def _useless(held_out: np.ndarray, labels: np.ndarray, threshold: float, classes: list[str]) -> str | None:
    reached = held_out.max(axis=1) >= threshold
    if reached.sum() < ENOUGH:
        return None
    right = float((held_out.argmax(axis=1) == labels)[reached].mean())
    counts = np.bincount(labels, minlength=len(classes))
    usual = counts.max() / counts.sum()
    if right > usual:
        return None
    guess = f"always saying {classes[int(counts.argmax())]} would be in {100 * usual:.0f} %"
    return f"they are right in {100 * right:.0f} % of the calibration images, and {guess}; train a better teacher"


def _swallowing(predicted: np.ndarray, labels: np.ndarray, classes: list[str]) -> str | None:
    called = np.bincount(predicted, minlength=len(classes))
    right = np.bincount(predicted[predicted == labels], minlength=len(classes))
    wrong = [k for k in np.flatnonzero(called >= ENOUGH) if right[k] < SWALLOWING * called[k]]
    if not wrong:
        return None
    worst = min(wrong, key=lambda k: right[k] / called[k])
    figures = f"of {called[worst]:,} calibration images called {classes[worst]}, {right[worst]:,} are"
    return f"{figures}; label more images of the classes that it takes"


def _empty(kept: PseudoLabels, classes: list[str]) -> str | None:
    images = np.bincount(kept.labels, minlength=len(classes))
    missing = [classes[k] for k in np.flatnonzero(images == 0)]
    if not missing:
        return None
    named = ", ".join(missing[:NAMED]) + (f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else "")
    return f"no pool image is kept as {named}; label some images of it, or keep more of the pool"


def _miscalibrated(held_out: np.ndarray, labels: np.ndarray) -> str | None:
    gap = ece(held_out.max(axis=1), held_out.argmax(axis=1) == labels)
    if gap <= MISCALIBRATED or len(labels) < ENOUGH:
        return None
    return f"confidence and accuracy differ by {100 * gap:.0f} points on average; set pseudo_labels.calibrate to true"
