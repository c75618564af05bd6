"""Metrics: pure functions from numpy arrays to floats. Fractions are from 0 to 1. N images, K classes."""

import math
from collections.abc import Callable

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution
TEMPERATURES = np.geomspace(0.05, 20, 400)  # the grid that `fit_temperature` searches
RESAMPLES = 1000  # of a bootstrap
DRAWS = 100  # of labels of a calibrated model


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (N,K), float64, of `logits` (N,K) divided by `temperature`."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """The fraction of `predicted` classes (N,) that equal `labels` (N,)."""
    return float(np.mean(predicted == labels))


def accuracy_by_class(predicted: np.ndarray, labels: np.ndarray, classes: int) -> list[float | None]:
    """The accuracy on the images of each class; None for a class without images."""
    images, right = np.bincount(labels, minlength=classes), np.bincount(labels[predicted == labels], minlength=classes)
    return [float(right[k] / images[k]) if images[k] else None for k in range(classes)]


def balanced_accuracy(by_class: list[float | None]) -> float:
    """The mean of the accuracies `by_class` over the classes that have images, so that each class counts alike."""
    return float(np.mean([each for each in by_class if each is not None]))


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean of `losses`."""
    return float(losses(probabilities, labels).mean())


def losses(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The negative log-likelihood (N,), in nats, of `labels` (N,) under `probabilities` (N,K)."""
    return -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature at which `logits` (N,K) explain `labels` (N,) best (Guo et al. 2017, section 4.2).

    A label counts as wrong with probability 1 / (N + 2); otherwise a teacher with all N right would get unlimited
    confidence (after Platt 1999, section 2.2).
    """
    doubt, wide = 1 / (len(labels) + 2), logits.astype(np.float64)
    targets = np.full(logits.shape, doubt / max(logits.shape[1] - 1, 1))
    targets[np.arange(len(labels)), labels] = 1 - doubt

    def falls(place: int) -> bool:
        """Whether the next temperature of the grid explains the labels better."""
        now, following = (
            float((np.logaddexp.reduce(wide / each, axis=1) - (targets * wide / each).sum(axis=1)).mean())
            for each in TEMPERATURES[place : place + 2]
        )
        return following < now

    low, high = 0, len(TEMPERATURES) - 1  # the loss has one minimum, for it is convex in the inverse temperature
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if falls(middle) else (low, middle)
    return float(TEMPERATURES[low])


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> list[tuple[int, float, float]]:
    """Images, mean confidence, and accuracy in each equal-width bin of `confidence` (N,) that is not empty.

    `correct` bool (N,) says which predictions are right.
    """
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    inside = [which == each for each in np.unique(which)]
    return [(int(each.sum()), float(confidence[each].mean()), float(correct[each].mean())) for each in inside]


def ece(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over the bins of `reliability` (Guo et al. 2017, section 2)."""
    binned = reliability(confidence, correct, bins)
    return float(sum(abs(right - sure) * images for images, sure, right in binned) / len(correct))


def ece_by_chance(confidence: np.ndarray, generator: np.random.Generator) -> float:
    """The mean ECE of predictions (N,) that are right exactly as often as their `confidence` says: what N images alone
    make of it."""
    drawn = [generator.random(len(confidence)) < confidence for _ in range(DRAWS)]
    return float(np.mean([ece(confidence, correct) for correct in drawn]))


def macro_f1(predicted: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """The mean over the classes of F1, the harmonic mean of precision and recall.

    Classes that are neither in `predicted` (N,) nor in `labels` (N,) do not count.
    """
    both = np.bincount(labels[predicted == labels], minlength=classes)
    either = np.bincount(predicted, minlength=classes) + np.bincount(labels, minlength=classes)
    return float((2 * both / np.maximum(either, 1))[either > 0].mean())


def bootstrap_interval(
    metric: Callable[[np.ndarray], float], images: int, generator: np.random.Generator
) -> tuple[float, float]:
    """The 95 % percentile interval of a `metric` of N images, which is given the rows (N,) to measure on
    (Efron 1979, "Bootstrap methods: another look at the jackknife")."""
    values = [metric(generator.integers(images, size=images)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of an accuracy measured on `images` images (Wilson 1927)."""
    center = accuracy + Z95**2 / (2 * images)
    spread = Z95 * math.sqrt(accuracy * (1 - accuracy) / images + Z95**2 / (4 * images**2))
    scale = 1 + Z95**2 / images
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def paired_gain(correct: np.ndarray, correct_before: np.ndarray) -> tuple[float, float, float]:
    """Difference of two accuracies on the same N images with its 95 % interval: gain, low, high.

    The interval holds for few images, too: half an image is added to each way in which two models can be right and
    wrong together (Agresti and Min 2005, "Simple improved confidence intervals for comparing matched proportions").
    """
    wins, losses, images = int((correct & ~correct_before).sum()), int((correct_before & ~correct).sum()), len(correct)
    center = (wins - losses) / (images + 2)
    half = Z95 * math.sqrt((wins + losses + 1) / (images + 2) - center**2) / math.sqrt(images + 2)
    return (wins - losses) / images, max(-1.0, center - half), min(1.0, center + half)


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Mean of repeated runs and half the width of its 95 % t interval (infinite for a single run)."""
    from scipy.stats import t  # half a second to import, and only the studies need it

    if len(values) < 2:
        return float(np.mean(values)), math.inf
    return float(np.mean(values)), float(
        t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    )


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """1 at the label of each of `labels` int64 (N,), else 0: float32 (N,K)."""
    rows = np.zeros((len(labels), classes), np.float32)
    rows[np.arange(len(labels)), labels] = 1
    return rows
