"""Machines that run a stage together: the first one announces what it runs, and the others follow it.

    work/nodes.json    the stage that the first machine runs, touched all the time; not there while it runs none

All machines share the project's folder.
"""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from typing import NamedTuple

from noisy_student.core.errors import UserError
from noisy_student.core.files import read_json, write_json
from noisy_student.core.workspace import work_folder

TOKEN = "NOISY_STUDENT_START"  # noqa: S105  environment variable of a stage that follows: the token of its start
FILE = "nodes.json"  # in the folder of work
POLL_SECONDS = 0.5  # between two looks at what the first machine runs
BEAT_SECONDS = 2  # between two signs that the first machine still runs a stage
ENDING_SECONDS = 30  # that a stage has to end in, after that of the first machine, or after a signal


class Start(NamedTuple):
    """A stage that the first machine has started."""

    token: str  # another one for each start; where machines with the same token meet
    folder: str  # that it runs in
    command: list[str]  # for Python


@contextmanager
def announced(command: list[str]) -> Iterator[str]:
    """Within the block, machines that `follow` run the `command`, too. Yields the token of this start.

    On a machine that follows, it announces nothing and yields the token of the first one.
    """
    if token := os.environ.get(TOKEN):
        yield token
        return
    start = Start(uuid.uuid4().hex, str(Path.cwd()), command)
    write_json(_file(), start._asdict())
    over = Event()
    Thread(target=_beat, args=(over,), daemon=True).start()
    try:
        yield start.token
    finally:
        over.set()
        if _started() == start:  # and not that of a later run
            _file().unlink(missing_ok=True)


def follow(is_over: Callable[[], bool]) -> None:
    """Run what the first machine runs, one stage after another, until it `is_over`.

    What a killed run left in the file is not run. A signal stops the stage, too.
    """
    token, stage, left = "", None, _written()
    try:
        while not is_over():
            start = _started() if _written() != left else None
            if stage and (start is None or start.token != token):
                _end(stage)
                stage = None
            if start and start.token != token:
                token, stage = start.token, _run(start)
            time.sleep(POLL_SECONDS)
    finally:
        if stage:
            stage.terminate()
            _end(stage)


def _file() -> Path:
    return work_folder() / FILE


def _beat(over: Event) -> None:
    while not over.wait(BEAT_SECONDS):
        with suppress(FileNotFoundError):
            os.utime(_file())


def _written() -> int:
    """When the file was last touched, in ns; 0 where there is none."""
    with suppress(FileNotFoundError):
        return _file().stat().st_mtime_ns
    return 0


def _started() -> Start | None:
    """What the first machine runs."""
    with suppress(UserError, TypeError):  # it may be written or removed at this moment
        return Start(**read_json(_file()))
    return None


def _run(start: Start) -> subprocess.Popen[bytes]:
    print(f"follows {' '.join(start.command[:2])}", flush=True)
    return subprocess.Popen([sys.executable, *start.command], cwd=start.folder, env=os.environ | {TOKEN: start.token})


def _end(stage: subprocess.Popen[bytes]) -> None:
    """Wait until the `stage` has ended; stop it where that takes too long."""
    for stop in (stage.terminate, stage.kill):
        with suppress(subprocess.TimeoutExpired):
            stage.wait(ENDING_SECONDS)
            return
        stop()
    stage.wait()
