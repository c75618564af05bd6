"""Finds what a Python file imports by parsing it; no code is run."""

import ast
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from noisy_student.core.signals import hold_signals

T = TypeVar("T")


def imported_names(source: str, package: str = "") -> set[str]:
    """The dotted names that `source`, a module of `package`, imports anywhere; `from a import b` gives a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [_above(package, node.level), node.module]))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imported_files(file: Path, root: Path) -> set[Path]:
    """The files below `root` that `file`, one of them, imports, and the `__init__.py` of the packages above them."""
    package = ".".join(file.relative_to(root).parts[:-1])
    names = imported_names(file.read_text(encoding="utf-8"), package)
    return {path for name in names for path in _files_of(name, root)}


def import_closure(file: Path, root: Path) -> list[Path]:
    """`file` and all files below `root` that it imports, directly or through others; sorted."""
    with hold_signals():  # Python 3.11 makes a SystemError of what a signal raises within ast.parse
        return sorted(reachable([file], lambda path: imported_files(path, root)))


def reachable(starts: Iterable[T], following: Callable[[T], Iterable[T]]) -> set[T]:
    """All nodes that can be reached from `starts`, where `following` gives the neighbors of a node; `starts`
    included."""
    found: set[T] = set()
    waiting = list(starts)
    while waiting:
        if (at := waiting.pop()) not in found:
            found.add(at)
            waiting += following(at)
    return found


def _above(package: str, level: int) -> str:
    """The package in which a relative import with `level` dots starts; "" for an absolute import."""
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1]) if level else ""


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """The files of the module of that dotted name and of the packages that it is in."""
    for prefix in accumulate(name.split("."), "{}.{}".format):
        path = root / prefix.replace(".", "/")
        yield from (each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file())
