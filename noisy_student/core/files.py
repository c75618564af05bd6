"""Writes files that are whole or absent: under a temporary name first, then flushed to the disk, then renamed."""

import csv
import errno
import hashlib
import io
import json
import mmap
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from noisy_student.core.errors import UserError, one_line

REMEDY = "run `dvc repro` to make it again"  # of a file or folder that a stage made and that cannot be used


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`; make its folder if it is missing."""
    with writing(path) as file:
        file.write(content)


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write to, which becomes `path` if the block succeeds; make its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)  # half a file is of no use to anyone, and takes room on a full disk
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = str(path)  # the error of a full disk has no file name
        raise
    flush_folder(path.parent)


def digest(file: Path) -> str:
    """The sha256, in hex, of the file's bytes."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def flush_folder(folder: Path) -> None:
    """Flush the folder's list of files to the disk: only then is a rename safe."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a folder to write into, which replaces `folder` if the block succeeds and is removed otherwise."""
    temporary = folder.with_name(f".{folder.name}.tmp")  # hidden: no output of an iteration
    shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        flush_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; NaN and infinity are refused."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises `UserError` when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write `table` without its index; floats keep all their digits."""
    text = table.to_csv(index=False)
    if "\r" in text:  # pandas writes it without quotes, but reads it as the end of a line
        text = table.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC)
    write_bytes(path, text.encode())


def read_csv(path: Path, text: bool = False) -> pd.DataFrame:
    """The table in a CSV file, with `text` all of it as text. Raises `UserError` when it cannot be read."""
    try:
        return pd.read_csv(path, **({"dtype": str, "keep_default_na": False} if text else {}))
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None


def write_array(path: Path, array: np.ndarray) -> str:
    """Write `array` in numpy's format, without pickle, and return the sha256, in hex, of the file's bytes."""
    return write_parts(path, array.shape, array.dtype, [array])


def write_parts(path: Path, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]) -> str:
    """Write an array of that `shape` and `dtype`, given as `parts` along its first axis; return as `write_array`."""
    if dtype.hasobject:
        raise ValueError("an array of objects takes pickle, which can run code")
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    pieces = (np.ascontiguousarray(part).data for part in parts)
    hashed = hashlib.sha256()
    with writing(path) as file:
        for content in chain([header.getbuffer()], pieces):
            hashed.update(content)
            file.write(content)
    return hashed.hexdigest()


def read_array(path: Path) -> np.ndarray:
    """The array in a numpy file, memory-mapped. Raises `UserError` when it cannot be read."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # the last two: a damaged header
        raise _unreadable(path, error) from None


def read_rows(array: Any, rows: np.ndarray) -> np.ndarray:
    """A copy of the `rows` (n,), 0 or more, of an array of `read_array`, read from its file: mapped pages would count
    as memory of this process. Of any other array, `array[rows]`."""
    if not (isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.flags.c_contiguous):
        return array[rows]
    found = np.empty((len(rows), *array.shape[1:]), array.dtype)
    with Path(array.filename or "").open("rb") as file:
        read_into(found, file.fileno(), rows, array.offset)
    return found


def read_into(array: np.ndarray, file: int, rows: np.ndarray, offset: int = 0) -> None:
    """Fill the contiguous `array` (n,...) with the `rows` (n,), 0 or more, of the array that begins at `offset` in the
    `file`. Raises OSError where that ends before."""
    if not array.size:
        return
    left, size = array.reshape(-1).data.cast("B"), array[0].nbytes
    starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of rows that follow one another in the file
    for start, end in pairwise([*starts.tolist(), len(rows)]):
        part, at = left[start * size : end * size], offset + int(rows[start]) * size
        while part:  # the system reads at most 2 GiB at once
            count = os.preadv(file, [part], at)
            if not count:
                raise OSError(errno.EIO, "the file is cut off")
            part, at = part[count:], at + count


def release(array: Any) -> None:
    """Let go of the memory of an array of `read_array`; what is asked for again is read again.

    Anything else is left as it is.
    """
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.base.madvise(mmap.MADV_DONTNEED)


def write_parquet(path: Path, table: pa.Table) -> None:
    """Write `table` as Parquet; the same table gives the same bytes."""
    with writing(path) as file:
        pq.write_table(table, file, compression="zstd")


def read_parquet(path: Path) -> pa.Table:
    """The table in a Parquet file. Raises `UserError` when it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            return file.read()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"cannot read {path} ({one_line(error)}); {REMEDY}")
