"""A model on corrupted and on adversarial images.

N images, B of them at once, H x W pixels, C channels.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from noisy_student.core.metrics import accuracy
from noisy_student.core.progress import Meter
from noisy_student.core.randomness import generator
from noisy_student.evaluation.attacks import ATTACKS
from noisy_student.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupted, fits
from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.prediction import predict_logits

BATCH, BATCH_PIXELS = 64, 2**20  # images, and pixels of them, that are corrupted or attacked at once, at most


def accuracies_when_corrupted(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, runtime: RuntimeParams, progress: Meter
) -> dict[str, list[float]]:
    """By corruption the accuracies of the five severities, on `images` uint8 (N,H,W,C) and `labels` (N,).

    What happens to an image depends on its place among the images, and on nothing else.
    """
    found = {}
    for name in corruptions_of(images.shape[3]):
        found[name] = [
            accuracy(predict_logits(classifier, changed(images, name, severity, progress), runtime).argmax(1), labels)
            for severity in SEVERITIES
        ]
    return found


def corruptions_of(channels: int) -> list[str]:
    """The corruptions of images of so many channels."""
    return [name for name in CORRUPTIONS if fits(name, channels)]


def changed(images: np.ndarray, name: str, severity: int, progress: Meter | None = None) -> np.ndarray:
    """`images` uint8 (N,H,W,C) with the corruption `name` at that `severity`."""
    parts = []
    for start, batch in batches(images):
        generators = [generator(row, f"corruption {name}", severity) for row in range(start, start + len(batch))]
        parts.append(corrupted(batch, generators, name, severity).permute(0, 2, 3, 1).numpy())
        if progress:
            progress.advance(len(batch))
    return np.concatenate(parts)


def batches(images: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """`images` uint8 (N,H,W,C) in parts (B,C,H,W), each with the place of its first one."""
    size = max(1, min(BATCH, BATCH_PIXELS // math.prod(images.shape[1:3])))
    for start in range(0, len(images), size):
        yield start, torch.from_numpy(np.asarray(images[start : start + size])).permute(0, 3, 1, 2).contiguous()


def accuracies_when_attacked(
    classifier: Classifier, images: np.ndarray, labels: np.ndarray, most: Sequence[float], progress: Meter
) -> dict[str, dict[str, float]]:
    """By attack, and by the `most` that it changes a pixel in levels of 255: the accuracy on `images` uint8 (N,H,W,C)
    and `labels` (N,). All in float32."""
    classifier.eval()
    return {
        name: {
            f"{each:g}": _when_attacked(classifier, images, labels, partial(attack, most=each), progress)
            for each in most
        }
        for name, attack in ATTACKS.items()
    }


def _when_attacked(
    classifier: Classifier,
    images: np.ndarray,
    labels: np.ndarray,
    attack: Callable[[Classifier, Tensor, Tensor], Tensor],
    progress: Meter,
) -> float:
    device, predicted = classifier.mean.device, []
    for start, batch in batches(images):
        actual = torch.from_numpy(labels[start : start + len(batch)]).to(device)
        adversarial = attack(classifier, batch.to(device).float(), actual)
        with torch.inference_mode():
            predicted.append(classifier(adversarial).argmax(1).cpu().numpy())
        progress.advance(len(batch))
    return accuracy(np.concatenate(predicted), labels)
