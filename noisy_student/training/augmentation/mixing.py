"""Mixes two images into one. MixUp, CutMix and FMix differ in the mask that says how much of an image stays at each
pixel.

N images, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

DECAY = 3.0  # FMix: how fast high frequencies fade; the paper's value (Harris et al. 2020, section 4)


def mixup(generator: np.random.Generator, share: np.ndarray, height: int, width: int) -> np.ndarray:
    """`share` everywhere (Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization", arXiv 1710.09412)."""
    return share[:, None, None]


def cutmix(generator: np.random.Generator, share: np.ndarray, height: int, width: int) -> np.ndarray:
    """All but a rectangle of 1 - `share` of the image's area, about any pixel (Yun et al. 2019, arXiv 1905.04899)."""
    inside = []
    for length in (height, width):
        half = length * np.sqrt(1 - share) / 2
        center = generator.random(len(share)) * length
        pixels = np.arange(length) + 0.5
        inside.append(abs(pixels - center[:, None]) < half[:, None])  # (N,length)
    return 1.0 - (inside[0][:, :, None] & inside[1][:, None, :])


def fmix(generator: np.random.Generator, share: np.ndarray, height: int, width: int) -> np.ndarray:
    """The brightest `share` of the pixels of low-frequency noise (Harris et al. 2020, arXiv 2002.12047, section 4)."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / max(height, width)) ** DECAY
    spectrum = generator.normal(size=(len(share), *frequency.shape, 2)) @ np.array([1, 1j])
    landscape = np.fft.irfft2(amplitude * spectrum, (height, width)).reshape(len(share), -1)
    rank = landscape.argsort(axis=1).argsort(axis=1)  # 0: the darkest pixel
    stays = rank >= np.round((1 - share) * height * width)[:, None]
    return stays.reshape(-1, height, width).astype(float)


Mask = Callable[[np.random.Generator, np.ndarray, int, int], np.ndarray]  # (N,H,W) or (N,1,1), of 0 to 1
MASKS: dict[str, Mask] = {"mixup": mixup, "cutmix": cutmix, "fmix": fmix}


def blended(first: Tensor, second: Tensor, stays: Tensor) -> Tensor:
    """The mixture of images uint8 (N,C,H,W): the share `stays` (N,1,H,W) or (N,1,1,1) of `first`, the rest of
    `second`."""
    return torch.lerp(second.float(), first.float(), stays).add_(0.5).to(torch.uint8)


def mix(
    images: Tensor, targets: Tensor, weights: Tensor, kind: str, alpha: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix each image, its target (N,K) and its weight (N,) with those of another image of the batch.

    images: uint8 (N,C,H,W). kind: a name in MASKS. The share of an image that stays is drawn from Beta(alpha, alpha)
    for each image. Cross-entropy with the new targets and weights is the mixture of the two images' cross-entropies,
    each with its own weight. So hard and soft targets can be mixed, and labeled and pool images. The sum of the weights
    keeps its mean.
    """
    count, device = len(images), images.device
    partner = torch.from_numpy(generator.permutation(count)).to(device, non_blocking=True)
    share = generator.beta(alpha, alpha, size=count)
    mask = MASKS[kind](generator, share, *images.shape[2:])
    stays = torch.from_numpy(mask.astype(np.float32)[:, None]).to(device, non_blocking=True)  # (N,1,H,W) or (N,1,1,1)
    mixed = blended(images, images.index_select(0, partner), stays)
    kept = stays.mean(dim=(1, 2, 3))
    part, other = kept * weights, weights[partner] * (1 - kept)
    both = part + other
    return mixed, (part[:, None] * targets + other[:, None] * targets[partner]) / both[:, None], both
