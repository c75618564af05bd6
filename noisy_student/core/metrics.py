"""Metrics: pure functions from numpy arrays to floats. Fractions are from 0 to 1. N images, K classes."""

import math

import numpy as np

Z95 = 1.959963984540054  # two-sided 95 % quantile of the normal distribution


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
    return [
        accuracy(predicted[labels == k], labels[labels == k]) if (labels == k).any() else None for k in range(classes)
    ]


def balanced_accuracy(by_class: list[float | None]) -> float:
    """The mean of the accuracies `by_class` over the classes that have images, so that each class counts alike."""
    return float(np.mean([each for each in by_class if each is not None]))


def nll(probabilities: np.ndarray, labels: np.ndarray, doubt: float = 0.0) -> float:
    """Mean negative log-likelihood, in nats, of `labels` (N,) under `probabilities` (N,K).

    With `doubt` a label is wrong with that probability, and then all other classes are equally likely.
    """
    logs = np.log(np.clip(probabilities, 1e-12, None))  # (N,K)
    right = logs[np.arange(len(labels)), labels]
    wrong = (logs.sum(axis=1) - right) / max(logs.shape[1] - 1, 1)
    return float(-((1 - doubt) * right + doubt * wrong).mean())


def ece(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over equal-width confidence bins (Guo et al. 2017, section 2)."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(correct[which == b].mean() - confidence[which == b].mean()) * (which == b).mean() for b in np.unique(which)
    ]
    return float(sum(gaps))


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
    """Rows of the identity: float32 (N,) -> (N,K)."""
    return np.eye(classes, dtype=np.float32)[labels]
