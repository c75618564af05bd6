"""What one training step sees: which images, how they are noised, what they are taught and how much they weigh.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from noisy_student import noise
from noisy_student.errors import Refusal
from noisy_student.randomness import generator
from noisy_student.recipes import Recipe, TrainingParams, labeled_in_batch

AHEAD = "NOISY_STUDENT_STEPS_AHEAD"  # environment variable: batches noised together, in place of what follows
MOST_AHEAD, VALUES_AHEAD = 16, 2**21  # batches noised together, and uint8 values in them


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


class Batches:
    """The batches of a run, each a function of `seed` and its step.

    They are made several at once, for what noise costs a small batch is the number of its operations. That changes no
    batch: what becomes of an image depends on its own row of its step's draw alone.
    """

    def __init__(self, recipe: Recipe, labeled: Examples, pool: Examples | None, seed: int):
        self.recipe, self.labeled, self.pool, self.seed = recipe, labeled, pool, seed
        self.weights = weights(recipe.training, pool is not None).to(labeled.images.device)
        self.ahead = steps_ahead(recipe.training.batch_size * labeled.images[0].numel())
        self.made: dict[int, tuple[Tensor, Tensor]] = {}  # images and targets of the next steps

    def parts(self, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The batch of `step`, noised, in `accumulation` parts: images uint8 (b,C,H,W), targets (b,K), weights (b,)."""
        if step not in self.made:
            self.made = self._make(range(step, min(step + self.ahead, max(self.recipe.training.steps, step + 1))))
        images, targets = self.made.pop(step)
        parts = self.recipe.training.accumulation
        for part in range(parts):  # every n-th row, so that each part has labeled and pool images
            yield images[part::parts], targets[part::parts], self.weights[part::parts]

    def _make(self, steps: range) -> dict[int, tuple[Tensor, Tensor]]:
        params, count = self.recipe.noise, self.recipe.training.batch_size
        height, width = self.labeled.images.shape[2:]
        images, targets = zip(*(self._plain(step) for step in steps), strict=True)
        draws = [
            noise.draw(params, count, (height, width), generator(self.seed, "input noise", step)) for step in steps
        ]
        noised = noise.apply(torch.cat(images), noise.Draw.joined(draws), params).chunk(len(steps))
        return {step: (noised[i], targets[i]) for i, step in enumerate(steps)}

    def _plain(self, step: int) -> tuple[Tensor, Tensor]:
        """The images of `step` without noise, the labeled ones first, and their targets."""
        params = self.recipe.training
        labeled_count = labeled_in_batch(params) if self.pool else params.batch_size
        rows = rows_of_step(self.labeled.order, labeled_count, self.seed, "labeled", step)
        images, targets = take(self.labeled, rows)
        targets = smooth(targets, params.label_smoothing)
        if not self.pool:
            return images, targets
        rows = rows_of_step(self.pool.order, params.batch_size - labeled_count, self.seed, "pool", step)
        pool_images, pool_targets = take(self.pool, rows)
        return torch.cat([images, pool_images]), torch.cat([targets, pool_targets])


def steps_ahead(values: int) -> int:
    """How many batches of so many uint8 `values` are made at once: few enough for a CPU's caches.

    Raises `Refusal` when the environment variable asks for what is no number of batches.
    """
    asked = os.environ.get(AHEAD, "")
    if not asked:
        return max(1, min(MOST_AHEAD, VALUES_AHEAD // values))
    if not asked.isdecimal() or int(asked) == 0:
        raise Refusal(f"the environment variable {AHEAD} was {asked[:40]!r}; set it to a whole number from 1 on")
    return int(asked)


def weights(params: TrainingParams, with_pool: bool) -> Tensor:
    """The weight of each image of a batch (B,), the labeled ones first; they sum to 1.

    Labeled images share 1 / (1 + pool_weight), pool images the rest.
    """
    labeled = labeled_in_batch(params) if with_pool else params.batch_size
    pool = params.batch_size - labeled
    whole = torch.cat([torch.full((labeled,), 1 / labeled), torch.full((pool,), params.pool_weight / max(pool, 1))])
    return whole / (1 + params.pool_weight) if with_pool else whole


def take(source: Examples, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The images and targets that stand at `rows`."""
    where = torch.from_numpy(rows).to(source.images.device, non_blocking=True)
    return source.images.index_select(0, where), source.targets.index_select(0, where)


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
