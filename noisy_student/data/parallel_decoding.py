"""Decodes the images of a listing on all cores, of several ranks on those of all their machines, into one file; memory
does not grow with the number of images.

Of a streamed pool no pixels are kept: its images are decoded to find bad ones and duplicates.

N images, H x W pixels, C channels.
"""

import atexit
import errno
import multiprocessing
import os
import signal
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from noisy_student.core import ranks
from noisy_student.core.ahead import cores
from noisy_student.core.errors import UserError
from noisy_student.core.progress import meter
from noisy_student.data.listing import CHUNK, Listing
from noisy_student.store.decoding import (
    WHITE,
    BadImage,
    Preparation,
    decode,
    formats,
    is_gray,
    to_gray,
    white_of,
)
from noisy_student.store.encoded_images import ImagePlaces
from noisy_student.store.selection import Selection
from noisy_student.store.splits import pixel_hash

COPIES = 2  # of the pixels on the disk: here and in the splits' shards
CHANNELS = 3  # in the file, also for gray images
_setting: list[Any] = []  # of a process that decodes: listing, preparation, file, how many images are kept there
# Of each file; `gray_sha256` is that of one channel, and empty where the three differ.
DECODED = np.dtype([("sha256", "S64"), ("gray_sha256", "S64"), ("size", "i4", 2), ("largest", "i4")])


class DecodedFile:
    """Images in a file as an array uint8 (N,H,W,C); only the rows that are indexed are read."""

    def __init__(self, file: BinaryIO, rows: np.ndarray, size: int, channels: int):
        self.file, self.rows = file, rows  # where in the file each image is
        self.shape, self.dtype = (len(rows), size, size, channels), np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        """The images of a slice or at an array of rows, in that order."""
        rows = self.rows[which]
        pixels = np.empty((len(rows), *self.shape[1:3], CHANNELS), np.uint8)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # of rows that follow one another in the file
        for start, end in pairwise([*starts, len(rows)]):
            _read(self.file.fileno(), pixels[start:end], int(rows[start]) * pixels[0].nbytes)
        return pixels if self.shape[3] == CHANNELS else to_gray(pixels)


@dataclass(frozen=True, eq=False)
class DecodedListing:
    """The decoded files of a listing, and the bad ones."""

    images: Selection  # uint8 (N,H,W,C)
    files: pd.DataFrame  # the listing's rows of the used ones, in the order of `images`
    hashes: np.ndarray  # S64 (N,), sha256 of the pixels
    sizes: np.ndarray  # int32 (N,2), width and height of the files' images
    quarantine: pd.DataFrame  # of the others: path, sha256 of the file ("" for one that could not be read), reason
    white: int | None  # value of white in 16-bit gray files that do not tell it; None where there are none
    image_places: ImagePlaces | None  # where the images are in shards; None where all are copied


def pixel_file(scratch: Path | None) -> BinaryIO:
    """A file for pixels in `scratch` that all ranks write to; it is gone when they have ended."""
    if ranks.world_size() == 1:
        return tempfile.TemporaryFile(dir=scratch)
    name = ranks.from_first(lambda: tempfile.mkstemp(prefix="decoded-", dir=scratch)[1])
    if ranks.is_first():
        atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name).open("r+b")


