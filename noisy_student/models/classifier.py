"""A classifier: a network with its normalization. Nothing here knows of input noise.

B images in a batch, N in all, C channels, H x W pixels, K classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY
from noisy_student.models.checkpoint import load_model
from noisy_student.models.device import translate_torch_errors
from noisy_student.models.external import load_tensors
from noisy_student.models.networks import Ensemble
from noisy_student.models.registry import build
from noisy_student.store.splits import Split

VALUES_COUNTED = 2**20  # uint8 values of a histogram that are counted at once


class Classifier(nn.Module):
    """A network with the normalization that it was trained with: uint8 images in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.network = network
        self.memory_format = torch.contiguous_format
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))  # (1,C,1,1), of pixels scaled to 0..1
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,K) of uint8 `images` (B,C,H,W). For a network for color images, a gray image is repeated in all
        channels."""
        pixels = (images.float().div_(255) - self.mean).div_(self.std)
        return self.network(pixels.contiguous(memory_format=self.memory_format))

    def to_memory_format(self, memory_format: torch.memory_format) -> "Classifier":
        """Lay out pixels and the weights of convolutions in that memory format from now on; return itself."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)  # type: ignore[call-overload]


def new_classifier(name: str, labeled: Split, dropout: float = 0.0, stochastic_depth: float = 0.0) -> Classifier:
    """An untrained classifier for the classes of `labeled`, normalized by the mean and deviation of each channel.

    Its initial weights come from torch's own generator.
    """
    network = build(name, labeled.channels, len(labeled.classes), labeled.image_size, dropout, stochastic_depth)
    mean, std = pixel_statistics(labeled)
    return Classifier(network, mean, std)


def pixel_statistics(split: Split) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel, float32 (C,), of pixels scaled to 0..1, the deviation at least one level.

    Both come exactly from a histogram of the 256 levels, whose memory does not grow with the number of images.
    """
    counts = np.zeros((split.channels, 256), np.int64)
    at_once = max(1, VALUES_COUNTED // math.prod((*split.image_size, split.channels)))
    for shard in split.shards:
        for start in range(0, len(shard), at_once):
            channels = np.moveaxis(shard[start : start + at_once], 3, 0)  # (n,H,W,C) -> (C,n,H,W)
            counts += [np.bincount(channel.ravel(), minlength=256) for channel in channels]
    levels, pixels = np.arange(256) / 255, counts.sum(axis=1, keepdims=True)
    mean = (counts * levels).sum(axis=1, keepdims=True) / pixels
    variance = (counts * (levels - mean) ** 2).sum(axis=1) / (pixels[:, 0] - 1)
    deviation = np.maximum(np.sqrt(variance), 1 / 255)
    return torch.from_numpy(mean[:, 0]).float(), torch.from_numpy(deviation).float()


def load_classifier(
    folder: Path, device: torch.device, rates: tuple[float, float] = (0.0, 0.0)
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier in `folder`, in eval mode on `device`, and its description.

    `rates`, of dropout and stochastic depth, are for a classifier that will be trained further.

    Raises `UserError` when the folder holds no model, or when the weights do not fit the description.
    """
    tensors, description = load_model(folder)
    try:
        model, channels, classes = description["model"], description["input_channels"], len(description["classes"])
        sizes = tuple(description["image_size"]), tuple(description["input_size"])
        networks = [
            build(model, channels, classes, sizes[0], *rates, sizes[1])
            for _ in range(description.get("ensemble_size", 1))
        ]
        network = networks[0] if len(networks) == 1 else Ensemble(networks)
        classifier = Classifier(network, torch.zeros(channels), torch.ones(channels))
        load_tensors(classifier, tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the weights in {folder} do not fit its description ({reason}); {REMEDY}") from None
    with translate_torch_errors("take a smaller model"):
        return classifier.eval().to(device), description


def ensemble(members: Sequence[Classifier]) -> Classifier:
    """One classifier of several with the same normalization; its logits are their mean."""
    first = members[0]
    whole = Classifier(Ensemble([member.network for member in members]), first.mean, first.std)
    return whole.to_memory_format(first.memory_format).eval()
