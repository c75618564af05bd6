"""A classifier in training, as an objective asks it.

B images, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from noisy_student.inference import Classifier
from noisy_student.runtime import RuntimeParams, autocast


class Student(NamedTuple):
    """The classifier in training, asked in two ways: uint8 images (B,C,H,W) to float32 logits (B,K)."""

    logits: Callable[[Tensor], Tensor]  # with its model noise, for a loss
    noiseless_logits: Callable[[Tensor], Tensor]  # in eval mode and without gradients, as a teacher labels


def as_student(classifier: Classifier, runtime: RuntimeParams, fixes: bool = False) -> Student:
    """The two ways in which an objective asks `classifier`, which may be one that `fixes` its resolution."""

    def forward(images: Tensor) -> Tensor:
        with autocast(runtime, images.device):
            return classifier(images).float()

    def logits(images: Tensor) -> Tensor:
        if fixes:
            learn_resolution(classifier)
        else:
            classifier.train()
        return forward(images)

    @torch.no_grad()
    def noiseless_logits(images: Tensor) -> Tensor:
        classifier.eval()
        return forward(images)

    return Student(logits, noiseless_logits)


def learn_resolution(classifier: Classifier) -> None:
    """Let the deeper half of its tensors and the statistics of all layers be trained, without model noise."""
    classifier.eval()
    for module in classifier.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    weights = list(classifier.parameters())
    for weight in weights[: len(weights) // 2]:
        weight.requires_grad_(False)