def decode_listing(listing: Listing, how: Preparation, file: BinaryIO, streamed: bool = False) -> DecodedListing:
    """Decode the files of `listing` into the open `file`. All images are gray when the labeled ones are.

    With `streamed`, the pool of a `ShardListing` stays in its shards. Raises `UserError` when the disk has too little
    room.
    """
    in_pool = (listing.files["split"] == "pool").to_numpy()
    kept = int((~in_pool).sum()) if streamed else len(in_pool)  # the pool comes last
    _check_disk_space(len(listing.files), kept, how, file.fileno())
    found, reasons, white = _decoded(listing, how, file.fileno(), kept)
    if ranks.world_size() > 1:  # a network's folder shows what other machines wrote once a file is opened again
        file = Path(file.name).open("rb")  # noqa: SIM115 closed with the images
    bad = np.isin(np.arange(len(found)), list(reasons))
    columns = {"path": listing.names(np.flatnonzero(bad)), "sha256": found["sha256"][bad].astype(str)}
    unusable = pd.DataFrame(columns | {"reason": list(reasons.values())})
    quarantine = pd.concat([listing.unusable.assign(sha256=""), unusable], ignore_index=True)[list(unusable)]
    # not the pool: new drops must not change `gray`
    gray = bool((found["gray_sha256"][~in_pool & ~bad] != b"").all())
    rows, channels = np.flatnonzero(~bad), 1 if gray else CHANNELS
    arrays: list[Any] = [DecodedFile(file, rows[rows < kept], how.image_size, channels)]
    places = listing.image_places(rows, _with_white(how, white), channels) if streamed else None
    if places:
        arrays += places.by_shard(np.flatnonzero(rows >= kept))
    images = Selection(arrays, np.arange(len(rows)))
    hashes = found["gray_sha256" if gray else "sha256"][~bad]
    for row in np.flatnonzero(hashes == b""):  # color images of the pool: turned to gray
        hashes[row] = pixel_hash(images[row : row + 1])[0]
    return DecodedListing(images, listing.files[~bad], hashes, found["size"][~bad], quarantine, white, places)


def _decoded(listing: Listing, how: Preparation, file: int, kept: int) -> tuple[np.ndarray, dict[int, str], int | None]:
    """An element of DECODED for each file, the reasons of the bad files by row, rising, and the white of 16-bit files.

    The pixels of the first `kept` files are written. 16-bit gray files that do not tell their white are decoded again,
    once the largest value of all is known.
    """
    formats()  # the decoders are loaded once: forked processes share them, the listing and the file
    workers = max(1, cores() // ranks.local_world_size())
    executor = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (listing, how, file, kept))
    found = np.zeros(len(listing.files), DECODED)
    reasons: dict[int, str] = {}
    try:
        every = listing.tasks()
        own = [every[number] for number in ranks.share_of(len(every))]
        with meter("decoding", len(found), ranks.Counter()) as progress:
            for rows, (chunk, bad) in zip(own, executor.map(_decode_task, own), strict=True):
                found[rows.start : rows.stop] = chunk
                reasons |= bad
                progress.advance(len(rows))
        reasons = _exchanged(found, reasons, own, file)
        deep = np.flatnonzero(found["largest"])
        white = how.white or _white(listing, found) if len(deep) else None
        if white not in (None, how.white, WHITE):
            again = [rows for rows in own if found["largest"][rows.start : rows.stop].any()]
            for rows, (chunk, _) in zip(again, executor.map(partial(_decode_task, white=white), again), strict=True):
                found[rows.start : rows.stop] = chunk
            _exchanged(found, {}, again, file)
    except BrokenProcessPool:
        raise UserError("a process that decodes images was killed; free memory, or lower data.max_megapixels") from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # else what they have begun, and the chunks that wait behind it, would be finished
        raise
    finally:
        executor.shutdown(cancel_futures=True)
    return found, reasons, white


def _exchanged(found: np.ndarray, reasons: dict[int, str], own: list[range], file: int) -> dict[int, str]:
    """Put into `found` what the other ranks found; the reasons of all. `own` are the rows of this rank."""
    if ranks.world_size() == 1:
        return reasons
    os.fsync(file)
    rows = np.concatenate([np.arange(0), *(np.arange(each.start, each.stop) for each in own)])
    for theirs, values, bad in ranks.of_all((rows, found[rows], reasons)):
        found[theirs] = values
        reasons = reasons | bad
    return dict(sorted(reasons.items()))


