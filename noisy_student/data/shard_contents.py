"""What a shard holds, a tar as WebDataset writes it or a Parquet file: keys, labels, and the encoded images.

    tar        files with one key are an image: 000012.jpg, and 000012.cls with its label, where it has one; files of
               other kinds are left alone
    Parquet    a row is an image: its bytes, a key and a label, each in a column of one of the names in COLUMNS

Nothing is unpacked: an image has a place, from which its bytes are read.
"""

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noisy_student.core.errors import UserError
from noisy_student.data.listing import HIDDEN, readable
from noisy_student.data.manifest import class_name
from noisy_student.store.decoding import MAX_BYTES, BadImage
from noisy_student.store.encoded_images import IMAGE_COLUMNS, PLACE, image_column
from noisy_student.store.shard_files import BLOCK_BYTES, Shard, read_again

COLUMNS = {  # of a Parquet shard, and what they may be called
    "image": IMAGE_COLUMNS,
    "key": ("__key__", "key", "id", "path"),
    "label": ("label", "cls", "class"),
}
# endings of images in a tar
IMAGES = frozenset(("avif", "bmp", "gif", "heic", "heif", "jp2", "jpeg", "jpg", "png", "ppm", "tif", "tiff", "webp"))
LABEL = "cls"  # ending of a label's file in a tar
LONGEST_LABEL = 1000  # bytes
UNLABELED = "-1"  # what a column of numbers may say of an image without a label


class Found(NamedTuple):
    """The images of a shard, and what in it cannot be used."""

    keys: list[str]
    labels: list[str]  # "" where unknown
    places: np.ndarray  # PLACE (n,)
    unusable: list[tuple[str, str]]  # path, reason


def images_in(shard: Shard, folder: Path) -> Found:
    """The images in the `shard`, in their order there; `folder` is that of its list.

    What a store does not give is asked for again. Raises `UserError` as `opened`.
    """
    return next(read_again(lambda file, _: [_found(shard, file)], shard, folder, ahead=shard.is_tar))


def _found(shard: Shard, file: BinaryIO) -> Found:
    return _Tar(shard).found(file) if shard.is_tar else _in_parquet(shard, file)


class _Tar:
    """Collects the images and the labels of a tar by key."""

    def __init__(self, shard: Shard):
        self.shard = shard
        self.images: dict[str, tarfile.TarInfo] = {}
        self.labels: dict[str, str] = {}
        self.others: dict[str, str] = {}  # names of images with two dots, by key
        self.unusable: list[tuple[str, str]] = []

    def found(self, file: BinaryIO) -> Found:
        """What the open `file` holds."""
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in _members(archive):
                try:
                    self.add(archive, member)
                except BadImage as bad:
                    self.quarantine(member.name, str(bad))
            self.check_end(file, min(archive.offset, self.shard.bytes))
        for key in self.labels.keys() - self.images.keys():
            self.quarantine(f"{key}.{LABEL}", "a label without an image")
        for key in self.others.keys() - self.images.keys():
            self.quarantine(self.others[key], "a second dot in its name: the key ends at the first")
        members = self.images.values()
        places = np.zeros(len(members), PLACE)
        places["start"], places["length"] = [each.offset_data for each in members], [each.size for each in members]
        places["group"] = -1
        return Found(list(self.images), [self.labels.get(key, "") for key in self.images], places, self.unusable)

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Take up an image or a label. Raises `BadImage` where it cannot be used."""
        name = "/".join(part for part in member.name.split("/") if part != ".")
        key, ending = _key(name)
        if ending in IMAGES:
            _check_member(member, name, self.shard)
            if key in self.images:
                raise BadImage("a second image with its key")
            self.images[key] = member
        elif ending == LABEL:
            _check_member(member, name, self.shard)
            if key in self.labels:
                raise BadImage("a second label with its key")
            self.labels[key] = _label(archive, member)
        elif ending.rpartition(".")[2] in IMAGES:
            _check_member(member, name, self.shard)
            self.others[key] = name

    def check_end(self, file: BinaryIO, end: int) -> None:
        """Take down what is wrong behind byte `end` of the `file`, where its last whole member ends."""
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if not block:
            return self.quarantine("", "no end mark: more may have been cut off")
        if block.strip(b"\0"):
            return self.quarantine("", f"damaged or cut off: nothing behind byte {end:,} is used")
        while block := file.read(BLOCK_BYTES):
            if block.strip(b"\0"):
                return self.quarantine("", f"damaged, or several tars in one: nothing behind byte {end:,} is used")
        return None

    def quarantine(self, name: str, reason: str) -> None:
        """Take down why the member of that `name`, or for "" the shard, is not used."""
        self.unusable.append((f"{self.shard.url}/{readable(name)}" if name else self.shard.url, reason))


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members but folders, up to the first damaged one."""
    try:
        for member in archive:
            if member.size < 0 or archive.offset <= member.offset:  # else it would be read for ever
                return
            if not member.isdir():
                yield member
    except (tarfile.TarError, ValueError):
        return


