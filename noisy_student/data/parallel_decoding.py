"""Decodes the images of a listing on all cores into a file. Memory does not grow with the pixels.

Several ranks decode together: each has a file of its own, and the first one joins what they found. Of a streamed pool
no pixels are kept: its images are decoded to find bad ones and duplicates.

N images, H x W pixels, C channels.
"""

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core import ranks
from noisy_student.core.errors import UserError
from noisy_student.core.progress import Meter, meter
from noisy_student.data.decoded_files import CHANNELS, DecodedFile, check_disk_space, write_pixels
from noisy_student.data.decoding_work import DECODED, DecodingWork, Done, NewPart, Part, decoding_work
from noisy_student.data.listing import CHUNK, Listing
from noisy_student.store.decoding import (
    WHITE,
    BadImage,
    Preparation,
    decode,
    formats,
    is_gray,
    white_of,
)
from noisy_student.store.encoded_images import ImagePlaces
from noisy_student.store.selection import Selection
from noisy_student.store.splits import pixel_hash

_setting: list[Any] = []  # of a process that decodes: listing, preparation, file, how many images are kept there


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


def decode_listing(listing: Listing, how: Preparation, scratch: Path | None) -> DecodedListing:
    """Decode the files of `listing` into a file in `scratch`. All images are gray when the labeled ones are.

    Raises `UserError` when the disk has too little room.
    """
    with decoding_work(scratch) as work:
        return _joined(listing, how, False, *_decoded(listing, how, work, streamed=False, together=False))


def decode_together(listing: Listing, how: Preparation, work: DecodingWork, streamed: bool) -> DecodedListing | None:
    """Like `decode_listing`, by all ranks, of which each decodes its share; None in all ranks but the first.

    With `streamed`, the pool of a `ShardListing` stays in its shards. The `work` must not be removed before this
    returns.
    """
    parts, white = _decoded(listing, how, work, streamed, together=True)
    return _joined(listing, how, streamed, parts, white) if ranks.is_first() else None


def _kept(listing: Listing, streamed: bool) -> int:
    """Of how many images, the first ones, the pixels are kept: those of the pool come last."""
    return int((~_in_pool(listing)).sum()) if streamed else len(listing.files)


def _in_pool(listing: Listing) -> np.ndarray:
    return (listing.files["split"] == "pool").to_numpy()


def _joined(listing: Listing, how: Preparation, streamed: bool, parts: list[Part], white: int | None) -> DecodedListing:
    """The `parts` of all who decoded, in the order of the listing."""
    kept = _kept(listing, streamed)
    alone = len(parts) == 1  # then nothing is copied: there may be very many
    found = parts[0].found if alone else np.zeros(len(listing.files), DECODED)
    of_part = np.zeros(len(listing.files), np.uint16)
    for number, part in enumerate(parts if not alone else []):
        found[part.rows], of_part[part.rows] = part.found, number
    reasons = dict(sorted(chain(*(part.reasons.items() for part in parts))))
    bad, in_pool = np.isin(np.arange(len(found)), list(reasons)), _in_pool(listing)
    # not the pool: new drops must not change `gray`
    gray = bool((found["gray_sha256"][~in_pool & ~bad] != b"").all())
    rows, channels = np.flatnonzero(~bad), 1 if gray else CHANNELS
    copied = [rows[(rows < kept) & (of_part[rows] == number)] for number in range(len(parts))]
    arrays: list[Any] = [
        DecodedFile(part.file.open("rb"), each, how.image_size, channels)
        for part, each in zip(parts, copied, strict=True)
    ]
    places = listing.image_places(rows, _with_white(how, white), channels) if streamed else None
    if places:
        arrays += places.by_shard(np.flatnonzero(rows >= kept))
    images = Selection(arrays, np.argsort(np.concatenate([*copied, rows[rows >= kept]]), kind="stable"))
    hashes = found["gray_sha256" if gray else "sha256"][~bad]
    for row in np.flatnonzero(hashes == b""):  # color images of the pool: turned to gray
        hashes[row] = pixel_hash(images[row : row + 1])[0]
    quarantine = _quarantine(listing, found["sha256"][bad], reasons)
    return DecodedListing(images, listing.files[~bad], hashes, found["size"][~bad], quarantine, white, places)


def _quarantine(listing: Listing, hashes: np.ndarray, reasons: dict[int, str]) -> pd.DataFrame:
    """The unusable files of the listing, and the bad ones with the `hashes` of their bytes."""
    columns = {"path": listing.names(np.array(list(reasons), np.int64)), "sha256": hashes.astype(str)}
    bad = pd.DataFrame(columns | {"reason": list(reasons.values())})
    return pd.concat([listing.unusable.assign(sha256=""), bad], ignore_index=True)[list(bad)]