def _with_white(how: Preparation, white: int | None) -> Preparation:
    return how.model_copy(update={"white": white}) if white else how


def _white(listing: Listing, found: np.ndarray) -> int:
    """The white of 16-bit gray files that do not tell it, by the largest value: of labeled files, where there are such,
    so that a new drop in the pool does not change it."""
    largest, in_pool = found["largest"], (listing.files["split"] == "pool").to_numpy()
    return white_of(largest[~in_pool].max(initial=0) or largest.max())


def _begin(*setting: Any) -> None:
    """Set up a decoding process: it ends with its parent, which alone handles Ctrl-C."""
    _setting[:] = setting
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    warnings.simplefilter("ignore")  # Pillow's would break the progress bar; unusable files are listed at the end
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _decode_task(rows: range, white: int | None = None) -> tuple[np.ndarray, dict[int, str]]:
    """Decode the files at `rows`, which follow one another, into their places; as `_decoded`."""
    listing, how, file, kept = _setting
    how = _with_white(how, white)
    contents, found = listing.contents(rows), []
    reasons: dict[int, str] = {}
    for start in range(rows.start, rows.stop, CHUNK):
        chunk, bad = _chunk(range(start, min(start + CHUNK, rows.stop)), contents, how, file if start < kept else None)
        found.append(chunk)
        reasons |= bad
    return np.concatenate(found), reasons


def _chunk(
    rows: range, contents: Iterator[bytes | BadImage], how: Preparation, file: int | None
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode the next of the `contents`, those of the files at `rows`, into their places in the file, if there is one;
    as `_decoded`."""
    pixels = np.zeros((len(rows), how.image_size, how.image_size, CHANNELS), np.uint8)
    found, bad, number = np.zeros(len(rows), DECODED), {}, -1
    for number, content in enumerate(islice(contents, len(rows))):  # one at a time: they may be large
        try:
            if isinstance(content, BadImage):
                raise content
            image = decode(content, how)
            pixels[number] = image.pixels
            found["size"][number], found["largest"][number] = (image.width, image.height), image.largest
        except BadImage as problem:
            bad[number] = str(problem), content if isinstance(content, bytes) else b""
    if number + 1 != len(rows):
        raise RuntimeError(f"{number + 1} files were read where there are {len(rows)}")
    if file is not None:
        _write(file, pixels, rows.start * pixels[0].nbytes)
    gray = is_gray(pixels)
    found["sha256"] = pixel_hash(pixels)
    found["gray_sha256"][gray] = pixel_hash(pixels[gray, ..., :1])
    for number, (_, content) in bad.items():
        found["sha256"][number] = sha256(content).hexdigest() if content else ""
    return found, {rows.start + number: reason for number, (reason, _) in bad.items()}


def _read(file: int, into: np.ndarray, offset: int) -> None:
    """Fill the contiguous array; the system reads and writes at most 2 GiB at once."""
    left = into.data.cast("B")
    while left:
        count = os.preadv(file, [left], offset)
        if not count:
            raise OSError(errno.EIO, "the decoded images are cut off")
        left, offset = left[count:], offset + count


def _write(file: int, pixels: np.ndarray, offset: int) -> None:
    left = pixels.data.cast("B")
    while left:
        count = os.pwritev(file, [left], offset)
        left, offset = left[count:], offset + count


def _check_disk_space(images: int, kept: int, how: Preparation, file: int) -> None:
    wanted = COPIES * kept * how.image_size**2 * CHANNELS
    found = os.fstatvfs(file)
    free = found.f_bavail * found.f_frsize
    print(
        f"{images:,} files, of which {kept:,} are copied; they take up to {wanted / 1e9:.2f} GB on the disk, and "
        f"{free / 1e9:.1f} GB are free",
        flush=True,
    )
    if wanted > free:
        raise UserError(
            f"the images take {wanted / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; lower data.image_size, or for "
            "images in shards set data.streamed_pool to true"
        )