def _key(name: str) -> tuple[str, str]:
    """The key and the ending of a file in a tar: its name up to the first dot in its last part, and what follows."""
    folder, base = posixpath.split(name)
    stem, _, ending = base.partition(".")
    return posixpath.join(folder, stem), ending.lower()


def _check_member(member: tarfile.TarInfo, name: str, shard: Shard) -> None:
    """Raise `BadImage` for what is no whole file with a name inside the tar."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts:
        raise BadImage("its name leads out of the shard")
    if any(part.startswith(".") for part in parts):
        raise BadImage(HIDDEN)
    if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python shows bytes that are no text
        raise BadImage("its name is no UTF-8")
    if not member.isreg():
        raise BadImage("a link or a device, no file")
    if member.issparse():
        raise BadImage("a sparse file; pack it without --sparse")
    if member.size > MAX_BYTES:
        raise BadImage(f"larger than {MAX_BYTES:,} bytes")
    if member.offset_data + member.size > shard.bytes:
        raise BadImage("cut off")


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo) -> str:
    if member.size > LONGEST_LABEL:
        raise BadImage(f"a label of more than {LONGEST_LABEL:,} bytes")
    content = archive.extractfile(member)
    try:
        return class_name(content.read().decode("utf-8-sig") if content else "")
    except UnicodeDecodeError:
        raise BadImage("a label that is no text in UTF-8") from None


def _in_parquet(shard: Shard, file: BinaryIO) -> Found:
    keys: list[str] = []
    labels: list[str] = []
    places = []
    name = shard.url.removesuffix(".parquet")
    with pq.ParquetFile(file) as parquet:
        used = _used(shard, parquet.schema_arrow)
        for group in range(parquet.num_row_groups):
            count = parquet.metadata.row_group(group).num_rows
            table = parquet.read_row_group(group, columns=[used[each] for each in ("key", "label") if each in used])
            own = [f"{name}/{row:08}" for row in range(len(keys), len(keys) + count)]  # of rows without a key
            given = _texts(shard, table, used.get("key"), count)
            keys += [key or place for key, place in zip(given, own, strict=True)]
            labels += [class_name(label) for label in _texts(shard, table, used.get("label"), count, UNLABELED)]
            place = np.zeros(count, PLACE)
            place["start"], place["group"] = np.arange(count), group
            places.append(place)
    return Found(keys, labels, np.concatenate([np.zeros(0, PLACE), *places]), [])


def _used(shard: Shard, schema: pa.Schema) -> dict[str, str]:
    """Which columns of a Parquet shard are used, by what COLUMNS calls them."""
    used = {what: next((name for name in names if name in schema.names), None) for what, names in COLUMNS.items()}
    used["image"] = image_column(schema)
    if used["image"] is None:
        raise UserError(
            f"{shard.url} has no column of encoded images among {', '.join(schema.names)[:80]}; call it one of "
            f"{', '.join(COLUMNS['image'])}, and save it as binary"
        )
    return {what: name for what, name in used.items() if name is not None}


def _texts(shard: Shard, table: pa.Table, name: str | None, count: int, unknown: str = "") -> list[str]:
    """The values of the column called `name` as text: "" for null, for no column, and for the number `unknown`."""
    if name is None:
        return [""] * count
    column = table[name]
    is_number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column).cast(pa.int64())
        texts = [value or "" for value in column.cast(pa.string()).to_pylist()]
    except pa.ArrowException:
        raise UserError(f"{shard.url} has {column.type} in the column {name}; make it text or whole numbers") from None
    return ["" if text == unknown else text for text in texts] if is_number else texts
