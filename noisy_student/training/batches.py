"""Batches of a training: which images a step sees, with their noise, targets and weights.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from noisy_student.core import ranks
from noisy_student.core.ahead import Worker
from noisy_student.core.errors import UserError
from noisy_student.core.randomness import generator
from noisy_student.training.augmentation import policy
from noisy_student.training.augmentation.mixing import mix
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.micro_batch import MicroBatch
from noisy_student.training.objectives import OBJECTIVES
from noisy_student.training.order import rows_of_step
from noisy_student.training.params import Phase, Recipe, TrainingParams, labeled_in_batch, phase_of
from noisy_student.training.placed_images import PlacedImages, take

AHEAD = "NOISY_STUDENT_STEPS_AHEAD"  # environment variable: batches noised together; replaces the limits below
MAX_STEPS_AHEAD, VALUES_AHEAD = 16, 2**21  # batches noised together, and uint8 values in them


class Batches:
    """The batches of a run, each a function of `seed` and its step; of several ranks, this one's share of them.

    Several are made at once, because for small batches the cost of noise depends on the number of operations, not of
    images. This does not change any batch, because an image's noise depends only on its own row of its step's draw.
    """

    def __init__(self, recipe: Recipe, labeled: PlacedImages, pool: PlacedImages | None, seed: int):
        check_ranks(recipe.training)
        self.recipe, self.labeled, self.pool, self.seed = recipe, labeled, pool, seed
        self.ahead = steps_ahead(recipe.training.batch_size * labeled.values)
        self.ahead_batches: dict[int, MicroBatch] = {}  # the batches of the next steps
        self.coming: dict[tuple[str, int], Future[np.ndarray]] = {}  # images of the steps after these, by source
        self.reader = Worker() if pool and pool.streamed else None

    def parts(self, step: int) -> Iterator[MicroBatch]:
        """The batch of `step`, or this rank's share of it, in `accumulation` parts, among which its labeled and pool
        images are spread evenly."""
        if step not in self.ahead_batches:
            steps = self._together(step)
            self.ahead_batches = self._make(steps)
            if steps.stop < self.recipe.training.steps:
                self._read_ahead(self._together(steps.stop))
            elif self.reader:
                self.reader.close()
        batch, count = self.ahead_batches.pop(step), self.recipe.training.accumulation
        return (batch.micro_batch(count, first) for first in range(count))

    def _together(self, step: int) -> range:
        """The steps from `step` on whose batches are made together."""
        end = max(step + 1, phase_of(self.recipe.training, step).end)
        return range(step, min(step + self.ahead, end))

    def _read_ahead(self, steps: range) -> None:
        """Begin to read the images of `steps` of a pool that is decoded as it is read."""
        phase = phase_of(self.recipe.training, steps[0])
        for name, of, count in self._sources(phase):
            if self.reader and of.streamed:
                for step in steps:
                    rows = self._rows(name, of, count, step)
                    self.coming[name, step] = self.reader.submit(partial(of.streamed.__getitem__, rows))

    def _make(self, steps: range) -> dict[int, MicroBatch]:
        """The batches of `steps`, which are of one phase."""
        phase = phase_of(self.recipe.training, steps[0])
        plain = [self._plain(step, phase) for step in steps]
        if not phase.noised:
            return dict(zip(steps, plain, strict=True))
        from_labels, from_pool = composition(self.recipe, phase, self.pool is not None)
        images, rows = [part.images for part in plain], share_rows(from_labels, from_pool)
        draws = self._draws(self.recipe.noise, images[0], from_labels + from_pool, rows, steps, "input noise")
        noised = self._noised(images, draws, self.recipe.noise, phase)
        made = [replace(part, images=images) for part, images in zip(plain, noised, strict=True)]
        views = [part.weak for part in plain if part.weak is not None]
        if views:
            params = self.recipe.noise.weak()
            draws = self._draws(params, views[0], from_pool, share_rows(0, from_pool), steps, "weak noise")
            weak = self._noised(views, draws, params, phase)
            made = [replace(part, weak=images) for part, images in zip(made, weak, strict=True)]
        return {step: self._mixed(part, step) for step, part in zip(steps, made, strict=True)}

    def _draws(
        self, params: NoiseParams, like: Tensor, count: int, rows: np.ndarray, steps: range, purpose: str
    ) -> list[policy.Draw]:
        """The draw of each of `steps` for `count` images of the size of those in `like`, of which the `rows` are
        taken."""
        height, width = like.shape[2:]
        randoms = (generator(self.seed, purpose, step) for step in steps)
        return [policy.draw(params, count, (height, width), random).rows(rows) for random in randoms]

    def _noised(
        self, images: list[Tensor], draws: list[policy.Draw], params: NoiseParams, phase: Phase
    ) -> Sequence[Tensor]:
        """The `images` of each step, equally many, with the noise of its draw, at the resolution of the phase."""
        noised = policy.apply(torch.cat(images), policy.Draw.combined(draws), params)
        return shrunk(noised, phase.resolution).split(len(images[0]))

    def _mixed(self, part: MicroBatch, step: int) -> MicroBatch:
        params = self.recipe.noise
        if params.mix == "none":
            return part
        random = generator(self.seed, ranks.own_purpose("mix"), step)
        images, targets, weights = mix(part.images, part.targets, part.weights, params.mix, params.mix_alpha, random)
        return replace(part, images=images, targets=targets, weights=weights)

    def _plain(self, step: int, phase: Phase) -> MicroBatch:
        """The batch of `step` without noise, the labeled images first."""
        params = self.recipe.training
        from_labels, from_pool = composition(self.recipe, phase, self.pool is not None)
        taken = []
        for name, of, count in self._sources(phase):
            read = self.coming.pop((name, step), None)
            taken.append(take(of, self._rows(name, of, count, step), read.result() if read else None))
        images = torch.cat([each.images for each in taken])
        targets = [smooth(taken[0].targets, params.label_smoothing), *(each.targets for each in taken[1:])]
        logits = [each.teacher_logits for each in taken if each.teacher_logits is not None]
        weak = images[len(taken[0].images) :] if from_pool and OBJECTIVES[self.recipe.objective].online_labels else None
        weights, is_pool = _roles(params.pool_weight, from_labels, from_pool, images.device)
        return MicroBatch(
            images=images,
            targets=torch.cat(targets),
            weights=weights,
            from_pool=is_pool,
            weak=weak,
            teacher_logits=torch.cat(logits) if logits else None,
        )

    def _sources(self, phase: Phase) -> list[tuple[str, PlacedImages, int]]:
        """The name of each source, its images, and how many of them a batch of the `phase` has."""
        from_labels, from_pool = composition(self.recipe, phase, self.pool is not None)
        return [("labeled", self.labeled, from_labels), *([("pool", self.pool, from_pool)] if self.pool else [])]

    def _rows(self, name: str, of: PlacedImages, count: int, step: int) -> np.ndarray:
        """The rows of this rank among the `count` that a source has in the batch of `step`."""
        return rows_of_step(of.order, count, self.seed, name, step)[share_rows(0, count)]


def check_ranks(params: TrainingParams) -> None:
    """Raise `UserError` when a part of a rank's share could have less than two images, which batch norm asks for."""
    count, labeled = ranks.world_size(), labeled_in_batch(params)
    if labeled // count + (params.batch_size - labeled) // count < 2 * params.accumulation:
        raise UserError(
            f"training.batch_size {params.batch_size} in {params.accumulation} parts (accumulation) is too small for "
            f"{count} ranks; raise it, or start fewer of them"
        )


