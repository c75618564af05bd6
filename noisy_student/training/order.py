"""The order in which a training goes through images: epochs, each shuffled anew.

M rows in an epoch.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from noisy_student.core.randomness import generator
from noisy_student.store.encoded_images import BLOCKS_KEPT

WINDOW = BLOCKS_KEPT // 2  # blocks from which an epoch draws at once: a batch may be of two windows


@dataclass(frozen=True, eq=False)
class Order:
    """What an epoch goes through, each time in another random order."""

    rows: np.ndarray  # int64 (M,); a row may stand there several times
    blocks: np.ndarray | None = None  # int64 (M,), those of rows that are read together; None: each row is read alone

    def __len__(self) -> int:
        return len(self.rows)

    def shuffled(self, random: np.random.Generator) -> np.ndarray:
        """The rows in a random order. Rows in blocks are shuffled in two levels, first the blocks, then the rows of
        each WINDOW of blocks, so that each block is read once."""
        if self.blocks is None:
            return self.rows[random.permutation(len(self))]
        numbers, block = np.unique(self.blocks, return_inverse=True)
        window = random.permutation(len(numbers))[block] // WINDOW
        return self.rows[np.lexsort((random.permutation(len(self)), window))]


def rows_of_step(order: Order, count: int, seed: int, purpose: str, step: int) -> np.ndarray:
    """The `count` rows of `step`. Each epoch goes through `order` anew; nothing is carried over from the previous
    step."""
    if count == 0:
        return order.rows[:0]
    first, last = step * count, (step + 1) * count  # positions in the endless row of epochs
    epochs = range(first // len(order), (last - 1) // len(order) + 1)
    rows = np.concatenate([_of_epoch(order, seed, purpose, epoch) for epoch in epochs])
    offset = first - epochs.start * len(order)
    return rows[offset : offset + count]


@lru_cache(maxsize=4)
def _of_epoch(order: Order, seed: int, purpose: str, epoch: int) -> np.ndarray:
    return order.shuffled(generator(seed, f"order of {purpose}", epoch))
