"""What a person gets to read when something cannot be done: one sentence, no traceback."""

import sys
from collections.abc import Callable
from functools import wraps


class Refusal(Exception):
    """One sentence for a person, on one line: what is wrong, where, and what to do about it."""

    def __init__(self, sentence: str):
        printable = (letter if letter.isprintable() else repr(letter)[1:-1] for letter in sentence)
        super().__init__("".join(printable))


def exits_with_a_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """Let a command's `main` end with exit status 1 and one sentence on standard error when it is refused something."""

    @wraps(main)
    def guarded(*args, **kwargs) -> None:
        try:
            main(*args, **kwargs)
        except Refusal as refusal:
            print(f"error: {refusal}", file=sys.stderr)
            sys.exit(1)
        except OSError as error:
            where = f" {error.filename}" if error.filename else ""
            print(
                f"error: the machine refuses{where}: {error.strerror or error}; mend that and run again",
                file=sys.stderr,
            )
            sys.exit(1)
        except MemoryError:
            print("error: the machine has too little memory for this; ask for fewer or smaller images", file=sys.stderr)
            sys.exit(1)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
            sys.exit(130)

    return guarded
