"""Encoded images in shards: an image has a place there, from which its bytes are read. Nothing is unpacked.

N images, H x W pixels, C channels.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student.core import ranks
from noisy_student.core.errors import UserError
from noisy_student.store.decoding import MAX_BYTES, BadImage, Preparation, decode, with_channels
from noisy_student.store.shard_files import BLOCK_BYTES, Shard, read_again

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes")  # of a Parquet shard
ROWS_AT_ONCE = 64  # of a Parquet file
# where an image is: in a tar `length` bytes from `start` on, `group` -1; in a Parquet file row `start` of row `group`
PLACE = np.dtype([("shard", "i4"), ("group", "i4"), ("start", "i8"), ("length", "i8")])  # `shard`: position in the list
BLOCKS_KEPT = 32  # in memory


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """Images that stay in their shard, as an array uint8 (N,H,W,C): those that are indexed are read and decoded.

    Indexing raises `UserError` as `opened`, and for an image that cannot be decoded.
    """

    shard: Shard
    folder: Path  # of the list of shards
    count: int  # N
    read_places: Callable[[], np.ndarray]  # gives PLACE (N,), in the order of the shard
    how: Preparation
    channels: int  # C

    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, H, W and C."""
        return self.count, self.how.image_size, self.how.image_size, self.channels

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[part]
        return read_and_decode([self], np.zeros(len(rows), np.int64), rows)

    def blocks(self) -> np.ndarray:
        """The block of each image, int64 (N,), rising: what is read of the shard at once."""
        return block_numbers(self.read_places())

    def encoded(self, rows: np.ndarray) -> list[bytes | BadImage]:
        """The bytes of the images at `rows` (n,)."""
        found: dict[int, bytes | BadImage] = {}
        blocks = self.blocks()
        for block in np.unique(blocks[rows]).tolist():
            first = int(np.searchsorted(blocks, block))
            of_block = _encoded_in_block(self, block)
            found |= {row: of_block[row - first] for row in rows[blocks[rows] == block].tolist()}
        return [found[row] for row in rows.tolist()]

    def decoded(self, content: bytes | BadImage, row: int) -> np.ndarray:
        """The image in `content`, which is that at `row`: uint8 (H,W,C)."""
        try:
            if isinstance(content, BadImage):
                raise content
            return with_channels(decode(content, self.how).pixels, self.channels)
        except BadImage as bad:
            raise UserError(
                f"image {row} of {self.shard.url} in this split was decoded by prepare and now cannot be ({bad}); "
                "install the Pillow that prepare ran with, or run `dvc repro --force prepare`"
            ) from None


def read_and_decode(arrays: Sequence[EncodedImages], which: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The images uint8 (n,H,W,C) at `rows` int64 (n,) of the arrays numbered `which` (n,), decoded on this
    rank's share of the machine's cores. Raises `UserError` as `EncodedImages`."""
    encoded: dict[int, bytes | BadImage] = {}
    for number in np.unique(which):
        here = np.flatnonzero(which == number)
        encoded |= zip(here.tolist(), arrays[number].encoded(rows[here]), strict=True)
    pixels = np.empty((len(rows), *arrays[0].shape[1:]), np.uint8)
    threads = ranks.own_cores()

    def decode_every(first: int) -> None:
        for at in range(first, len(rows), threads):
            pixels[at] = arrays[which[at]].decoded(encoded[at], int(rows[at]))

    with ThreadPoolExecutor(threads) as executor:  # decoders let go of Python's lock
        list(executor.map(decode_every, range(threads)))
    return pixels


@dataclass(frozen=True, eq=False)
class ImagePlaces:
    """Where N images are in shards, and how they are decoded."""

    shards: list[Shard]
    folder: Path  # of the list of shards
    places: np.ndarray  # PLACE (N,)
    how: Preparation
    channels: int  # of the decoded images

    def by_shard(self, rows: np.ndarray) -> list[EncodedImages]:
        """The images at `rows` (n,), as one item for each run of rows that are in the same shard."""
        places = self.places[rows]
        edges = np.flatnonzero(np.diff(places["shard"], prepend=-1)).tolist()
        parts = [places[start:end] for start, end in pairwise([*edges, len(places)])]
        return [
            EncodedImages(
                self.shards[part["shard"][0]],
                self.folder,
                len(part),
                partial(np.asarray, part),
                self.how,
                self.channels,
            )
            for part in parts
        ]

    def in_shard_order(self, rows: np.ndarray) -> np.ndarray:
        """`rows` (n,) in the order in which their images are in the shards."""
        return rows[np.lexsort([self.places[key][rows] for key in ("start", "group", "shard")])]


def block_numbers(places: np.ndarray) -> np.ndarray:
    """The block of each of `places` PLACE (N,) in its shard, int64 (N,): BLOCK_BYTES bytes of a tar, or a row group."""
    return np.where(places["group"] < 0, places["start"] // BLOCK_BYTES, places["group"])


@lru_cache(maxsize=BLOCKS_KEPT)
def _encoded_in_block(images: EncodedImages, block: int) -> list[bytes | BadImage]:
    """The encoded `images` of a block."""
    first, last = np.searchsorted(images.blocks(), [block, block + 1])
    return list(read_encoded(images.shard, images.folder, images.read_places()[first:last]))


def read_encoded(shard: Shard, folder: Path, places: np.ndarray) -> Iterator[bytes | BadImage]:
    """The encoded image at each of `places` PLACE (n,), which rise, n at least 1. Raises `UserError` as `opened`."""
    read = _from_tar if shard.is_tar else _from_parquet
    return read_again(lambda file, done: read(file, places[done:]) if done < len(places) else (), shard, folder)


def _from_tar(file: BinaryIO, places: np.ndarray) -> Iterator[bytes | BadImage]:
    first, last = places[0], places[-1]
    file.seek(int(first["start"]))
    span = memoryview(file.read(int(last["start"] + last["length"] - first["start"])))  # one request of a store
    for start, length in zip(places["start"] - first["start"], places["length"], strict=True):
        yield bytes(span[start : start + length])


def _from_parquet(file: BinaryIO, places: np.ndarray) -> Iterator[bytes | BadImage]:
    with pq.ParquetFile(file) as parquet:
        image = image_column(parquet.schema_arrow)
        for group, rows in groupby(places, key=lambda place: int(place["group"])):
            yield from _in_group(parquet, str(image), group, [int(row["start"]) for row in rows])


def _in_group(parquet: pq.ParquetFile, column: str, group: int, wanted: list[int]) -> Iterator[bytes | BadImage]:
    """The images at the rows `wanted`, which rise, of a row group."""
    start, left = 0, iter(wanted)
    row = next(left, None)
    for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column]):
        while row is not None and start <= row < start + len(batch):
            value = batch.column(0)[row - start].as_py()
            image = (value["bytes"] if isinstance(value, dict) else value) or b""
            yield image if len(image) <= MAX_BYTES else BadImage(f"larger than {MAX_BYTES:,} bytes")
            row = next(left, None)
        start += len(batch)


def image_column(schema: pa.Schema) -> str | None:
    """The column of encoded images: binary values, or structs with such `bytes`."""
    for name in IMAGE_COLUMNS:
        kind = schema.field(name).type if name in schema.names else None
        if kind is not None and pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        if kind is not None and pa.types.is_dictionary(kind):
            kind = kind.value_type
        if kind is not None and "binary" in str(kind):  # plain, large, of fixed size, a view
            return name
    return None
