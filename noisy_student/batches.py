"""What one training step sees: which images, how they are noised, what they are taught and how much they weigh.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from noisy_student import noise
from noisy_student.randomness import generator
from noisy_student.recipes import Recipe, labeled_in_batch


@dataclass(frozen=True)
class Examples:
    """Images and what to teach about them, resident on the device."""

    images: Tensor  # uint8 (N,C,H,W)
    targets: Tensor  # float32 (N,K), rows sum to 1
    order: np.ndarray  # int64 (M,), the rows that an epoch goes through; a row may stand there several times


def examples(
    images: np.ndarray, targets: np.ndarray, device: torch.device, copies: np.ndarray | None = None
) -> Examples:
    """`images` uint8 (N,H,W,C) and `targets` (N,K) on `device`, the i-th standing `copies[i]` times in an epoch."""
    order = np.arange(len(images)) if copies is None else np.repeat(np.arange(len(images)), copies)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N,H,W,C) -> (N,C,H,W)
    return Examples(pixels.to(device), torch.tensor(targets, dtype=torch.float32, device=device), order)


def batch_parts(
    recipe: Recipe, labeled: Examples, pool: Examples | None, seed: int, step: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The batch of `step`, noised, in `accumulation` parts: images uint8 (b,C,H,W), targets (b,K), weights (b,).

    The weights of a batch sum to 1: labeled images share 1 / (1 + pool_weight), pool images the rest.
    """
    params = recipe.training
    labeled_count = labeled_in_batch(params) if pool else params.batch_size
    pool_count = params.batch_size - labeled_count
    rows = rows_of_step(labeled.order, labeled_count, seed, "labeled", step)
    images, targets = take(labeled, rows)
    targets = smooth(targets, params.label_smoothing)
    weights = torch.full((len(rows),), 1 / len(rows))
    if pool:
        pool_rows = rows_of_step(pool.order, pool_count, seed, "pool", step)
        pool_images, pool_targets = take(pool, pool_rows)
        images, targets = torch.cat([images, pool_images]), torch.cat([targets, pool_targets])
        weights = torch.cat([weights, torch.full((len(pool_rows),), params.pool_weight / len(pool_rows))])
        weights = weights / (1 + params.pool_weight)
    images = noise.augment(images, recipe.noise, generator(seed, "input noise", step))
    weights = weights.to(images.device)
    for part in range(params.accumulation):  # every n-th row, so that each part has labeled and pool images
        yield (
            images[part :: params.accumulation],
            targets[part :: params.accumulation],
            weights[part :: params.accumulation],
        )


def take(source: Examples, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The images and targets that stand at `rows`."""
    where = torch.from_numpy(rows).to(source.images.device, non_blocking=True)
    return source.images[where], source.targets[where]


def rows_of_step(order: np.ndarray, count: int, seed: int, purpose: str, step: int) -> np.ndarray:
    """The `count` rows of `step`: `order` is gone through in one permutation after another, none carried along."""
    first, last = step * count, (step + 1) * count  # positions in the endless row of permutations
    epochs = range(first // len(order), (last - 1) // len(order) + 1)
    positions = np.concatenate([_permutation(len(order), seed, purpose, epoch) for epoch in epochs])
    offset = first - epochs.start * len(order)
    return order[positions[offset : offset + count]]


@lru_cache(maxsize=8)
def _permutation(length: int, seed: int, purpose: str, epoch: int) -> np.ndarray:
    return generator(seed, f"order of {purpose}", epoch).permutation(length)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """`targets` (B,K) with a fraction `smoothing` spread evenly over the classes (Szegedy et al. 2016, section 7)."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]
