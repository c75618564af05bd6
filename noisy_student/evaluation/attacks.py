"""Adversarial images: changed, each pixel by little, so that a classifier errs.

B images, C channels, H x W pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from noisy_student.models.classifier import Classifier

PGD_STEPS = 10
PGD_STRIDE = 2.5 / PGD_STEPS  # of a step, as a share of the largest change (Madry et al. 2018)


def fgsm(classifier: Classifier, images: Tensor, labels: Tensor, most: float) -> Tensor:
    """The fast gradient sign method (Goodfellow et al. 2015): every pixel of `images` (B,C,H,W), float in [0, 255],
    changed by `most` in the direction in which the loss of its `labels` int64 (B,) grows."""
    return (images + most * _uphill(classifier, images, labels)).clamp(0, 255)


def pgd(classifier: Classifier, images: Tensor, labels: Tensor, most: float) -> Tensor:
    """Projected gradient descent (Madry et al. 2018, section 2.1): PGD_STEPS smaller steps like that of `fgsm`, from
    the images as they are, never farther from them than `most`."""
    changed = images
    for _ in range(PGD_STEPS):
        changed = changed + PGD_STRIDE * most * _uphill(classifier, changed, labels)
        changed = torch.minimum(torch.maximum(changed, images - most), images + most).clamp(0, 255)
    return changed


def _uphill(classifier: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """The sign of the loss's gradient at each pixel."""
    images = images.detach().requires_grad_(True)
    with torch.enable_grad():
        copy = images + 0  # which the classifier scales in place
        loss = F.cross_entropy(classifier(copy).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign()


ATTACKS = {"fgsm": fgsm, "pgd": pgd}
