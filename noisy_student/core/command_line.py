"""Makes a command line from a function's signature: each parameter is an option, and its type parses the option."""

import inspect
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, get_args, get_origin

from noisy_student.core.errors import cli_main


class Command(Protocol):
    """A command: call it with a list of words, or without one to take those of the process."""

    def __call__(self, argv: list[str] | None = None) -> None: ...


def command(main: Callable[..., None]) -> Command:
    """`main` as a command: called with a list of words (None: those of the process), it parses them and runs.

    A keyword-only parameter `pool_truth: Path` becomes the option `--pool-truth`, a positional one an argument. `X |
    None` is read as X, and `tuple[str, str]` takes two words. The help is the first line of the module's docstring.
    What goes wrong ends with one sentence, see `cli_main`.
    """

    @cli_main
    def run(argv: list[str] | None = None) -> None:
        given = vars(_parser(main).parse_args(argv))
        positional = [given.pop(each.name) for each in _parameters(main) if each.kind != each.KEYWORD_ONLY]
        main(*positional, **given)

    run.__doc__ = main.__doc__
    return run


def _parameters(main: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(main).parameters.values())


def _parser(main: Callable[..., None]) -> ArgumentParser:
    parser = ArgumentParser(description=(sys.modules[main.__module__].__doc__ or "").partition("\n")[0])
    for parameter in _parameters(main):
        options = _reading(parameter.annotation)
        if parameter.kind != parameter.KEYWORD_ONLY:
            waived = {} if parameter.default is parameter.empty else {"nargs": "?", "default": parameter.default}
            parser.add_argument(parameter.name, **options, **waived)
        else:
            flag = f"--{parameter.name.replace('_', '-')}"
            required = parameter.default is parameter.empty
            default = None if required else parameter.default
            parser.add_argument(flag, required=required, default=default, **options)
    return parser


def _reading(annotation: Any) -> dict[str, Any]:
    """How argparse reads a value of that type."""
    alternatives = [each for each in get_args(annotation) if each is not type(None)]
    if get_origin(annotation) is tuple:
        return {"nargs": len(alternatives), "type": alternatives[0]}
    if alternatives:
        return _reading(alternatives[0])
    return {"type": annotation if annotation in (Path, int, float) else str}
