"""Shards, which are files of many images, on a disk or in an object store: they are listed, and opened if unchanged.

A list of shards says what they were when they were listed: a CSV file with the columns url, bytes and version, which
`noisy-student list-shards` writes.
"""

import os
import re
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

import fsspec
import pandas as pd
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from noisy_student.core.errors import UserError, one_line
from noisy_student.core.files import write_csv

T = TypeVar("T")
ENDINGS = (".tar", ".parquet")  # of a shard's name
BLOCK_BYTES = 8_000_000  # bytes that are asked of an object store at once
VERSIONS = ("ETag", "etag", "mtime", "last_modified", "LastModified")  # what a store may call a file's version
WAITS = (1, 2, 4, 8, 16, 32)  # seconds between tries to read what a store does not give
LASTING = (PermissionError, tarfile.TarError, pa.ArrowException, ValueError)  # what another try does not mend
GONE = (404, 410)  # answers of HTTP
SECRET = re.compile(r"(?<=\?)[^\s'\")]+|(?<=//)[^/@\s]+@")  # in an error's text: a signature, a name and a password
CHECK = "check the file and the connection to its store, then run again"
AGAIN = "run `noisy-student list-shards` again"


class Unreachable(UserError):
    """A store that does not give a shard may do so later."""


class Shard(NamedTuple):
    """A file of images, as it was when it was listed."""

    url: str  # or a path below the list's folder
    bytes: int
    version: str  # the store's ETag, or when the file was last changed; "" where the store says neither

    @property
    def is_tar(self) -> bool:
        """Whether it is a tar, or else a Parquet file."""
        return self.url.endswith(".tar")


def read_list(path: Path) -> list[Shard]:
    """The shards that the list at `path` names. Raises `UserError` where it is no such list."""
    try:
        table = pd.read_csv(path, dtype={"url": str, "bytes": "int64", "version": str}, keep_default_na=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}); {AGAIN}") from None
    columns_fit = list(table) == list(Shard._fields) and len(table)
    if not columns_fit or table["url"].duplicated().any() or not table["url"].str.endswith(ENDINGS).all():
        raise UserError(f"{path} is no list of shards with the columns {', '.join(Shard._fields)}; {AGAIN}")
    for url in table["url"]:
        _check_url(url)
    return [Shard(*row) for row in table.itertuples(index=False)]


def write_list(path: Path, shards: list[Shard]) -> None:
    """Write a list of `shards` that `read_list` reads."""
    write_csv(path, pd.DataFrame(shards, columns=list(Shard._fields)))


def found_shards(patterns: list[str], folder: Path) -> list[Shard]:
    """The shards that match one of `patterns` (URLs or paths, with wildcards), by name, for a list in `folder`.

    Raises `UserError` where a pattern matches no file, and for a URL with a password in it.
    """
    found = set()
    for pattern in patterns:
        _check_url(pattern)
        filesystem, infos = next(_again(partial(_matches, pattern)))
        if not infos:
            raise UserError(f"no file matches {pattern}; give paths or URLs of shards, such as s3://bucket/pool-*.tar")
        for info in infos:
            on_disk = isinstance(filesystem, LocalFileSystem)
            url = _below(info["name"], folder) if on_disk else filesystem.unstrip_protocol(info["name"])
            if not url.endswith(ENDINGS):
                known = " or ".join(ENDINGS)
                raise UserError(f"{url} is no shard, whose name ends in {known}; unpack it, rename it, or leave it out")
            if info["size"] is None:
                raise UserError(f"the store does not say how large {url} is; copy it to a disk or another store")
            found.add(Shard(url, info["size"], _version(info)))
    return sorted(found)