def steps_ahead(values: int) -> int:
    """How many batches of that many uint8 `values` are made at once, so that they fit a CPU's caches.

    Raises `UserError` when the environment variable is not a number of batches.
    """
    wanted = os.environ.get(AHEAD, "")
    if not wanted:
        return max(1, min(MAX_STEPS_AHEAD, VALUES_AHEAD // values))
    if not wanted.isdecimal() or int(wanted) == 0:
        raise UserError(f"the environment variable {AHEAD} was {wanted[:40]!r}; set it to a whole number from 1 on")
    return int(wanted)


def shrunk(images: Tensor, resolution: float) -> Tensor:
    """`images` uint8 (B,C,H,W) with sides of that fraction, at least a pixel."""
    if resolution == 1:
        return images
    size = [max(1, round(side * resolution)) for side in images.shape[2:]]
    small = F.interpolate(images.float(), size, mode="bilinear", antialias=True)
    return small.round_().clamp_(0, 255).to(torch.uint8)


def composition(recipe: Recipe, phase: Phase, with_pool: bool) -> tuple[int, int]:
    """How many labeled and how many pool images a batch of the `phase` has."""
    size = recipe.training.batch_size
    content = recipe.distillation.images if recipe.distillation else phase.images
    if not with_pool or content == "labeled":
        return size, 0
    if content == "pool":
        return 0, size
    return labeled_in_batch(recipe.training), size - labeled_in_batch(recipe.training)


def share_rows(labeled: int, pool: int) -> np.ndarray:
    """The rows (n,) of this rank in a batch of `labeled` and then `pool` images; each rank has its share of both."""
    return np.concatenate([ranks.share_of(labeled), labeled + np.array(ranks.share_of(pool))]).astype(np.int64)


@lru_cache(maxsize=8)
def _roles(pool_weight: float, labeled: int, pool: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The weights, and 1 for pool images and 0 for others, of this rank's images in all batches with that many labeled
    and pool images."""
    rows, from_pool = share_rows(labeled, pool), torch.cat([torch.zeros(labeled), torch.ones(pool)])
    return image_weights(pool_weight, labeled, pool)[rows].to(device), from_pool[rows].to(device)


def image_weights(pool_weight: float, labeled: int, pool: int) -> Tensor:
    """The weight of each image of a batch (B,), the labeled ones first; they sum to 1.

    Where there are both, labeled images share 1 / (1 + pool_weight) and pool images the rest.
    """
    shares = (1.0, pool_weight) if labeled and pool else (1.0, 1.0)
    whole = torch.cat([torch.full((n,), share / max(n, 1)) for n, share in zip((labeled, pool), shares, strict=True)])
    return whole / (sum(shares) if labeled and pool else 1)


def smooth(targets: Tensor, smoothing: float) -> Tensor:
    """`targets` (B,K) with a fraction `smoothing` spread evenly over the classes (Szegedy et al. 2016, section 7)."""
    return targets * (1 - smoothing) + smoothing / targets.shape[1]
