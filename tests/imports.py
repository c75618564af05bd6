"""What a module imports, read from its code, so that no run is needed to see a wrong import."""

import ast


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
