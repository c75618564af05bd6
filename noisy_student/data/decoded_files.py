"""Decoded images in files of work in progress.

N images, H x W pixels, C channels.
"""

import errno
import os
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from noisy_student.core.errors import UserError
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
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of rows that follow one another in the file
        for start, end in pairwise([*starts, len(rows)]):
            _read(self.file.fileno(), pixels[start:end], int(rows[start]) * pixels[0].nbytes)
        return pixels if self.shape[3] == CHANNELS else to_gray(pixels)


def _read(file: int, into: np.ndarray, offset: int) -> None:
    """Fill the contiguous array; the system reads and writes at most 2 GiB at once."""
    left = into.data.cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if not count:
            raise OSError(errno.EIO, "the decoded images are cut off")
        left, offset = left[count:], offset + count


def write_pixels(file: int, pixels: np.ndarray, offset: int) -> None:
    """Write the contiguous array to the file from `offset` on."""
    left = pixels.data.cast("B")
    while left:
        count = os.pwritev(file, [left], offset)
        left, offset = left[count:], offset + count


def check_disk_space(images: int, kept: int, how: Preparation, folder: Path) -> None:
    """Say how much room `kept` of the `images` take, beside those that are in `folder`. Raises `UserError` where there
    is less."""
    there = sum(file.stat().st_blocks * 512 for file in folder.glob("*"))  # files have holes
    wanted = max(0, COPIES * kept * how.image_size**2 * CHANNELS - there)
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
