"""Encoded images in shards: an image has a place there, from which its bytes are read. Nothing is unpacked."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student.store.decoding import MAX_BYTES, BadImage
from noisy_student.store.shard_files import Shard, opened

IMAGE_COLUMNS = ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes")  # of a Parquet shard
ROWS_AT_ONCE = 64  # of a Parquet file
PLACE = np.dtype([("shard", "i4"), ("start", "i8"), ("length", "i8")])  # of an image: bytes of a tar, or its row and
# that row's group in a Parquet file


def contents(shard: Shard, folder: Path, places: np.ndarray) -> Iterator[bytes | BadImage]:
    """The encoded image at each of `places` PLACE (n,), which rise. Raises `UserError` as `opened`."""
    with opened(shard, folder) as file:
        yield from (_from_tar if shard.is_tar else _from_parquet)(file, places)


def _from_tar(file: BinaryIO, places: np.ndarray) -> Iterator[bytes | BadImage]:
    first, last = places[0], places[-1]
    file.seek(int(first["start"]))
    span = memoryview(file.read(int(last["start"] + last["length"] - first["start"])))  # one request of a store
    for start, length in zip(places["start"] - first["start"], places["length"], strict=True):
        yield bytes(span[start : start + length])


def _from_parquet(file: BinaryIO, places: np.ndarray) -> Iterator[bytes | BadImage]:
    with pq.ParquetFile(file) as parquet:
        image = image_column(parquet.schema_arrow)
        for group, rows in groupby(places, key=lambda place: int(place["length"])):
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