def _decoded(
    listing: Listing, how: Preparation, work: DecodingWork, streamed: bool, together: bool
) -> tuple[list[Part], int | None]:
    """Decode what is missing of `listing`, with `together` this rank's share of it.

    Returns the parts of earlier runs and of all ranks, with `together` in the first rank alone; and the white of 16-bit
    gray files that do not tell it. Raises `UserError` where the disk has too little room.
    """
    kept = _kept(listing, streamed)
    earlier = work.begin(listing, how, kept, together)
    there = sum(int((part.rows < kept).sum()) for part in earlier)
    if ranks.is_first() or not together:  # the others do not know what is there
        check_disk_space(len(listing.files), kept, there, how, work.folder)
    missing = _missing(listing.tasks(), earlier)
    if together:
        missing = ranks.from_first(lambda: missing)
    own = [missing[number] for number in ranks.share_of(len(missing))] if together else missing
    counter = ranks.Counter() if together else None
    with NewPart(work.folder) as new, meter("decoding", len(listing.files), counter) as progress:
        if before := sum(len(part.rows) for part in earlier):
            progress.resume(before, f"going on after {before:,} files")
        part, white = _decoded_part(listing, how, own, kept, new, progress, together)
    return [*earlier, *(ranks.to_first(part) if together else [part])], white


def _missing(tasks: list[range], parts: list[Part]) -> list[range]:
    """Those of the `tasks` that no part has."""
    done = np.concatenate([np.arange(0), *(part.rows for part in parts)])
    missing = ~np.isin([task.start for task in tasks], done)
    return [tasks[number] for number in np.flatnonzero(missing)]


def _decoded_part(
    listing: Listing, how: Preparation, own: list[range], kept: int, new: NewPart, progress: Meter, together: bool
) -> tuple[Part, int | None]:
    """What this process decodes, and the white as of `_decoded`.

    16-bit gray files that do not tell their white are decoded again, once the largest value of all is known.
    """
    found = np.zeros(len(listing.files), DECODED)  # of other processes' files nothing
    reasons: dict[int, str] = {}
    with _decoders(listing, how, new.file.fileno(), kept) as executor:
        for done in executor.map(_decode_task, own):
            found[done.rows.start : done.rows.stop] = done.found
            reasons |= done.reasons
            new.add(done)
            progress.advance(len(done.rows))
        white = _white(listing, found, how, together)
        if white not in (None, how.white, WHITE):
            again = [rows for rows in own if found["largest"][rows.start : rows.stop].any()]
            for done in executor.map(partial(_decode_task, white=white), again):
                found[done.rows.start : done.rows.stop] = done.found
    new.save()
    rows = np.concatenate([np.arange(0), *(np.arange(each.start, each.stop) for each in own)])
    return Part(new.path, rows, found[rows] if len(rows) < len(found) else found, reasons), white


@contextmanager
def _decoders(listing: Listing, how: Preparation, file: int, kept: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that decode the tasks of `listing`, and write the pixels of the first `kept` files to the `file`."""
    formats()  # the decoders are loaded once: forked processes share them, the listing and the file
    context = multiprocessing.get_context("fork")
    executor = ProcessPoolExecutor(ranks.own_cores(), context, _begin, (listing, how, file, kept))
    try:
        yield executor
    except BrokenProcessPool:
        raise UserError("a process that decodes images was killed; free memory, or lower data.max_megapixels") from None
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()  # else what they have begun, and the chunks that wait behind it, would be finished
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def _with_white(how: Preparation, white: int | None) -> Preparation:
    return how.model_copy(update={"white": white}) if white else how


def _white(listing: Listing, found: np.ndarray, how: Preparation, together: bool) -> int | None:
    """The white of 16-bit gray files that do not tell it, by the largest value: of labeled files, where there are such,
    so that a new drop in the pool does not change it. None where there are no such files."""
    own = found["largest"][~_in_pool(listing)].max(initial=0), found["largest"].max(initial=0)
    labeled, any_file = np.max(ranks.of_all(own) if together else [own], axis=0)
    return (how.white or white_of(labeled or any_file)) if any_file else None


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


def _decode_task(rows: range, white: int | None = None) -> Done:
    """Decode the files at `rows`, which follow one another, into their places."""
    listing, how, file, kept = _setting
    how, versions = _with_white(how, white), listing.versions(rows)
    contents, found = listing.contents(rows), []
    reasons: dict[int, str] = {}
    for start in range(rows.start, rows.stop, CHUNK):
        chunk, bad = _chunk(range(start, min(start + CHUNK, rows.stop)), contents, how, file if start < kept else None)
        found.append(chunk)
        reasons |= bad
    return Done(rows, np.concatenate(found), reasons, versions)


def _chunk(
    rows: range, contents: Iterator[bytes | BadImage], how: Preparation, file: int | None
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode the next of the `contents`, those of the files at `rows`, into their places in the file, if there is one;
    what was found, DECODED (n,), and why files are bad."""
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
        write_pixels(file, pixels, rows.start * pixels[0].nbytes)
    gray = is_gray(pixels)
    found["sha256"] = pixel_hash(pixels)
    found["gray_sha256"][gray] = pixel_hash(pixels[gray, ..., :1])
    for number, (_, content) in bad.items():
        found["sha256"][number] = sha256(content).hexdigest() if content else ""
    return found, {rows.start + number: reason for number, (reason, _) in bad.items()}
