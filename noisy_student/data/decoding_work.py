"""What a decoding has done so far. After an interruption or an error, the next one goes on from there.

    work/locks/decoded-<fingerprint>          held by the run that decodes; of several ranks, by the first
    work/decoded-<fingerprint>/<part>.pixels  images that one process decoded, each at the place of its row
    work/decoded-<fingerprint>/<part>-N.npz   tasks whose pixels are there, and what else was found in their files

The fingerprint is that of the list of files, the preparation, the code and the decoders. A file that changed since is
decoded again.

N images of a listing, n of a task or a part, H x W pixels, C channels.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock

from noisy_student.core import ranks
from noisy_student.core.files import digest, writing
from noisy_student.core.imports import import_closure
from noisy_student.core.progress import meter
from noisy_student.core.provenance import ROOT
from noisy_student.core.workspace import checkpoint_seconds, take_lock
from noisy_student.data.decoded_files import CHANNELS, DecodedFile
from noisy_student.data.listing import CHUNK, Listing
from noisy_student.store.decoding import Preparation, decoders
from noisy_student.store.splits import pixel_hash

# Of each file; `gray_sha256` is that of one channel, and empty where the three differ.
DECODED = np.dtype([("sha256", "S64"), ("gray_sha256", "S64"), ("size", "i4", 2), ("largest", "i4")])
PREFIX = "decoded-"
LOCK_SECONDS = 2.0  # until the decoding processes of a killed run have ended, too


class Done(NamedTuple):
    """A task that is done."""

    rows: range
    found: np.ndarray  # DECODED (n,)
    reasons: dict[int, str]  # of the bad files, by row
    versions: np.ndarray  # of the files before they were read, as of `Listing.versions`


@dataclass(frozen=True, eq=False)
class Part:
    """What one process decoded."""

    file: Path  # of pixels: each image has the place of its row, whoever decoded it
    rows: np.ndarray  # int64 (n,), rising
    found: np.ndarray  # DECODED (n,)
    reasons: dict[int, str]  # of the bad files, by row


class DecodingWork:
    """The folder of a decoding, which no other run uses."""

    def __init__(self, parent: Path):
        self.parent, self.folder = parent, Path()
        self.lock: FileLock | None = None  # of this process

    def begin(self, listing: Listing, how: Preparation, kept: int, together: bool) -> list[Part]:
        """Take the folder for the `listing`, or a new one if another run has it; with `together`, for all ranks.

        Returns what interrupted runs have done, without files that changed since and damaged pixels of the first `kept`
        images. With `together`, ranks but the first get none.
        """
        name = f"{PREFIX}{fingerprint(listing, how, kept)}"
        self.folder = ranks.from_first(lambda: self._own_folder(name)) if together else self._own_folder(name)
        return self._earlier(listing, how, kept) if ranks.is_first() or not together else []

    def _earlier(self, listing: Listing, how: Preparation, kept: int) -> list[Part]:
        known: set[int] = set()  # first rows of tasks
        parts = []
        for file in sorted(self.folder.glob("*.pixels")):
            records = sorted(self.folder.glob(f"{file.stem}-*.npz"))
            sound = _sound([done for record in records for done in _read(record)], file, listing, how, kept)
            new = [done for done in sound if done.rows.start not in known]
            if new:
                known |= {done.rows.start for done in new}
                parts.append(_part(file, new))
            else:
                for useless in (*records, file):
                    useless.unlink()
        return parts

    def remove(self) -> None:
        """Remove the folder."""
        if self.lock:
            shutil.rmtree(self.folder, ignore_errors=True)

    def unlock(self) -> None:
        """Let another run have the folder; it is removed if nothing is done there."""
        if self.lock:
            if not any(self.folder.glob("*.npz")):
                self.remove()
            self.lock.release()

    def _own_folder(self, name: str) -> Path:
        own = name
        self.lock = take_lock(self.parent, own, LOCK_SECONDS)
        if not self.lock:
            own = f"{name}-{uuid.uuid4().hex[:8]}"
            self.lock = take_lock(self.parent, own, LOCK_SECONDS)
        self._remove_others(own)
        (self.parent / own).mkdir(parents=True, exist_ok=True)
        return self.parent / own

    def _remove_others(self, own: str) -> None:
        """Remove what interrupted decodings left in other folders than the `own`, for it may be large."""
        for folder in self.parent.glob(f"{PREFIX}*"):
            if folder.name == own:
                continue
            if lock := take_lock(self.parent, folder.name, seconds=0):  # else its run goes on
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


@contextmanager
def decoding_work(scratch: Path | None) -> Iterator[DecodingWork]:
    """Yield the work of a decoding in `scratch`, or where temporary files are; it is removed if the block succeeds."""
    with nullcontext(scratch) if scratch else tempfile.TemporaryDirectory() as parent:
        work = DecodingWork(Path(parent))
        try:
            yield work
            work.remove()
        finally:
            work.unlock()


class NewPart:
    """Records, every `checkpoint_seconds`, which tasks are done in a new file of pixels in `folder`.

    Raises `UserError` where the environment has no number of seconds.
    """

    def __init__(self, folder: Path):
        self.path = folder / f"{uuid.uuid4().hex[:8]}.pixels"
        self.file = self.path.open("w+b")
        self.waiting: list[Done] = []
        self.records, self.saved, self.seconds = 0, time.monotonic(), checkpoint_seconds()

    def __enter__(self) -> "NewPart":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def add(self, done: Done) -> None:
        """Note a task whose pixels are in the file."""
        changes = done.found["largest"].any()  # once the white of all 16-bit files is known
        was_read = (done.found["sha256"] != b"").all()  # a file that could not be read may be readable next time
        if was_read and not changes:
            self.waiting.append(done)
        if time.monotonic() - self.saved > self.seconds:
            self.save()

    def save(self) -> None:
        """Record what was noted, once its pixels are on the disk."""
        os.fsync(self.file.fileno())
        if self.waiting:
            _write(self.path.with_name(f"{self.path.stem}-{self.records:05}.npz"), self.waiting)
        self.waiting, self.records, self.saved = [], self.records + 1, time.monotonic()


def fingerprint(listing: Listing, how: Preparation, kept: int) -> str:
    """16 hex digits that stand for what decides the pixels and their places, but for the files' versions."""
    code = [digest(file) for file in import_closure(Path(__file__).with_name("parallel_decoding.py"), ROOT)]
    preparation = {name: getattr(how, name) for name in Preparation.model_fields}  # `how` may have more
    decides = [listing.digest(), preparation, kept, decoders(), code]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _part(file: Path, tasks: list[Done]) -> Part:
    """The part in `file` with these `tasks`, in the order of their rows."""
    rows = np.concatenate([np.arange(each.rows.start, each.rows.stop) for each in tasks])
    found = np.concatenate([each.found for each in tasks])
    return Part(file, rows, found, {row: reason for each in tasks for row, reason in each.reasons.items()})


