"""What one training step sees: which images, how they are noised, what they are taught and how much they weigh.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from noisy_student.core.errors import UserError
from noisy_student.core.randomness import generator
from noisy_student.training.augmentation import policy
from noisy_student.training.augmentation.mixing import mix
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.params import TrainingParams, first_step, labeled_in_batch
from noisy_student.training.recipes import ONLINE_LABELS, Recipe

AHEAD = "NOISY_STUDENT_STEPS_AHEAD"  # environment variable: batches noised together, in place of what follows
ROOM = 0.4  # of a GPU's free memory, the most that the images of a split may take
MOST_AHEAD, VALUES_AHEAD = 16, 2**21  # batches noised together, and uint8 values in them


@dataclass(frozen=True)
class ResidentDataset:
    """Images and what to teach about them, resident on the device, but for images that it has no room for."""

    images: Tensor  # uint8 (N,C,H,W), on the device or in the machine's own memory
    targets: Tensor  # float32 (N,K), rows sum to 1, on the device
    order: np.ndarray  # int64 (M,), the rows that an epoch goes through; a row may stand there several times
    teacher_logits: Tensor | None = None  # float32 (N,K), on the device, where a teacher is distilled


def examples(
    images: np.ndarray,
    targets: np.ndarray,
    device: torch.device,
    copies: np.ndarray | None = None,
    teacher_logits: np.ndarray | None = None,
) -> ResidentDataset:
    """`images` uint8 (N,H,W,C), `targets` (N,K) and `teacher_logits` (N,K) for `device`, the i-th standing
    `copies[i]` times in an epoch."""
    order = np.arange(len(images)) if copies is None else np.repeat(np.arange(len(images)), copies)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N,H,W,C) -> (N,C,H,W)
    home = device if has_room(device, pixels.numel()) else torch.device("cpu")
    logits = None if teacher_logits is None else torch.tensor(teacher_logits, dtype=torch.float32, device=device)
    return ResidentDataset(pixels.to(home), torch.tensor(targets, dtype=torch.float32, device=device), order, logits)


def has_room(device: torch.device, values: int) -> bool:
    """Whether so many uint8 `values` leave a GPU most of its free memory for training."""
    return device.type != "cuda" or values < ROOM * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True)
class MicroBatch:
    """B images of a batch, or as many of them as fit the memory at once; the last P of them are from the pool."""

    images: Tensor  # uint8 (B,C,H,W), noised
    targets: Tensor  # float32 (B,K), rows sum to 1
    weights: Tensor  # float32 (B,); those of a batch sum to 1
    from_pool: Tensor  # float32 (B,), 1 for pool images and 0 for labeled ones
    weak: Tensor  # uint8 (P,C,H,W), the pool images weakly noised, for an objective whose labels are its own, else none
    teacher_logits: Tensor  # float32 (B,K), a teacher's logits for images without noise, in a distillation, else none

    def micro_batch(self, stride: int, first: int) -> "MicroBatch":
        """Every `stride`-th image from the `first` on."""
        labeled = len(self.images) - len(self.weak)
        cut = {field.name: getattr(self, field.name)[first::stride] for field in fields(self)}
        return MicroBatch(**cut | {"weak": self.weak[(first - labeled) % stride :: stride]})


class Batches:
    """The batches of a run, each a function of `seed` and its step.

    They are made several at once, for what noise costs a small batch is the number of its operations. That changes no
    batch: what becomes of an image depends on its own row of its step's draw alone.
    """

    def __init__(self, recipe: Recipe, labeled: ResidentDataset, pool: ResidentDataset | None, seed: int):
        self.recipe, self.labeled, self.pool, self.seed = recipe, labeled, pool, seed
        self.ahead = steps_ahead(recipe.training.batch_size * labeled.images[0].numel())
        self.made: dict[int, MicroBatch] = {}  # the batches of the next steps

    def parts(self, step: int) -> Iterator[MicroBatch]:
        """The batch of `step` in `accumulation` parts, among which its labeled and pool images are spread evenly."""
        if step not in self.made:
            self.made = self._make(range(step, min(step + self.ahead, phase_end(self.recipe.training, step))))
        batch, count = self.made.pop(step), self.recipe.training.accumulation
        return (batch.micro_batch(count, first) for first in range(count))

    def _make(self, steps: range) -> dict[int, MicroBatch]:
        """The batches of `steps`, which are of one phase."""
        plain = [self._plain(step) for step in steps]
        if steps[0] >= first_step(self.recipe.training, "resolution_fix"):
            return dict(zip(steps, plain, strict=True))
        noised = self._noised([part.images for part in plain], steps, self.recipe.noise, "input noise")
        weak = self._noised([part.weak for part in plain], steps, self.recipe.noise.weak(), "weak noise")
        made = [replace(part, images=noised[i], weak=weak[i]) for i, part in enumerate(plain)]
        return {step: self._mixed(part, step) for step, part in zip(steps, made, strict=True)}

    def _noised(self, images: list[Tensor], steps: range, params: NoiseParams, purpose: str) -> Sequence[Tensor]:
        """The `images` of each of `steps`, equally many, with the noise of its draw, at the resolution of training."""
        count, (height, width) = len(images[0]), images[0].shape[2:]
        if not count:
            return images
        draws = [policy.draw(params, count, (height, width), generator(self.seed, purpose, step)) for step in steps]
        noised = policy.apply(torch.cat(images), policy.Draw.combined(draws), params)
        return shrunk(noised, self.recipe.training.resolution).split(count)

    def _mixed(self, part: MicroBatch, step: int) -> MicroBatch:
        params = self.recipe.noise
        if params.mix == "none":
            return part
        draw = generator(self.seed, "mix", step)
        images, targets, weights = mix(part.images, part.targets, part.weights, params.mix, params.mix_alpha, draw)
        return replace(part, images=images, targets=targets, weights=weights)

    def _plain(self, step: int) -> MicroBatch:
        """The batch of `step` without noise, the labeled images first."""
        params = self.recipe.training
        labeled, pool = composition(self.recipe, step, self.pool is not None)
        images, targets, teacher = take(self.labeled, self._rows(self.labeled, labeled, "labeled", step))
        targets = smooth(targets, params.label_smoothing)
        if self.pool:
            more = take(self.pool, self._rows(self.pool, pool, "pool", step))
            images, targets, teacher = (torch.cat(pair) for pair in zip((images, targets, teacher), more, strict=True))
        weak = images[labeled:] if params.objective in ONLINE_LABELS else images[:0]
        return MicroBatch(images, targets, *_roles(params.pool_weight, labeled, pool, images.device), weak, teacher)

    def _rows(self, of: ResidentDataset, count: int, name: str, step: int) -> np.ndarray:
        return rows_of_step(of.order, count, self.seed, name, step)


def steps_ahead(values: int) -> int:
    """How many batches of so many uint8 `values` are made at once: few enough for a CPU's caches.

    Raises `UserError` when the environment variable asks for what is no number of batches.
    """
    asked = os.environ.get(AHEAD, "")
    if not asked:
        return max(1, min(MOST_AHEAD, VALUES_AHEAD // values))
    if not asked.isdecimal() or int(asked) == 0:
        raise UserError(f"the environment variable {AHEAD} was {asked[:40]!r}; set it to a whole number from 1 on")
    return int(asked)


def phase_end(params: TrainingParams, step: int) -> int:
    """The first step after `step` that is of another phase of the run, or comes after its end."""
    ends = (first_step(params, "finetune"), first_step(params, "resolution_fix"), params.steps)
    return min((end for end in ends if end > step), default=step + 1)


def shrunk(images: Tensor, resolution: float) -> Tensor:
    """`images` uint8 (B,C,H,W) with sides of that fraction, at least a pixel."""
    if resolution == 1:
        return images
    size = [max(1, round(side * resolution)) for side in images.shape[2:]]
    small = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(torch.uint8)


def composition(recipe: Recipe, step: int, with_pool: bool) -> tuple[int, int]:
    """How many labeled and how many pool images the batch of `step` has."""
    params, size = recipe.training, recipe.training.batch_size
    if not with_pool:
        return size, 0
    if recipe.distillation and recipe.distillation.images == "pool":
        return 0, size
    if params.finetune:  # pretrain, then finetune (Xie et al. 2019, section 4.1 and appendix A.2)
        return (size, 0) if step >= first_step(params, "finetune") else (0, size)
    return labeled_in_batch(params), size - labeled_in_batch(params)


@lru_cache(maxsize=8)
def _roles(pool_weight: float, labeled: int, pool: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The weights and which images are from the pool, of all batches with so many of each."""
    from_pool = torch.cat([torch.zeros(labeled), torch.ones(pool)])
    return image_weights(pool_weight, labeled, pool).to(device), from_pool.to(device)


