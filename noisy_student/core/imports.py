"""What a Python file imports, read from its code: nothing is run, and nothing is missed however it is written."""

import ast
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def imported_names(source: str, package: str = "") -> set[str]:
    """The dotted names of all that `source`, a module of `package`, imports; `from a import b` gives a.b."""
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
    """The files below `root` that run when `file` does: itself, what it imports, and so on; sorted."""
    return sorted(reachable([file], lambda path: imported_files(path, root)))


def reachable(starts: Iterable[T], following: Callable[[T], Iterable[T]]) -> set[T]:
    """The `starts` and all that `following`, called again and again, leads to from them."""
    found: set[T] = set()
    waiting = list(starts)
    while waiting:
        if (at := waiting.pop()) not in found:
            found.add(at)
            waiting += following(at)
    return found


def _above(package: str, level: int) -> str:
    """The package that a relative import with so many dots starts from; "" for an absolute one."""
    parts = package.split(".")
    return ".".join(parts[: len(parts) - level + 1]) if level else ""


def _files_of(name: str, root: Path) -> Iterator[Path]:
    """The files of the module of that dotted name and of the packages that it is in."""
    for prefix in accumulate(name.split("."), "{}.{}".format):
        path = root / prefix.replace(".", "/")
        yield from (each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file())
