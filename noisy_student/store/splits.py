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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field

from noisy_student.core.config import ParamsModel, validated
from noisy_student.core.errors import UserError
from noisy_student.core.files import (
    REMEDY,
    digest,
    read_array,
    read_json,
    read_parquet,
    replacing,
    write_json,
    write_parquet,
    write_parts,
)
from noisy_student.store.decoding import Preparation
from noisy_student.store.encoded_images import BLOCKS_KEPT, PLACE, EncodedImages
from noisy_student.store.selection import Selection
from noisy_student.store.shard_files import Shard

DESCRIPTION, INDEX, INDEX_OF_SHARD = "split.json", "index.parquet", "index-{:05}.parquet"
INDICES_KEPT = 2 * BLOCKS_KEPT  # in memory
INDEX_COLUMNS = {
    "id": pa.string(),
    "label": pa.int64(),
    "sha256": pa.string(),
    "group": pa.int64(),
    "start": pa.int64(),
    "length": pa.int64(),
}
PLACE_COLUMNS = ("group", "start", "length")  # of a user's shard
BATCH_BYTES = 4_000_000  # of images that are held in memory at once while they are written
NPY_HEADER = 128  # bytes that numpy writes before the pixels


M = TypeVar("M", bound=ParamsModel)


class PixelShard(ParamsModel):
    """A file of decoded images in a split's folder."""

    file: str = Field(pattern=r"^images-[0-9]{5}\.npy$")  # its name inside the split's folder
    images: int = Field(ge=1)
    sha256: str  # of the file


class UserShard(ParamsModel):
    """A user's file of images, which stay there."""

    url: str
    bytes: int
    version: str
    images: int = Field(ge=1)


