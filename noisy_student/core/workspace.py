"""Work in progress of a stage, kept outside its outputs, because DVC removes outputs before it runs the stage.

    work/locks/<name>          locked by the one process that does this work; contains its id
    work/<name>/part/          files of the result so far, each whole
    work/<name>/hashes/        sha256 of each file in part/ that another run can reuse
    work/<name>/checkpoints/   of a training run
    work/<name>/result/        the finished result, kept until `make clean-work`
    work/<name>/hashes.json    sha256 of each of its files

A name is the stage's name with the fingerprint of everything that decides its result. Another input has another name,
so that no run resumes stale work.
"""

import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from noisy_student.core import ranks
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError
from noisy_student.core.files import digest, flush_folder, read_json, replacing, write_array, write_bytes, write_json
from noisy_student.core.provenance import Provenance, check_unchanged, check_untouched, provenance

CHECKPOINT_SECONDS = "NOISY_STUDENT_CHECKPOINT_SECONDS"  # environment variable


def checkpoint_seconds() -> float:
    """Seconds between two records of the work in progress. Raises `UserError` where the environment has no number."""
    wanted = os.environ.get(CHECKPOINT_SECONDS, "10")
    try:
        seconds = float(wanted)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UserError(f"the environment variable {CHECKPOINT_SECONDS} was {wanted!r}; it must be a number of seconds")
    return seconds


def work_folder() -> Path:
    """The folder of work in progress. It is in the project even when DVC runs an experiment in another folder."""
    return Path(os.environ.get("DVC_ROOT", ".")) / "work"


def holder_runs(name: str) -> bool:
    """Whether a process of this machine does the work of that name."""
    lock = work_folder() / "locks" / name
    holder = re.fullmatch(r"process (\d+) on (.+)", lock.read_text() if lock.exists() else "")
    return holder is not None and holder[2] == socket.gethostname() and process_runs(int(holder[1]))


def process_runs(process: int) -> bool:
    """Whether the process with that id runs on this machine."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


class Work:
    """A result in the making; no other process writes to it, but the ranks of this run."""

    def __init__(self, folder: Path):
        self.folder, self.part, self.result = folder, folder / "part", folder / "result"
        self.checkpoints, self.hashes = folder / "checkpoints", folder / "hashes"
        self.finished = ranks.from_first(lambda: self.result.exists() and self._take_over_or_delete())
        if not self.finished:
            self.part.mkdir(parents=True, exist_ok=True)

    def has(self, name: str) -> bool:
        """Whether an earlier run made the file `name` of the result and it is undamaged."""
        file = self.part / name
        known = self.hashes / name
        return file.exists() and known.exists() and known.read_bytes() == digest(file).encode()

    def add(self, name: str, array: np.ndarray) -> None:
        """Make `array` the file `name` of the result."""
        write_bytes(self.hashes / name, write_array(self.part / name, array).encode())

    def finish(self) -> None:
        """Turn `part` into the result and remove checkpoints and hashes."""
        for half in self.part.rglob("*.tmp"):
            half.unlink()
        write_json(self.folder / "hashes.json", _hashes(self.part))
        self.part.rename(self.result)
        flush_folder(self.folder)
        for way in (self.checkpoints, self.hashes):
            shutil.rmtree(way, ignore_errors=True)
        self.finished = True

    def publish(self, out: Path) -> None:
        """Copy the result to the folder `out`. Raises `UserError` if that would overwrite something else."""
        files = [file.relative_to(self.result) for file in self.result.rglob("*") if file.is_file()]
        foreign = sorted({each.name for each in out.glob("*")} - {file.parts[0] for file in files})
        if foreign or not out.name or out.is_file():
            what = f"holds {foreign[0]}, which this stage did not make" if foreign else "is no folder for a result"
            raise UserError(f"{out} {what}; name another folder")
        with replacing(out) as temporary:
            for file in files:
                (temporary / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.result / file, temporary / file)

    def _take_over_or_delete(self) -> bool:
        """Say whether the result there is taken over, and delete a damaged one. Returns whether it is taken over."""
        if _hashes(self.result) == _recorded(self.folder / "hashes.json"):
            print(f"taking over the finished result in {self.result}; `make clean-work` removes it", flush=True)
            return True
        print(f"the result in {self.result} is damaged; making it again", flush=True)
        shutil.rmtree(self.result)
        return False


@contextmanager
def work(
    out: Path, file: str, params: ParamsFile | None, inputs: Mapping[str, Path | None], machine: dict[str, Any]
) -> Iterator[Work]:
    """Yield the work of the stage in `file`. The block makes what is missing; afterwards `out` holds the result.

    Waits for another process that does the same work. Raises `UserError` when the provenance changed meanwhile.
    """
    with _alone(file, params, inputs, machine) as (made_from, name):
        folder = ranks.from_first(lambda: work_folder() / name)
        if folder.name != name:
            raise UserError(
                f"{made_from.stage} differs between the ranks in code, parameters, inputs or machine; all need the same"
            )
        job = Work(folder)
        yield job
        ranks.wait_for_all()
        if ranks.is_first():
            if not job.finished:
                check_unchanged(made_from, params)
                job.finish()
            job.publish(out)
            check_unchanged(made_from, params)


@contextmanager
def guarded(
    file: str, params: ParamsFile | None, inputs: Mapping[str, Path | None], watched: Path | None = None
) -> Iterator[None]:
    """Like `work`, for a quick stage: the block writes the outputs itself, and no work in progress is kept.

    `watched` is an input with too many files to hash; only their times of change are checked.
    """
    began = time.time()
    with _alone(file, params, inputs, {}) as (made_from, _):
        yield
        check_unchanged(made_from, params)
        check_untouched(watched, began, made_from.stage)


def take_lock(folder: Path, name: str, seconds: float) -> FileLock | None:
    """The lock of the work of that name in the `folder` of work in progress; None if another process holds it still
    after so many `seconds` (-1: wait for it)."""
    path = folder / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=seconds, poll_interval=0.5 if seconds < 0 else 0.05)
    except Timeout:
        return None
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
    return lock


@contextmanager
def _alone(
    file: str, params: ParamsFile | None, inputs: Mapping[str, Path | None], machine: dict[str, Any]
) -> Iterator[tuple[Provenance, str]]:
    made_from = provenance(file, params, inputs, machine)
    name = f"{made_from.stage}-{made_from.fingerprint}"
    if not ranks.is_first():  # which holds the lock for all
        yield made_from, name
        return
    lock = take_lock(work_folder(), name, seconds=0)
    if not lock:
        holder = (work_folder() / "locks" / name).read_text() or "another process"
        print(f"{made_from.stage}: {holder} does the same work; waiting", flush=True)
        lock = take_lock(work_folder(), name, seconds=-1)
    try:
        check_unchanged(made_from, params)  # what it is made from may have changed while this process waited
        yield made_from, name
    finally:
        if lock:
            lock.release()


def _recorded(file: Path) -> dict[str, str]:
    """The hashes in `file`, or none where it is missing or damaged."""
    try:
        found = read_json(file)
    except UserError:
        return {}
    return found if isinstance(found, dict) else {}


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): digest(file) for file in files}
