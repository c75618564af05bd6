"""Images to train on, in their place: on a GPU that has room for them, or on the disk.

N images, C channels, H x W pixels, K classes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from noisy_student.models.device import to_device
from noisy_student.store.selection import Selection
from noisy_student.store.targets import Targets
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.order import Order

ROOM = 0.4  # of a GPU's free memory, the most that the images of a split may take
VALUES_READ = 2**24  # uint8 values that are read from the disk at once


@dataclass(frozen=True)
class PlacedImages:
    """Images and targets to train on: images on a GPU that has room for them, or on the disk."""

    images: Tensor | Selection | np.ndarray  # uint8: on a GPU (N,C,H,W), on the disk or in memory (N,H,W,C)
    targets: Targets | np.ndarray  # float32 (N,K), rows sum to 1, made when they are indexed
    order: Order
    device: torch.device  # on which a training takes them
    teacher_logits: Selection | np.ndarray | None = None  # float32 (N,K), where a teacher is distilled

    @property
    def values(self) -> int:
        """How many uint8 values an image has."""
        return math.prod(self.images.shape[1:])

    @property
    def streamed(self) -> Selection | None:
        """The images where they are decoded as they are read, a block of them at a time; None for any others."""
        return self.images if isinstance(self.images, Selection) and self.order.blocks is not None else None


def placed(data: LabeledImages, device: torch.device) -> PlacedImages:
    """`data` for a training on the `device`. Images stay on the disk, so that memory does not hold them a second time,
    unless a GPU has room for them."""
    rows = np.arange(len(data))
    rows = rows if data.copies is None else np.repeat(rows, data.copies)
    blocks = data.images.blocks() if isinstance(data.images, Selection) else None
    order = Order(rows, None if blocks is None else blocks[rows])
    moves = device.type == "cuda" and has_room(device, math.prod(data.images.shape))
    images = on_device(data.images, device) if moves else data.images
    return PlacedImages(images, data.targets, order, device, data.teacher_logits)


def on_device(images: Selection | np.ndarray, device: torch.device) -> Tensor:
    """`images` uint8 (N,H,W,C) as (N,C,H,W) on the `device`; they are read a few at a time."""
    count, height, width, channels = images.shape
    pixels = torch.empty((count, channels, height, width), dtype=torch.uint8, device=device)
    at_once = max(1, VALUES_READ // (height * width * channels))
    for start in range(0, count, at_once):
        pixels[start : start + at_once] = channels_first(images[start : start + at_once], device)
    return pixels


def channels_first(images: np.ndarray, device: torch.device) -> Tensor:
    """A copy of `images` (n,H,W,C) as (n,C,H,W) on the `device`."""
    return to_device(np.array(images), device).permute(0, 3, 1, 2).contiguous()


def has_room(device: torch.device, values: int) -> bool:
    """Whether so many uint8 `values` leave a GPU most of its free memory for training."""
    return values < ROOM * torch.cuda.mem_get_info(device)[0]


class Taken(NamedTuple):
    """Some rows of placed images, on the device."""

    images: Tensor  # uint8 (n,C,H,W)
    targets: Tensor  # float32 (n,K)
    teacher_logits: Tensor | None  # float32 (n,K)


def take(source: PlacedImages, rows: np.ndarray, read: np.ndarray | None = None) -> Taken:
    """What stands at `rows` (n,) of `source`, whose images (n,H,W,C) may have been `read` before."""
    images, device = source.images, source.device
    if isinstance(images, Tensor):
        taken = images.index_select(0, to_device(rows, device))
    else:
        taken = channels_first(images[rows] if read is None else read, device)
    logits = None if source.teacher_logits is None else to_device(source.teacher_logits[rows], device)
    return Taken(taken, to_device(source.targets[rows], device), logits)
