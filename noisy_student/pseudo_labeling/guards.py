"""Guards: pseudo-labels that look wrong stop the run, or warn, as `guards` in params.yaml says.

The calibration labels, which no teacher sees, tell how often it is right.

N pool images, M calibration images, K classes.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from noisy_student.core.config import ParamsModel
from noisy_student.core.errors import UserError
from noisy_student.core.metrics import accuracy_interval
from noisy_student.store.pseudo_labels import PseudoLabels

Action = Literal["stop", "warn", "off"]
COLLAPSED = 0.99  # of the pool, at least, in one class
SWALLOWING = 0.5  # of the calibration images called a class, at least, that must be of it
ENOUGH = 10  # images, at least, that a sentence goes by
MISCALIBRATED = 0.15  # between mean confidence and accuracy, more than that
NAMED = 3  # classes in a sentence, at most


class GuardParams(ParamsModel):
    """What to do where pseudo-labels look wrong."""

    collapsed: Action  # the teacher gives nearly every image one class
    useless: Action  # pseudo-labels are right no more often than by chance
    imprecise: Action  # the 95 % interval of their precision is below `least_precision`
    least_precision: float = Field(ge=0, le=1)  # of the calibration images that reach the threshold
    untested: Action  # too few calibration images reach the threshold to tell how many are right
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
    least_precision: float,
) -> dict[str, str]:
    """A sentence for each guard that finds something wrong, by its name in `GuardParams`.

    `predicted` (N,) are the teacher's classes for the pool, of which some are `kept`: those that reach the `threshold`.
    `held_out` (M,K) are its probabilities for the calibration split, whose true labels are `labels` (M,). Of those that
    reach the threshold at least the fraction `least_precision` should be right.
    """
    reached = held_out.max(axis=1) >= threshold
    confident = held_out[reached].argmax(axis=1), labels[reached]
    found = {
        "collapsed": _collapsed(predicted, held_out.argmax(axis=1), labels, classes),
        "useless": _useless(*confident, len(classes)),
        "imprecise": _imprecise(*confident, least_precision),
        "untested": _untested(int(reached.sum()), len(labels), threshold),
        "swallowing": _swallowing(held_out.argmax(axis=1), labels, classes),
        "empty_class": _empty(kept, classes),
        "miscalibrated": _miscalibrated(held_out, labels),
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def warnings(found: dict[str, str], params: GuardParams, iteration: str) -> list[str]:
    """The sentences of `faults` to warn of. Raises `UserError` where one stops the run, with all that do."""
    stops = {name: sentence for name, sentence in found.items() if getattr(params, name) == "stop"}
    if stops:
        keys = " and ".join(f"guards.{name}" for name in stops)
        raise UserError(
            f"the pseudo-labels of {iteration} look wrong: {'; '.join(stops.values())}, or set {keys} to warn"
        )
    return [sentence for name, sentence in found.items() if getattr(params, name) == "warn"]


def _collapsed(predicted: np.ndarray, held_out: np.ndarray, labels: np.ndarray, classes: list[str]) -> str | None:
    """Nearly all images of the pool and of the calibration split get a class that few of the latter are of."""
    shares = np.bincount(predicted, minlength=len(classes)) / len(predicted)
    largest = int(shares.argmax())
    called, usual = float((held_out == largest).mean()), float((labels == largest).mean())
    if min(shares[largest], called) < COLLAPSED or len(predicted) < ENOUGH or usual > called / 2:
        return None
    figures = f"{100 * shares[largest]:.1f} % of the pool {classes[largest]}"
    return f"the teacher calls {figures}, as it does nearly every calibration image; train it for longer"


def _useless(predicted: np.ndarray, labels: np.ndarray, count: int) -> str | None:
    """Cohen's kappa is at most 0: the predictions agree with the labels no more often than by chance."""
    if len(labels) < ENOUGH:
        return None
    right = float((predicted == labels).mean())
    shares = [np.bincount(each, minlength=count) / len(each) for each in (predicted, labels)]
    chance = float(shares[0] @ shares[1])
    if right > chance or chance == 1:
        return None
    figures = f"{100 * right:.0f} % of {len(labels):,} calibration images, and by chance in {100 * chance:.0f} %"
    return f"they are right in {figures}; train a better teacher"


def _imprecise(predicted: np.ndarray, labels: np.ndarray, least: float) -> str | None:
    """Even the upper end of the precision's interval is below `least`."""
    if len(labels) < ENOUGH:
        return None
    right = float((predicted == labels).mean())
    if accuracy_interval(right, len(labels))[1] >= least:
        return None
    figures = f"{100 * right:.0f} % of {len(labels):,} calibration images, less than {100 * least:.0f} %"
    return f"where it is confident enough, it is right in {figures}; raise the threshold, or train a better teacher"


def _untested(reached: int, images: int, threshold: float) -> str | None:
    if reached >= ENOUGH:
        return None
    figures = f"{reached:,} of {images:,} calibration images reach the threshold {threshold:.3g}"
    return f"{figures}, too few to tell how many pseudo-labels are right; raise data.calibration"


def _swallowing(predicted: np.ndarray, labels: np.ndarray, classes: list[str]) -> str | None:
    called = np.bincount(predicted, minlength=len(classes))
    right = np.bincount(predicted[predicted == labels], minlength=len(classes))
    wrong = [k for k in np.flatnonzero(called >= ENOUGH) if right[k] < SWALLOWING * called[k]]
    if not wrong:
        return None
    worst = min(wrong, key=lambda k: right[k] / called[k])
    others = np.bincount(labels[(predicted == worst) & (labels != worst)], minlength=len(classes))
    taken = _named([classes[k] for k in np.argsort(-others, kind="stable") if others[k]])
    figures = f"{called[worst]:,} calibration images are called {classes[worst]}, and {right[worst]:,} of them are it"
    return f"{figures}; label more images of {taken}"


def _empty(kept: PseudoLabels, classes: list[str]) -> str | None:
    images = np.bincount(kept.labels, minlength=len(classes))
    missing = [classes[k] for k in np.flatnonzero(images == 0)]
    if not missing:
        return None
    return f"no pool image is kept as {_named(missing)}; label some images of it, or keep more of the pool"


def _miscalibrated(held_out: np.ndarray, labels: np.ndarray) -> str | None:
    if len(labels) < ENOUGH:
        return None
    sure, right = float(held_out.max(axis=1).mean()), float((held_out.argmax(axis=1) == labels).mean())
    low, high = accuracy_interval(right, len(labels))
    if abs(sure - right) <= MISCALIBRATED or low <= sure <= high:
        return None
    figures = f"{100 * sure:.0f} % sure on average and right in {100 * right:.0f} % of the calibration images"
    return f"the teacher is {figures}; set pseudo_labels.calibrate to true, or label more images for calibration"


def _named(names: list[str]) -> str:
    """The first of `names`, and how many there are more."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED:,} more" if len(names) > NAMED else "")
