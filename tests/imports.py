"""What a module imports, read from its code, so that no run is needed to see a wrong import, and what that leads to."""

import ast
from collections.abc import Callable, Iterable


def imported(source: str, package: str = "") -> set[str]:
    """The dotted names of all that `source` imports, wherever in it, `from a import b` as a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [package if node.level else "", node.module]))
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def reachable(starts: Iterable[str], following: Callable[[str], Iterable[str]]) -> set[str]:
    """The `starts` and all that `following`, asked again and again, leads to from them."""
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        if (at := waiting.pop()) not in found:
            found.add(at)
            waiting += following(at)
    return found
