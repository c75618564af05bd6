"""Stops work cleanly on Ctrl-C, on SIGTERM, or when the DVC or the torchrun that started the stage is gone."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WATCH_SECONDS = 0.5  # between two looks at whether the starter is still there


class Stopped(BaseException):
    """Raised when a signal stops the work; the text says what is kept."""

    def __init__(self, signal: int, kept: str = ""):
        super().__init__(kept)
        self.signal = signal


class StopFlag:
    """The number of the signal that asked the work to stop; 0 for none."""

    signal = 0

    def __bool__(self) -> bool:
        return self.signal != 0


@contextmanager
def raise_on_signal() -> Iterator[None]:
    """Within the block, raise `Stopped` when a signal arrives or what started this stage, DVC or torchrun, is gone."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    if "DVC_STAGE" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_stop_without_starter, daemon=True).start()
    with _handled_by(stop):
        yield


@contextmanager
def defer_signals() -> Iterator[StopFlag]:
    """Within the block, a signal only sets the flag that is yielded; the block checks the flag where it can stop."""
    stop = StopFlag()

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number

    with _handled_by(note):
        yield stop


@contextmanager
def hold_signals() -> Iterator[None]:
    """Within the block nothing is raised by a signal; one that arrives there is handled at its end."""
    with defer_signals() as stop:
        yield
    if stop:
        signal.raise_signal(stop.signal)


@contextmanager
def _handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle signals by `handler` within the block; only Python's main thread can, so in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.signal(number, handler) for number in SIGNALS]
    try:
        yield
    finally:
        for number, earlier in zip(SIGNALS, before, strict=True):
            signal.signal(number, earlier)


def _stop_without_starter() -> None:
    """Killing DVC or torchrun alone leaves what it started running, and the next run would start it a second time."""
    while _starters() == STARTED_BY:
        time.sleep(WATCH_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def _starters() -> list[int]:
    """The id of the parent process and, if the parent is a shell between DVC and its command, that of the shell's
    parent."""
    parent = os.getppid()
    try:
        name, _, rest = Path(f"/proc/{parent}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return [parent]  # a system without /proc
    return [parent, int(rest.split()[1])] if name.endswith("sh") else [parent]


# As early as can be: this module imports nothing slow, and the package imports it first.
STARTED, STARTED_BY = time.time(), _starters()
