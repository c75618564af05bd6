"""Rows of several arrays as one array: of images in memory, memory-mapped, or encoded in a user's shards.

n rows, N images.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from noisy_student.core.files import read_rows
from noisy_student.store.encoded_images import EncodedImages, read_and_decode

MAX_MAPPED = 2**28  # bytes of arrays that may be mapped, which is faster, but counts as memory of this process


class Selection:
    """Rows of several arrays as one array; only the rows that are indexed are read."""

    def __init__(self, arrays: Sequence[Any], rows: np.ndarray):
        self.arrays, self.rows = arrays, rows
        self.shape, self.dtype = (len(rows), *arrays[0].shape[1:]), arrays[0].dtype

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        return gather(self.arrays, self.rows[part])

    def at(self, rows: np.ndarray) -> "Selection":
        """The images at `rows` (n,) of this selection."""
        return Selection(self.arrays, self.rows[rows])

    def blocks(self) -> np.ndarray | None:
        """Which images are read together, int64 (N,); None where each is read alone."""
        if not all(isinstance(array, EncodedImages) for array in self.arrays):
            return None
        numbers: list[np.ndarray] = []
        for array in self.arrays:
            numbers.append(array.blocks() + (numbers[-1][-1] + 1 if numbers else 0))
        return np.concatenate(numbers)[self.rows]


def gather(arrays: Sequence[Any], rows: np.ndarray) -> np.ndarray:
    """A new array of the `rows` (n,) of `arrays` laid end to end. Raises IndexError for a row that is not there."""
    ends = np.cumsum([len(array) for array in arrays])
    if len(rows) and (rows.min() < 0 or rows.max() >= ends[-1]):
        raise IndexError(f"rows go from 0 to {ends[-1] - 1}; asked for {rows.min()} to {rows.max()}")
    which = np.searchsorted(ends, rows, side="right")
    within = rows - np.concatenate([[0], ends])[which]
    if all(isinstance(array, EncodedImages) for array in arrays):
        return read_and_decode(arrays, which, within)
    found = np.empty((len(rows), *arrays[0].shape[1:]), dtype=arrays[0].dtype)
    small = int(ends[-1]) * math.prod(arrays[0].shape[1:]) * found.itemsize <= MAX_MAPPED
    for number in np.unique(which):
        here = which == number
        array, there = arrays[number], within[here]
        found[here] = array[there] if small else read_rows(array, there)
    return found
