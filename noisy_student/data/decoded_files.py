"""Decoded images in files of work in progress.

N images, H x W pixels, C channels.
"""

import os
from pathlib import Path
from typing import BinaryIO

import numpy as np

from noisy_student.core.errors import UserError
from noisy_student.core.files import read_into
from noisy_student.store.decoding import Preparation, to_gray

COPIES = 2  # of the pixels on the disk: here and in the splits' shards
CHANNELS = 3  # in a file, also for gray images


class DecodedFile:
    """Images in a file as an array uint8 (N,H,W,C); only the rows that are indexed are read."""

    def __init__(self, file: BinaryIO, rows: np.ndarray, size: int, channels: int):
        self.file, self.rows = file, rows  # where in the file each image is
        self.shape, self.dtype = (len(rows), size, size, channels), np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """The images of a slice or at an array of rows, in that order."""
        rows = self.rows[which]
        pixels = np.empty((len(rows), *self.shape[1:3], CHANNELS), np.uint8)
        read_into(pixels, self.file.fileno(), rows)
        return pixels if self.shape[3] == CHANNELS else to_gray(pixels)


def write_pixels(file: int, pixels: np.ndarray, offset: int) -> None:
    """Write the contiguous array to the file from `offset` on."""
    left = pixels.data.cast("B")
    while left:
        count = os.pwritev(file, [left], offset)
        left, offset = left[count:], offset + count


def check_disk_space(images: int, kept: int, there: int, how: Preparation, folder: Path) -> None:
    """Say how much room `kept` of the `images` take below `folder`, where so many of them are `there`. Raises
    `UserError` where there is less."""
    wanted = (COPIES * kept - there) * how.image_size**2 * CHANNELS
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    print(
        f"{images:,} files, of which {kept:,} are copied; they take up to {wanted / 1e9:.2f} GB on the disk, and "
        f"{free / 1e9:.1f} GB are free",
        flush=True,
    )
    if wanted > free:
        raise UserError(
            f"the images take {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; lower data.image_size, or for "
            "images in shards set data.streamed_pool to true"
        )
