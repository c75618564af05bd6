"""Provenance of a result: its code, parameters, inputs and machine, as one fingerprint; and whether they changed."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, digest
from noisy_student.core.imports import import_closure
from noisy_student.core.signals import STARTED

ROOT = Path(__file__).parents[2]
SHARDS = "images-*.npy"  # of a split, whose split.json has their hashes


@dataclass(frozen=True)
class Provenance:
    """What decides the bytes of a result."""

    stage: str
    code: dict[str, str]  # sha256 of each file, by its path in the project
    params: dict[str, Any]  # sections of params.yaml, by name
    inputs: dict[str, str]  # what is in each (see `_manifest`), by role
    machine: dict[str, Any]
    paths: dict[str, Path]  # of the inputs, by role
    mtimes: dict[str, int]  # when each input was last written to, in ns; not part of the fingerprint

    @property
    def fingerprint(self) -> str:
        """16 hex digits that stand for everything that decides the result."""
        decides = [self.stage, self.code, self.params, self.inputs, self.machine]
        return _hash(json.dumps(decides, sort_keys=True, default=str).encode())[:16]


def provenance(
    file: str, params: ParamsFile | None, inputs: Mapping[str, Path | None], machine: dict[str, Any] | None = None
) -> Provenance:
    """The current provenance of the stage in `file`.

    It includes the sections of `params` that were read so far. `inputs` are the files and folders that the stage reads,
    by role; None for one that was not given. Raises `UserError` for a missing input, and for code that was written
    after this process started.
    """
    code = import_closure(Path(file).resolve(), ROOT)
    for path in code:
        if (written := path.stat().st_mtime) > time.time():
            raise UserError(f"{path.relative_to(ROOT)} is dated in the future; set the clock, or `touch` the file")
        if written > STARTED:
            raise _change_error(path.relative_to(ROOT), Path(file).stem)
    paths = {role: path for role, path in inputs.items() if path}
    if params:
        params.frozen = True
    return Provenance(
        stage=Path(file).stem,
        code={str(path.relative_to(ROOT)): digest(path) for path in code},
        params=dict(params.read) if params else {},
        inputs={role: _manifest(path) for role, path in paths.items()},
        machine=machine or {},
        paths=paths,
        mtimes={role: _written(path) for role, path in paths.items()},
    )


def check_unchanged(before: Provenance, params: ParamsFile | None) -> None:
    """Raise `UserError` naming the first part of the provenance that changed since `before`.

    DVC hashes code, parameters and inputs only after a stage ends. It would record the new versions with the old
    result.
    """
    file, path = params.path if params else Path(), before.paths.__getitem__
    for was, now, shown in (
        (before.code, lambda name: digest(ROOT / name), str),
        (before.params, lambda name: ParamsFile(file).section(name, Any), lambda name: f"{name} of {file}"),
        (before.inputs, lambda role: _manifest(path(role)), path),
        (before.mtimes, lambda role: _written(path(role)), path),
    ):
        for name, value in was.items():
            if _or_gone(now, name) != value:
                raise _change_error(shown(name), before.stage)


def check_untouched(watched: Path | None, moment: float, stage: str) -> None:
    """Raise `UserError` naming the first file or folder at `watched` that changed after that moment, in s since
    1970."""
    for path in _below(watched) if watched else ():
        if _changed_at(path) > moment:
            raise _change_error(path, stage)


def _below(path: Path) -> Iterator[str]:
    """`path` and everything below it, as text, for there may be a million files; links are not followed."""
    yield str(path)
    for folder, folders, names in os.walk(path):
        yield from (f"{folder}/{name}" for name in (*folders, *names))


def _changed_at(path: str) -> float:
    """When `path` last changed, in s since 1970; infinity for a path that is gone."""
    try:
        return os.lstat(path).st_ctime
    except OSError:
        return math.inf


def _manifest(path: Path) -> str:
    """A hash of names, sizes and contents of the files at `path`; not of the contents of shards, see `SHARDS`."""
    lines = [
        f"{file.relative_to(path)} {file.stat().st_size} {'' if file.match(SHARDS) else digest(file)}"
        for file in _files(path)
    ]
    return _hash("\n".join(lines).encode())


def _written(path: Path) -> int:
    return max((file.stat().st_mtime_ns for file in _files(path)), default=0)


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise UserError(f"{path} is not there; {REMEDY}")
    return sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]


def _or_gone(now: Callable[[str], Any], name: str) -> Any:
    """`now(name)`, or "gone" where it cannot be read."""
    try:
        return now(name)
    except (OSError, UserError):
        return "gone"


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _change_error(what: Path | str, stage: str) -> UserError:
    return UserError(f"{what} changed while {stage} ran, so the result fits neither version; run again")
