"""A user's images inside shards, tars as WebDataset writes them or Parquet files, on a disk or in an object store.

A list of shards names them and says what they were when they were listed: a CSV file with the columns url, bytes and
version, which `noisy-student list-shards` writes. Shards are read where they lie; nothing is unpacked.

    tar        files with one key are an image: 000012.jpg, and 000012.cls with its label, where it has one; files of
               other kinds are left alone
    Parquet    a row is an image: its bytes, a key and a label, each in a column of one of the names in COLUMNS

Keys are ids. An image without a label is in the pool, and the pool's images of a shard are a drop.
"""

import os
import posixpath
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from noisy_student.core.errors import UserError, one_line
from noisy_student.core.progress import meter
from noisy_student.data.decoding import MAX_BYTES, BadImage
from noisy_student.data.listing import CHUNK, HIDDEN, LISTING_COLUMNS, Listing, in_order, typed
from noisy_student.data.manifest import class_name

COLUMNS = {  # of a Parquet shard, and what they may be called
    "image": ("jpg", "jpeg", "png", "webp", "image", "image_bytes", "bytes"),
    "key": ("__key__", "key", "id", "path"),
    "label": ("label", "cls", "class"),
}
# endings of images in a tar
IMAGES = frozenset(("avif", "bmp", "gif", "heic", "heif", "jp2", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"))
LABEL = "cls"  # ending of a label's file in a tar
LONGEST_LABEL = 1000  # bytes
ENDINGS = (".tar", ".parquet")  # of a shard's name
ROWS_AT_ONCE = 64  # of a Parquet file
AT_ONCE = 8  # shards that are listed at the same time: a store makes each wait
BLOCK = 8_000_000  # bytes that are asked of an object store at once
AGAIN = "run `noisy-student list-shards` again"
PLACE = np.dtype([("shard", "i4"), ("start", "i8"), ("length", "i8")])  # of an image: bytes of a tar, or its row and
# that row's group in a Parquet file


class Shard(NamedTuple):
    """A file of images, as it was when it was listed."""

    url: str  # or a path below the list's folder
    bytes: int
    version: str  # the store's ETag, or when a file on the disk was last changed

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, or else a Parquet file."""
        return self.url.endswith(".tar")


class Found(NamedTuple):
    """The images of a shard, and what in it cannot be used."""

    keys: list[str]
    labels: list[str]  # "" where unknown
    places: np.ndarray  # PLACE (n,)
    unusable: list[tuple[str, str]]  # path, reason


@dataclass(frozen=True)
class ShardListing(Listing):
    """Images in shards; `root` is the folder of their list."""

    shards: list[Shard]
    places: np.ndarray  # PLACE (N,), of each row of `files`

    def tasks(self) -> list[range]:
        """The rows that a process decodes at once: a few of a tar, or all of a row group of a Parquet file."""
        in_tar = np.array([shard.is_tar for shard in self.shards])[self.places["shard"]]
        part = np.where(in_tar, 0, self.places["length"])
        edges = np.flatnonzero(np.diff(self.places["shard"], prepend=-1) | np.diff(part, prepend=-1)).tolist()
        found = []
        for start, end in zip(edges, [*edges[1:], len(part)], strict=True):
            size = CHUNK if in_tar[start] else end - start
            found += [range(at, min(at + size, end)) for at in range(start, end, size)]
        return found

    def contents(self, rows: range) -> Iterator[bytes | BadImage]:
        """The encoded image at each of `rows`. Raises `UserError` for a shard that is gone or has changed."""
        places = self.places[rows.start : rows.stop]
        for number, group in groupby(places, key=lambda place: int(place["shard"])):
            shard = self.shards[number]
            read = _from_tar if shard.is_tar else _from_parquet
            with opened(shard, self.root) as file:
                yield from read(file, list(group))


def list_shards(path: Path) -> ShardListing:
    """The images in the shards that the list at `path` names.

    Raises `UserError` for a list that cannot be read, and a shard that is gone, has changed or cannot be read.
    """
    shards = read_list(path)
    blocks, places, unusable = [], [], []
    with (
        meter("listing", len(shards), unit="shards") as progress,
        ThreadPoolExecutor(AT_ONCE) as executor,
    ):
        for number, found in enumerate(executor.map(partial(images_in, folder=path.parent), shards)):
            found.places["shard"] = number
            split = ["labeled" if label else "pool" for label in found.labels]
            drop = ["" if label else shards[number].url for label in found.labels]
            columns = zip(LISTING_COLUMNS, (found.keys, found.labels, split, "", drop), strict=True)
            blocks.append(typed(pd.DataFrame(dict(columns))))
            places.append(found.places)
            unusable += found.unusable
            progress.advance(1)
    files = pd.concat(blocks, ignore_index=True).assign(row=np.arange(sum(map(len, blocks))))
    place = np.concatenate(places)
    again = files.duplicated("path").to_numpy()
    for row in np.flatnonzero(again).tolist():
        unusable.append((f"{shards[place['shard'][row]].url}/{files['path'][row]}", "its key is that of another image"))
    files = in_order(files[~again])
    listed = pd.DataFrame(unusable, columns=["path", "reason"]).sort_values("path", ignore_index=True)
    return ShardListing(path.parent, files[list(LISTING_COLUMNS)], listed, shards, place[files["row"]])


def about_how_many(path: Path) -> int:
    """About how many images the shards in the list at `path` have, going by the first one. Raises as `list_shards`."""
    shards = read_list(path)
    images = len(images_in(shards[0], path.parent).keys)
    return round(images * sum(shard.bytes for shard in shards) / shards[0].bytes)


def read_list(path: Path) -> list[Shard]:
    """The shards that the list at `path` names. Raises `UserError` where it is no such list."""
    try:
        table = pd.read_csv(path, dtype={"url": str, "bytes": "int64", "version": str}, keep_default_na=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}); {AGAIN}") from None
    if list(table) != list(Shard._fields) or not len(table) or table["url"].duplicated().any():
        raise UserError(f"{path} is no list of shards with the columns {', '.join(Shard._fields)}; {AGAIN}")
    return [Shard(*row) for row in table.itertuples(index=False)]


def found_shards(patterns: list[str], folder: Path) -> list[Shard]:
    """The shards that match one of `patterns` (URLs or paths, with wildcards), by name, for a list in `folder`.

    Raises `UserError` where a pattern matches no file, and for a URL with a password in it.
    """
    found = set()
    for pattern in patterns:
        if "@" in urlsplit(pattern).netloc:
            raise UserError("a URL has a name or a password in it; leave them to the environment: see docs/shards.md")
        with _told(pattern):
            filesystem, inside = fsspec.core.url_to_fs(pattern)
            infos = [info for info in filesystem.glob(inside, detail=True).values() if info["type"] == "file"]
        if not infos:
            raise UserError(f"no file matches {pattern}; give paths or URLs of shards, such as s3://bucket/pool-*.tar")
        for info in infos:
            name = info["name"]
            on_disk = isinstance(filesystem, LocalFileSystem)
            url = os.path.relpath(name, folder) if on_disk else filesystem.unstrip_protocol(name)
            if not url.endswith(ENDINGS):
                raise UserError(f"{url} is no shard: its name ends in none of {', '.join(ENDINGS)}")
            found.add(Shard(url, info["size"], _version(info)))
    return sorted(found)


@contextmanager
def opened(shard: Shard, folder: Path) -> Iterator[BinaryIO]:
    """The `shard`, open; paths are below `folder`. Raises `UserError` where it is gone, has changed or cannot be
    read."""
    with _told(shard.url):
        url = shard.url if "://" in shard.url else str(folder / shard.url)
        filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)  # which may be of before a change
        info = filesystem.info(path)
        if (info["size"], _version(info)) != (shard.bytes, shard.version):
            then_and_now = f"{shard.bytes:,} bytes then, {info['size']:,} now"
            raise UserError(f"{shard.url} has changed since it was listed ({then_and_now}); {AGAIN}")
        with filesystem.open(path, "rb", block_size=BLOCK) as file:
            yield file


def _version(info: dict[str, Any]) -> str:
    return str(info.get("ETag") or info.get("mtime") or "").strip('"')


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Turn whatever goes wrong with the shard at `url` within the block into a sentence."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{url} is gone; {AGAIN}") from None
    except ImportError as error:
        raise UserError(f"{url} cannot be read ({one_line(error)}); for s3:// run pip install '.[s3]'") from None
    except Exception as error:  # stores raise kinds of their own
        reason = one_line(error) or type(error).__name__
        raise UserError(f"{url} cannot be read ({reason}); check it and the way to it, then run again") from None


def images_in(shard: Shard, folder: Path) -> Found:
    """The images in the `shard`, in their order there. Raises `UserError` as `opened`."""
    return _in_tar(shard, folder) if shard.is_tar else _in_parquet(shard, folder)


def _in_tar(shard: Shard, folder: Path) -> Found:
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, str] = {}
    unusable: list[tuple[str, str]] = []
    with opened(shard, folder) as file, tarfile.open(fileobj=file, mode="r:") as archive:
        for member in _members(archive):
            key, ending = _key(member.name)
            try:
                if ending in IMAGES:
                    _check_member(member, shard)
                    if key in images:
                        raise BadImage("a second image with its key")
                    images[key] = member
                elif ending == LABEL:
                    _check_member(member, shard)
                    labels[key] = _label(archive, member)
            except BadImage as bad:
                unusable.append((f"{shard.url}/{member.name}", str(bad)))
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            unusable.append((shard.url, f"damaged or cut off: nothing behind byte {archive.offset:,} is used"))
    unusable += [(f"{shard.url}/{key}.{LABEL}", "a label without an image") for key in labels if key not in images]
    places = np.zeros(len(images), PLACE)
    places["start"] = [member.offset_data for member in images.values()]
    places["length"] = [member.size for member in images.values()]
    return Found(list(images), [labels.get(key, "") for key in images], places, unusable)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    try:
        yield from (member for member in archive if not member.isdir())
    except tarfile.ReadError:  # the last member is cut off
        return


def _key(name: str) -> tuple[str, str]:
    """The key and the ending of a file in a tar: its name up to the first dot in its last part, and what follows."""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _check_member(member: tarfile.TarInfo, shard: Shard) -> None:
    """Raise `BadImage` for what is no whole file with a name inside the tar."""
    parts = member.name.split("/")
    if member.name.startswith("/") or ".." in parts:
        raise BadImage("its name leads out of the shard")
    if any(part.startswith(".") for part in parts):
        raise BadImage(HIDDEN)
    if not member.isreg():
        raise BadImage("a link or a device, no file")
    if member.size > MAX_BYTES:
        raise BadImage(f"larger than {MAX_BYTES:,} bytes")
    if member.offset_data + member.size > shard.bytes:
        raise BadImage("cut off")


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    content = archive.extractfile(member)
    try:
        label = content.read(LONGEST_LABEL + 1).decode() if content else ""
    except UnicodeDecodeError:
        raise BadImage("a label that is no text in UTF-8") from None
    if len(label) > LONGEST_LABEL:
        raise BadImage(f"a label of more than {LONGEST_LABEL:,} characters")
    return class_name(label)


def _from_tar(file: BinaryIO, places: list[Any]) -> Iterator[bytes | BadImage]:
    for place in places:
        file.seek(int(place["start"]))
        yield file.read(int(place["length"]))


def _in_parquet(shard: Shard, folder: Path) -> Found:
    keys: list[str] = []
    labels: list[str] = []
    places = []
    with opened(shard, folder) as file, pq.ParquetFile(file) as parquet:
        used = _used(shard, parquet.schema_arrow)
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=[used[each] for each in ("key", "label") if each in used])
            count = parquet.metadata.row_group(group).num_rows
            numbers = (f"{Path(shard.url).stem}/{row:08}" for row in range(len(keys), len(keys) + count))
            keys += _texts(table[used["key"]]) if "key" in used else list(numbers)
            labels += [class_name(label) for label in _texts(table[used["label"]])] if "label" in used else [""] * count
            place = np.zeros(count, PLACE)
            place["start"], place["length"] = np.arange(count), group
            places.append(place)
    return Found(keys, labels, np.concatenate([np.zeros(0, PLACE), *places]), [])


def _used(shard: Shard, schema: pa.Schema) -> dict[str, str]:
    """Which columns of a Parquet shard are used, by what COLUMNS calls them."""
    used = {what: next((name for name in names if name in schema.names), None) for what, names in COLUMNS.items()}
    image = used["image"]
    if image is None:
        raise UserError(
            f"{shard.url} has no column of encoded images among {', '.join(schema.names)[:80]}; call it one of "
            f"{', '.join(COLUMNS['image'])}"
        )
    kind = schema.field(image).type
    kind = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise UserError(f"{shard.url} has {kind} in the column {image}, and no encoded images")
    return {what: name for what, name in used.items() if name is not None}


def _texts(column: pa.ChunkedArray) -> list[str]:
    """The values of a column as text, "" for null; whole numbers without a point."""
    if pa.types.is_floating(column.type):
        column = column.cast(pa.int64())
    return [value or "" for value in column.cast(pa.string()).to_pylist()]


def _from_parquet(file: BinaryIO, places: list[Any]) -> Iterator[bytes | BadImage]:
    with pq.ParquetFile(file) as parquet:
        names = set(parquet.schema_arrow.names)
        image = next(name for name in COLUMNS["image"] if name in names)
        for group, rows in groupby(places, key=lambda place: int(place["length"])):
            wanted = [int(row["start"]) for row in rows]
            yield from _in_group(parquet, image, group, wanted)


def _in_group(parquet: pq.ParquetFile, column: str, group: int, wanted: list[int]) -> Iterator[bytes]:
    """The images at the rows `wanted`, rising, of a row group."""
    start, left = 0, iter(wanted)
    row = next(left, None)
    for batch in parquet.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=[column]):
        while row is not None and row < start + len(batch):
            value = batch.column(0)[row - start].as_py()
            yield (value["bytes"] if isinstance(value, dict) else value) or b""
            row = next(left, None)
        start += len(batch)
