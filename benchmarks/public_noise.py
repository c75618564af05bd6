"""The same noise by what public trainers use, at the same strength: ours, torchvision's and kornia's.

B images in a batch, uint8 (B,3,H,W) before the noise; pixels are from 0 to 1 after it.
"""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from noisy_student.core.randomness import generator
from noisy_student.training.augmentation import policy
from noisy_student.training.augmentation.policy import JITTER_REACH, NoiseParams

OPERATIONS, MAGNITUDE, CROP, FILL = 2, 15, 4, 0  # kornia fills with black alone
RANDAUGMENT = NoiseParams.none().model_copy(update={"operations": OPERATIONS, "magnitude": MAGNITUDE, "fill": FILL})
NOISE = RANDAUGMENT.model_copy(update={"crop": CROP, "flip": True})
WHAT = f"RandAugment {OPERATIONS} at {MAGNITUDE}, crop {CROP}, flip"
OF_PHOTOS = NoiseParams.none().model_copy(update={"resized_crop": 0.35, "jitter": 8.0, "flip": True})
WHAT_OF_PHOTOS = "random resized crop of 0.35 or more of the area, brightness, contrast and color at 8 of 30, flip"
CLASSES, BATCH, WORKERS = 10, 128, 2
PICTURES, SMALL = 4096, 96  # images, an eighth of them where they are larger than so many pixels a side
MEAN, DEVIATION = 0.5, 0.25  # that a pixel from 0 to 1 is normalized by
Noise = Callable[[Tensor], Tensor]


class Pictures(Dataset):
    """Images, each noised on its own when it is asked for."""

    def __init__(self, side: int, of_photos: bool):
        from noisy_student.core.torchvision_compat import torchvision

        transforms = torchvision.transforms
        self.images = pictures(side)
        self.to_image = transforms.ToPILImage()
        reach = OF_PHOTOS.jitter / 30 * JITTER_REACH
        small = [
            transforms.RandomCrop(side, padding=CROP, fill=FILL),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(OPERATIONS, MAGNITUDE, fill=[FILL] * 3),
        ]
        photos = [
            transforms.RandomResizedCrop(side, (OF_PHOTOS.resized_crop, 1)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(reach, reach, reach),
        ]
        last = [transforms.ToTensor(), transforms.Normalize([MEAN] * 3, [DEVIATION] * 3)]
        self.noise = transforms.Compose([*(photos if of_photos else small), *last])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.noise(self.to_image(self.images[number])), number % CLASSES


class Endless(Sampler[int]):
    """One permutation of `length` rows after another, without end, so that a loader's processes start only once."""

    def __init__(self, length: int):
        self.length = length

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.length).tolist()


def pictures(side: int) -> np.ndarray:
    """Images uint8 (N,side,side,3)."""
    count = PICTURES if side <= SMALL else PICTURES // 8
    coarse = np.random.default_rng(0).integers(256, size=(count, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)


def resident(side: int) -> Tensor:
    """The same as a tensor uint8 (N,3,side,side)."""
    return torch.from_numpy(pictures(side)).permute(0, 3, 1, 2).contiguous()


def batches(side: int, of_photos: bool = False) -> Iterator[list[Tensor]]:
    """Batches of `Pictures`, without end, with the noise of photographs or with NOISE."""
    images = Pictures(side, of_photos)
    return iter(DataLoader(images, BATCH, sampler=Endless(len(images)), num_workers=WORKERS))


def our_noise(params: NoiseParams) -> Noise:
    """Ours, drawn anew in each call."""
    calls = count()
    return lambda images: policy.augment(images, params, generator(0, "benchmark", next(calls))).float().div_(255)


def kornia_noise(side: int, alone: bool) -> Noise:
    """kornia's RandAugment, `alone` or after a crop and a flip."""
    from kornia import augmentation as kornia

    steps: list[Any] = [kornia.auto.RandAugment(OPERATIONS, MAGNITUDE, kornia_policy())]
    if not alone:
        steps = [kornia.RandomCrop((side, side), padding=CROP, fill=FILL), kornia.RandomHorizontalFlip(), *steps]
    whole = kornia.AugmentationSequential(*steps)
    return lambda images: whole(images.float() / 255)


def kornia_policy() -> list[Any]:
    """Our fourteen operations at our strengths, which kornia's own choice has not: name, and range of its strengths.

    kornia draws a direction for none that blends, so that all stand there twice and these once for each direction. Its
    brightness adds where others multiply: by so little that it changes as much as Pillow's contrast, which it lacks.
    """
    share = MAGNITUDE / 30
    reaches = {"color": 0.9, "contrast": 0.9, "sharpness": 0.9, "brightness": 0.2}
    factors = [(name, 1 + way * reach * share) for name, reach in reaches.items() for way in (-1, 1)]
    moves = {"rotate": 30, "shear_x": 0.3 / np.pi, "shear_y": 0.3 / np.pi}  # of a shear, half turns
    moves |= {"translate_x": 150 / 331, "translate_y": 150 / 331}
    either_way = [(name, -reach, reach) for name, reach in moves.items()]
    others = [("auto_contrast", 0, 1), ("equalize", 0, 1), ("posterize", 4, 8), ("solarize", 1 - share, 1 - share)]
    identity = ("brightness", 1, 1)
    twice = 2 * [identity, *others, *either_way]
    return [[each] for each in (*twice, *((name, factor, factor) for name, factor in factors))]


def randaugment(way: str, side: int) -> Noise:
    """RandAugment alone."""
    if way == "kornia":
        return kornia_noise(side, alone=True)
    if way == "ours":
        return our_noise(RANDAUGMENT)
    from noisy_student.core.torchvision_compat import torchvision

    operate = torchvision.transforms.RandAugment(OPERATIONS, MAGNITUDE, fill=[FILL] * 3)
    return lambda images: torch.stack([operate(image) for image in images]).float() / 255
