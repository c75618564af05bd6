"""Errors for people: a command that fails prints one sentence instead of a traceback."""

import atexit
import difflib
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any

from noisy_student.core.signals import Stopped, raise_on_signal

ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # where a rank leaves its sentence for who started it, see launch.py


class UserError(Exception):
    """One sentence for a person, on one line: what is wrong, where, and what to do about it."""

    def __init__(self, sentence: str):
        printable = (letter if letter.isprintable() else repr(letter)[1:-1] for letter in sentence)
        super().__init__("".join(printable))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown `name`: the closest of the `known` ones, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"it may be one of {', '.join(names)}"


def one_line(error: BaseException) -> str:
    """The text of `error` on one line."""
    return " ".join(str(error).split())


def cli_main(main: Callable[..., None]) -> Callable[..., None]:
    """Let a command's `main` end with one sentence on standard error instead of a traceback.

    The exit status is 1 after an error, and 128 plus the signal's number when a signal stops the command.
    """

    @wraps(main)
    def guarded(*args: Any, **kwargs: Any) -> None:
        # At exit, Python's garbage collector takes more than a second with torch, to free memory that is freed anyway.
        atexit.register(gc.freeze)
        try:
            with raise_on_signal():
                main(*args, **kwargs)
        except UserError as error:
            _fail(str(error))
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            _fail(f"{error.strerror or error}{where}; fix that and run again")
        except MemoryError:
            _fail("the machine has too little memory for this; ask for fewer or smaller images")
        except Stopped as stopped:
            _exit(128 + stopped.signal, f"stopped{stopped}")

    return guarded


def _fail(sentence: str) -> None:
    """Say what is wrong and exit with status 1."""
    if file := os.environ.get(ERROR_FILE):
        Path(file).write_text(json.dumps({"message": sentence, "timestamp": int(time.time())}))
        sys.exit(1)
    _exit(1, f"error: {sentence}")


def _exit(status: int, sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(status)
