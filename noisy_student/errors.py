"""What a person gets to read when something cannot be done: one sentence, no traceback."""

import sys
from collections.abc import Callable
from functools import wraps


class Refusal(Exception):
    """One sentence for a person: what is wrong, where, and what to do about it."""


def exits_with_a_sentence(main: Callable[..., None]) -> Callable[..., None]:
    """Let a command's `main` end with exit status 1 and the refusal's sentence on standard error."""

    @wraps(main)
    def guarded(*args, **kwargs) -> None:
        try:
            main(*args, **kwargs)
        except Refusal as refusal:
            print(f"error: {refusal}", file=sys.stderr)
            sys.exit(1)

    return guarded
