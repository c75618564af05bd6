"""Splits on the disk: a folder with uint8 shards, which are memory-mapped, and an index of their images.

    split.json         classes, image size, channels, and each shard with its number of images and its sha256
    images-00000.npy   uint8 (n,H,W,C)
    index.parquet      a row for each image, in order: id, label (not there for the pool), sha256 of the pixels

Where the images stay in a user's shards, split.json names these with their versions, there are no files of images, and
each shard has an index of its own, index-00000.parquet, with the place of each image: group, start and length (see
PLACE).

The same images give the same bytes. n images in a shard, N in the split, H x W pixels, C channels.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, digest, read_array, replacing, write_json, write_parts
from noisy_student.store.selection import Selection
from noisy_student.store.split_files import (
    DESCRIPTION,
    Description,
    PixelShard,
    check_folder,
    described,
    read_description,
    read_table,
    write_table,
)
from noisy_student.store.streamed_splits import ids_in_user_shards, user_shards

INDEX = "index.parquet"
BATCH_BYTES = 4_000_000  # of images that are held in memory at once while they are written
NPY_HEADER = 128  # bytes that numpy writes before the pixels


@dataclass(frozen=True, eq=False)
class Split:
    """A split on the disk; pixels are read when they are indexed."""

    classes: list[str]  # names, in the order of the labels
    image_size: tuple[int, int]  # height and width, pixels
    channels: int
    preparation: dict[str, Any]  # how an image of any size and kind is made one of these
    read_ids: Callable[[], np.ndarray]  # gives str (N,)
    labels: Any  # int64 (N,), positions in `classes`; None for the pool
    shards: list[Any]  # uint8 (n,H,W,C), memory-mapped or `EncodedImages`, together N images

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    @cached_property
    def ids(self) -> np.ndarray:
        """The name of each image, str (N,)."""
        return self.read_ids()

    def selection(self, rows: np.ndarray | None = None) -> Selection:
        """The images at `rows` (n,), or all, which are read when they are indexed."""
        return Selection(self.shards, np.arange(len(self)) if rows is None else np.asarray(rows))

    def at(self, rows: np.ndarray) -> "Split":
        """The labeled images at `rows` (n,), as a split of their own."""
        return replace(self, read_ids=lambda: self.ids[rows], labels=self.labels[rows], shards=[self.selection(rows)])

    def images(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The images at `rows` (n,), in that order and as often as they stand there, or all: uint8 (n,H,W,C)."""
        return self.selection(rows)[:]