class Description(ParamsModel):
    """What split.json holds."""

    classes: list[str] = Field(min_length=1)  # names, in the order of the labels
    image_size: list[int] = Field(min_length=2, max_length=2)  # height and width, pixels
    channels: int = Field(ge=1)
    preparation: dict[str, Any]  # how an image of any size and kind is made one of these
    images: int = Field(ge=1)
    shards: list[PixelShard]
    user_shards: list[UserShard] = []
    user_folder: str | None = None  # below which the paths in `user_shards` are


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

    def images(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The images at `rows` (n,), in that order and as often as they stand there, or all: uint8 (n,H,W,C)."""
        return self.selection(rows)[:]


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
    _check_folder(folder)
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
        _write_table(temporary / INDEX, index)
        description = _described(images.shape, classes, preparation, shards=shards)
        write_json(temporary / DESCRIPTION, description.model_dump(exclude_defaults=True))


def write_streamed_split(
    folder: Path, images: Sequence[EncodedImages], index: pd.DataFrame, classes: list[str], preparation: dict[str, Any]
) -> None:
    """Write to `folder` where the `images` of a split are, as a whole or not at all; they stay in their shards.

    There is at least one; `index` as for `write_split`. Raises `UserError` for a `folder` that holds something else.
    """
    _check_folder(folder)
    shape = sum(map(len, images)), *images[0].shape[1:]
    starts = np.cumsum([0, *map(len, images)])
    shards = [UserShard(**each.shard._asdict(), images=len(each)) for each in images]
    description = _described(
        shape, classes, preparation, shards=[], user_shards=shards, user_folder=str(images[0].folder)
    )
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        for number, (start, of_shard) in enumerate(zip(starts, images, strict=False)):
            places, rows = of_shard.read_places(), index.iloc[start : start + len(of_shard)]
            table = rows.assign(**{name: places[name] for name in PLACE_COLUMNS})
            _write_table(temporary / INDEX_OF_SHARD.format(number), table)
        write_json(temporary / DESCRIPTION, description.model_dump(exclude_defaults=True))


def _described(shape: tuple[int, ...], classes: list[str], preparation: dict[str, Any], **where: Any) -> Description:
    """What split.json says of images of that `shape` (N,H,W,C), and `where` they are."""
    images, height, width, channels = shape
    return Description(
        classes=classes,
        image_size=[height, width],
        channels=channels,
        preparation=preparation,
        images=images,
        **where,
    )


def _check_images(images: np.ndarray | Selection, ids: int, folder: Path) -> None:
    if images.dtype != np.uint8 or len(images.shape) != 4 or len(images) != ids or not len(images):
        given = f"{images.dtype} {images.shape} for {ids} ids"
        raise UserError(f"{folder} was given {given}; it takes uint8 images (N,H,W,C), at least one, and as many ids")


def _check_folder(folder: Path) -> None:
    if folder.exists() and not (folder / DESCRIPTION).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and holds no split; name another folder or remove it")


def _shard_ends(images: int, each: int, drops: np.ndarray | None) -> list[tuple[int, int]]:
    """The first image of each shard and the first one after it."""
    starts = [0, *(np.flatnonzero(np.diff(drops)) + 1).tolist()] if drops is not None else [0]
    ends = [*starts[1:], images]
    return [
        (at, min(at + each, end)) for start, end in zip(starts, ends, strict=True) for at in range(start, end, each)
    ]


def read_split(folder: Path) -> Split:
    """The split in `folder`. Raises `UserError` when a part of it is missing, damaged or at odds with another part."""
    description = _read_description(folder / DESCRIPTION)
    if description.user_shards:
        ids, images = partial(_ids_in_user_shards, folder, description), _user_shards(folder, description)
        return _split(description, ids, None, images)
    index = _read_table(folder / INDEX)
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
    _write_table(path, pd.DataFrame({"id": ids, "label": labels}))


def read_truth(path: Path) -> np.ndarray:
    """The pool's labels int64 (N,), in its order, -1 where unknown. Raises `UserError` when they cannot be read."""
    table = _read_table(path)
    if "label" not in table:
        raise UserError(f"{path} has no column label; {REMEDY}")
    return table["label"].to_numpy(copy=True)


def _read_description(path: Path) -> Description:
    return _validated(Description, read_json(path), path)


def _validated(model: type[M], value: Any, path: Path) -> M:
    """The `value` of the file at `path` as a `model`. Raises `UserError` where it is none."""
    try:
        return validated(model, value, "split", path)
    except UserError as error:
        raise UserError(f"{error}; {REMEDY}") from None


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


def _user_shards(folder: Path, description: Description) -> list[EncodedImages]:
    """The images that stay in a user's shards; nothing of these is read, nor of their indices."""
    how = _validated(Preparation, description.preparation, folder / DESCRIPTION)
    return [
        EncodedImages(
            shard=Shard(shard.url, shard.bytes, shard.version),
            folder=Path(description.user_folder or ""),
            count=shard.images,
            read_places=partial(_places, folder / INDEX_OF_SHARD.format(number), shard.images),
            how=how,
            channels=description.channels,
        )
        for number, shard in enumerate(description.user_shards)
    ]


def _ids_in_user_shards(folder: Path, description: Description) -> np.ndarray:
    tables = [_read_table(folder / INDEX_OF_SHARD.format(number)) for number in range(len(description.user_shards))]
    return np.concatenate([table["id"].to_numpy(str) for table in tables])


def _places(path: Path, images: int) -> np.ndarray:
    """The places PLACE (N,) in the index of a user's shard."""
    return _read_places(path, images, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=INDICES_KEPT)
def _read_places(path: Path, images: int, changed: int) -> np.ndarray:
    """The same of an index that was `changed` at that time, nanoseconds."""
    index = _read_table(path)
    if not set(PLACE_COLUMNS) <= set(index) or len(index) != images:
        raise UserError(f"{path} does not say where {images:,} images are in their shard; {REMEDY}")
    places = np.zeros(images, PLACE)
    for name in PLACE_COLUMNS:
        places[name] = index[name]
    return places


def _write_table(path: Path, table: pd.DataFrame) -> None:
    """Write columns of `INDEX_COLUMNS` as Parquet, without the metadata of pandas, which varies with its version."""
    write_parquet(path, pa.table({name: pa.array(table[name]).cast(INDEX_COLUMNS[name]) for name in table}))


def _read_table(path: Path) -> pd.DataFrame:
    table = read_parquet(path)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type != INDEX_COLUMNS.get(name) or column.null_count:
            raise UserError(f"{path} has a column {name} of {column.type} with {column.null_count} nulls; {REMEDY}")
    if "id" not in table.column_names or len(table["id"].unique()) != len(table):
        raise UserError(f"{path} does not name each image by an id of its own; {REMEDY}")
    read = [name for name in table.column_names if name != "sha256"]  # which nobody asks for, and is most of the bytes
    return table.select(read).to_pandas()