def image_weights(pool_weight: float, labeled: int, pool: int) -> Tensor:
    """The weight of each image of a batch (B,), the labeled ones first; they sum to 1.

    Where there are both, labeled images share 1 / (1 + pool_weight) and pool images the rest.
    """
    shares = (1.0, pool_weight) if labeled and pool else (1.0, 1.0)
    whole = torch.cat([torch.full((n,), share / max(n, 1)) for n, share in zip((labeled, pool), shares, strict=True)])
    return whole / (sum(shares) if labeled and pool else 1)


def take(source: ResidentDataset, rows: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    """The images and targets that stand at `rows`, and the teacher's logits, if there are any, on the device."""
    device, where = source.targets.device, torch.from_numpy(rows)
    images = source.images.index_select(0, where.to(source.images.device, non_blocking=True))
    there = where.to(device, non_blocking=True)
    teacher = source.targets[:0] if source.teacher_logits is None else source.teacher_logits.index_select(0, there)
    return images.to(device, non_blocking=True), source.targets.index_select(0, there), teacher


def rows_of_step(order: np.ndarray, count: int, seed: int, purpose: str, step: int) -> np.ndarray:
    """The `count` rows of `step`: `order` is gone through in one permutation after another, none carried along."""
    if count == 0:
        return order[:0]
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