def _sound(tasks: list[Done], file: Path, listing: Listing, how: Preparation, kept: int) -> list[Done]:
    """Those of the `tasks`, by their rows, whose files are as they were, and whose pixels in `file` are whole."""
    total = sum(len(done.rows) for done in tasks)
    with file.open("rb") as opened, meter("checking", total) as progress:
        pixels = DecodedFile(opened, np.arange(kept), how.image_size, CHANNELS)
        sound = []
        for done in sorted(tasks, key=lambda done: done.rows.start):
            if np.array_equal(listing.versions(done.rows), done.versions) and _is_whole(done, pixels):
                sound.append(done)
            progress.advance(len(done.rows))
    return sound


def _is_whole(done: Done, pixels: DecodedFile) -> bool:
    """Whether `pixels` (N,H,W,C) has the images of a task, of which some at a time are read."""
    rows = np.array([row for row in done.rows if row not in done.reasons and row < len(pixels)], np.int64)
    hashes = done.found["sha256"][rows - done.rows.start].astype(str).tolist()
    try:
        parts = [pixel_hash(pixels[rows[start : start + CHUNK]]) for start in range(0, len(rows), CHUNK)]
    except OSError:  # the file is cut off
        return False
    return list(chain(*parts)) == hashes


def _write(path: Path, tasks: list[Done]) -> None:
    bad = {row: reason for each in tasks for row, reason in each.reasons.items()}
    with writing(path) as file:
        np.savez(
            file,
            ranges=np.array([(each.rows.start, each.rows.stop) for each in tasks]),
            found=np.concatenate([each.found for each in tasks]),
            versions=np.concatenate([each.versions for each in tasks]),
            bad=np.array(list(bad), np.int64),
            reasons=np.array(list(bad.values()), np.str_),
        )


def _read(path: Path) -> list[Done]:
    """The tasks of a record; none where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as record:
            ranges, found, versions, bad, reasons = (
                record[name] for name in ("ranges", "found", "versions", "bad", "reasons")
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return []
    every, ends = dict(zip(bad.tolist(), reasons.tolist(), strict=True)), np.cumsum(ranges[:, 1] - ranges[:, 0])
    tasks = []
    for (start, stop), end in zip(ranges.tolist(), ends.tolist(), strict=True):
        of_task = {row: every[row] for row in range(start, stop) if row in every}
        here = slice(end - (stop - start), end)
        tasks.append(Done(range(start, stop), found[here], of_task, versions[here]))
    return tasks