def half(labels: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Rows int64 (n,), rising, of half of the images of each class, rounded up; `labels` are int64 (N,)."""
    drawn = draw.permutation(len(labels))
    of_class = [drawn[labels[drawn] == k] for k in np.unique(labels)]
    return np.sort(np.concatenate([each[: -(-len(each) // 2)] for each in of_class]))


def pixel_hash(images: Iterable[np.ndarray]) -> list[str]:
    """The sha256, in hex, of each image's shape and bytes."""
    return [hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest() for image in images]


def write_split(
    folder: Path,
    images: np.ndarray | Selection,
    index: pd.DataFrame,
    classes: list[str],
    preparation: dict[str, Any],
    shard_bytes: int,
    drops: np.ndarray | None = None,
) -> None:
    """Write `images` uint8 (N,H,W,C) to `folder`, as a whole or not at all.

    `index` has a row for each image and the columns id, sha256 and, if known, label. A shard has at most `shard_bytes`,
    and images of only one drop. `drops` (N,) are sorted. Raises `UserError` for images of another kind, for no images,
    for an image larger than a shard, and for a `folder` that holds something else.
    """
    _check_images(images, len(index), folder)
    check_folder(folder)
    size = int(np.prod(images.shape[1:]))
    each, batch = (shard_bytes - NPY_HEADER) // size, max(1, BATCH_BYTES // size)
    if each < 1:
        raise UserError(f"an image of {size:,} bytes is larger than a shard of {folder}; raise data.shard_megabytes")
    shards = []
    with replacing(folder) as temporary:
        for number, (start, end) in enumerate(_shard_ends(len(images), each, drops)):
            file, of_shard = f"images-{number:05}.npy", (end - start, *images.shape[1:])
            parts = (images[at : min(at + batch, end)] for at in range(start, end, batch))
            written = write_parts(temporary / file, of_shard, images.dtype, parts)
            shards.append(PixelShard(file=file, images=end - start, sha256=written))
        write_table(temporary / INDEX, index)
        description = described(images.shape, classes, preparation, shards=shards)
        write_json(temporary / DESCRIPTION, description.model_dump(exclude_defaults=True))


def _check_images(images: np.ndarray | Selection, ids: int, folder: Path) -> None:
    if images.dtype != np.uint8 or len(images.shape) != 4 or len(images) != ids or not len(images):
        given = f"{images.dtype} {images.shape} for {ids} ids"
        raise UserError(f"{folder} was given {given}; it takes uint8 images (N,H,W,C), at least one, and as many ids")


def _shard_ends(images: int, each: int, drops: np.ndarray | None) -> list[tuple[int, int]]:
    """The first image of each shard and the first one after it."""
    starts = [0, *(np.flatnonzero(np.diff(drops)) + 1).tolist()] if drops is not None else [0]
    ends = [*starts[1:], images]
    return [
        (at, min(at + each, end)) for start, end in zip(starts, ends, strict=True) for at in range(start, end, each)
    ]


def read_split(folder: Path) -> Split:
    """The split in `folder`. Raises `UserError` when a part of it is missing, damaged or at odds with another part."""
    description = read_description(folder / DESCRIPTION)
    if description.user_shards:
        ids, images = partial(ids_in_user_shards, folder, description), user_shards(folder, description)
        return _split(description, ids, None, images)
    index = read_table(folder / INDEX)
    shards = [_read_shard(folder, shard, description) for shard in description.shards]
    if not len(index) == description.images == sum(len(shard) for shard in shards):
        raise UserError(f"{folder} has {sum(map(len, shards)):,} images and {len(index):,} rows in its index; {REMEDY}")
    labels = index["label"].to_numpy(copy=True) if "label" in index else None
    if labels is not None and not ((labels >= 0) & (labels < len(description.classes))).all():
        raise UserError(f"{folder / INDEX} has labels outside 0 to {len(description.classes) - 1}; {REMEDY}")
    return _split(description, partial(np.asarray, index["id"].to_numpy(str)), labels, shards)


def _split(description: Description, read_ids: Callable[[], np.ndarray], labels: Any, shards: list[Any]) -> Split:
    return Split(
        classes=description.classes,
        image_size=(description.image_size[0], description.image_size[1]),
        channels=description.channels,
        preparation=description.preparation,
        read_ids=read_ids,
        labels=labels,
        shards=shards,
    )


def write_truth(path: Path, ids: Iterable[str], labels: np.ndarray) -> None:
    """Write the true `labels` int64 (N,) of the pool, -1 where unknown."""
    write_table(path, pd.DataFrame({"id": ids, "label": labels}))


def read_truth(path: Path) -> np.ndarray:
    """The pool's labels int64 (N,), in its order, -1 where unknown. Raises `UserError` when they cannot be read."""
    table = read_table(path)
    if "label" not in table:
        raise UserError(f"{path} has no column label; {REMEDY}")
    return table["label"].to_numpy(copy=True)


def _read_shard(folder: Path, shard: PixelShard, description: Description) -> np.ndarray:
    """The shard, memory-mapped."""
    array = read_array(folder / shard.file)
    expected = (shard.images, *description.image_size, description.channels)
    if array.dtype != np.uint8 or array.shape != expected:
        raise UserError(
            f"{folder / shard.file} does not hold uint8 pixels {expected}, as its split.json says; {REMEDY}"
        )
    if digest(folder / shard.file) != shard.sha256:
        raise UserError(f"{folder / shard.file} has other pixels than were written to it; {REMEDY}")
    return array
