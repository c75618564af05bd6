"""What a decoding has done so far. After an interruption or an error, the next one goes on from there.

    work/locks/decoded-<fingerprint>          held by the run that decodes, and for all ranks by the first
    work/decoded-<fingerprint>/<part>.pixels  images that one process decoded, each at the place of its row
    work/decoded-<fingerprint>/<part>-N.npz   tasks whose pixels are there, and what else was found in their files

The fingerprint is that of the list of files, the preparation and the code. A file that changed since is decoded again.
N images of a listing, n of them in a part.
"""

import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from noisy_student.core import ranks
from noisy_student.core.files import digest, writing
from noisy_student.core.imports import import_closure
from noisy_student.core.provenance import ROOT
from noisy_student.core.workspace import checkpoint_seconds
from noisy_student.data.decoded_files import CHANNELS, DecodedFile
from noisy_student.data.listing import Listing
from noisy_student.store.decoding import Preparation
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

    def begin(self, listing: Listing, how: Preparation, kept: int, together: bool) -> None:
        """Take the folder for the `listing`, or a new one if another run has it; with `together`, for all ranks."""
        name = f"{PREFIX}{fingerprint(listing, how, kept)}"
        self.folder = ranks.from_first(lambda: self._taken(name)) if together else self._taken(name)

    def earlier(self, listing: Listing, how: Preparation, kept: int) -> list[Part]:
        """What interrupted runs have done, but for files that changed since and damaged pixels of the `kept` ones."""
        taken: set[int] = set()
        parts = []
        for file in sorted(self.folder.glob("*.pixels")):
            records = [done for path in sorted(self.folder.glob(f"{file.stem}-*.npz")) for done in _read(path)]
            with file.open("rb") as opened:
                pixels = DecodedFile(opened, np.arange(kept), how.image_size, CHANNELS)
                sound = [each for each in records if each.rows.start not in taken and _is_sound(each, listing, pixels)]
            if sound:
                taken |= {each.rows.start for each in sound}
                parts.append(_part(file, sorted(sound, key=lambda each: each.rows.start)))
        return parts

    def remove(self) -> None:
        """Remove the folder."""
        if self.lock:
            shutil.rmtree(self.folder, ignore_errors=True)

    def release(self) -> None:
        """Let another run have the folder; it is removed if nothing is done there."""
        if self.lock:
            if not any(self.folder.glob("*.npz")):
                self.remove()
            self.lock.release()

    def _taken(self, name: str) -> Path:
        if not self._has_locked(name):
            name = f"{name}-{uuid.uuid4().hex[:8]}"
            self._has_locked(name)
        self._remove_others(name)
        (self.parent / name).mkdir(parents=True, exist_ok=True)
        return self.parent / name

    def _has_locked(self, name: str) -> bool:
        path = self.parent / "locks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=LOCK_SECONDS)
        except Timeout:
            return False
        path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        self.lock = lock
        return True

    def _remove_others(self, name: str) -> None:
        """Remove what interrupted decodings of other files left, for it may be large."""
        for folder in self.parent.glob(f"{PREFIX}*"):
            try:
                if folder.name != name:
                    with FileLock(self.parent / "locks" / folder.name, timeout=0):
                        shutil.rmtree(folder)
            except Timeout:
                pass  # its run goes on


@contextmanager
def decoding_work(scratch: Path | None) -> Iterator[DecodingWork]:
    """Yield the work of a decoding in `scratch`, or where temporary files are; it is removed if the block succeeds."""
    with tempfile.TemporaryDirectory() as temporary:
        work = DecodingWork(scratch or Path(temporary))
        try:
            yield work
            work.remove()
        finally:
            work.release()


class NewPart:
    """Records, every `checkpoint_seconds`, which tasks are done in a new file of pixels."""

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
        if not done.found["largest"].any():  # its pixels change once the white of all files is known
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
    decides = [listing.digest(), preparation, kept, version("pillow"), code]
    return hashlib.sha256(json.dumps(decides).encode()).hexdigest()[:16]


def _part(file: Path, tasks: list[Done]) -> Part:
    """The part in `file` with these `tasks`, in the order of their rows."""
    rows = np.concatenate([np.arange(each.rows.start, each.rows.stop) for each in tasks])
    found = np.concatenate([each.found for each in tasks])
    return Part(file, rows, found, {row: reason for each in tasks for row, reason in each.reasons.items()})


def _is_sound(done: Done, listing: Listing, pixels: DecodedFile) -> bool:
    """Whether the files are those that were decoded, and `pixels` (N,H,W,C) has their images."""
    if not np.array_equal(listing.versions(done.rows), done.versions):
        return False
    rows = [row for row in done.rows if row not in done.reasons and row < len(pixels)]
    hashes = done.found["sha256"][np.array(rows, np.int64) - done.rows.start]
    try:
        return pixel_hash(pixels[np.array(rows, np.int64)]) == hashes.astype(str).tolist()
    except OSError:  # the file is cut off
        return False


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