@contextmanager
def opened(shard: Shard, folder: Path, ahead: bool = False) -> Iterator[BinaryIO]:
    """The `shard`, open; paths are below `folder`. With `ahead`, a store is asked for blocks rather than for each read.

    Raises `UserError` where it is gone, has changed or cannot be read.
    """
    with translate_store_errors(shard.url):
        url = shard.url if "://" in shard.url else str(folder / shard.url)
        filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)  # which may be of before a change
        info = filesystem.info(path)
        if (info["size"], _version(info)) != (shard.bytes, shard.version):
            same = info["size"] == shard.bytes
            now = "another version of the same size" if same else f"{shard.bytes:,} bytes then, {info['size']:,} now"
            raise UserError(f"{shard.url} has changed since it was listed ({now}); {AGAIN}")
        cache = "readahead" if ahead else "none"
        with filesystem.open(path, "rb", block_size=BLOCK_BYTES, cache_type=cache) as file:
            yield file


@contextmanager
def translate_store_errors(url: str) -> Iterator[None]:
    """Turn whatever goes wrong with the shard at `url` within the block into a sentence."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # of HTTP, whose every failure fsspec tells as a file that is not there
        if isinstance(cause, OSError) or getattr(cause, "status", GONE[0]) not in GONE:
            raise _unreadable(url, cause or error) from None
        raise UserError(f"{url} is gone; {AGAIN}") from None
    except ImportError as error:
        raise UserError(f"{url} cannot be read ({one_line(error)}); for s3:// run pip install '.[s3]'") from None
    except Exception as error:  # stores raise kinds of their own
        raise _unreadable(url, error) from None


def _unreadable(url: str, error: BaseException) -> UserError:
    lasting = "://" not in url or isinstance(error, LASTING)
    reason = SECRET.sub("", one_line(error)) or type(error).__name__
    kind = UserError if lasting else Unreachable
    return kind(f"{url} cannot be read ({reason}); {CHECK}")


def read_again(
    read: Callable[[BinaryIO, int], Iterable[T]], shard: Shard, folder: Path, ahead: bool = False
) -> Iterator[T]:
    """What `read` yields of the open `shard`, which gets the number of items that it has yielded before.

    What a store does not give is asked for again, after each of WAITS. Raises `UserError` as `opened`.
    """

    def from_item(done: int) -> Iterator[T]:
        with opened(shard, folder, ahead) as file:
            yield from read(file, done)

    return _again(from_item)


def _again(from_item: Callable[[int], Iterable[T]]) -> Iterator[T]:
    """The items, from the first that is not there yet on, again and again while a store does not give them."""
    done = tries = 0
    while True:
        try:
            for item in from_item(done):
                yield item
                done, tries = done + 1, 0
            return
        except Unreachable as problem:
            if tries == len(WAITS):
                raise
            sentence = str(problem).removesuffix(f"; {CHECK}")
            print(f"{sentence}; trying again in {WAITS[tries]} s", flush=True)
            time.sleep(WAITS[tries])
            tries += 1


def _matches(pattern: str, _: int) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    """The file system of a pattern, and what it says of each file that matches."""
    with translate_store_errors(pattern):
        filesystem, inside = fsspec.core.url_to_fs(pattern)
        yield filesystem, [info for info in filesystem.glob(inside, detail=True).values() if info["type"] == "file"]


def _check_url(url: str) -> None:
    """Raise `UserError`, which does not show it, for a URL that holds a secret, or is one inside another."""
    try:
        parts = urlsplit(url)
    except ValueError:  # of brackets, which are wildcards
        parts = urlsplit(url.replace("[", "").replace("]", ""))
    signed = "=" in f"{parts.query}{parts.fragment}" or (parts.scheme.startswith("http") and parts.query)
    if "://" in url and ("@" in parts.netloc or signed):  # elsewhere a question mark is a wildcard
        raise UserError("a URL has a name, a password or a signature in it; leave them to the store's environment")
    if "::" in url:
        raise UserError("a URL with :: in it is not read; copy the shards to a disk or a store first")


def _below(name: str, folder: Path) -> str:
    """The path from `folder` to the file of that name. Raises `UserError` where it is no UTF-8."""
    path = os.path.relpath(os.path.realpath(name), os.path.realpath(folder))
    if not path.isprintable():
        raise UserError(f"the name {path!r} has characters that no list can hold; rename the file")
    return path


def _version(info: dict[str, Any]) -> str:
    return str(next((info[name] for name in VERSIONS if info.get(name)), "")).strip('"')
