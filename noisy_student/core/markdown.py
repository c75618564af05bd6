"""Tables in Markdown."""

import re
from collections.abc import Sequence


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of figures stand to the right."""
    figures = [all(re.match(r"[+-]?\d|$", row[column]) for row in rows) for column in range(len(header))]
    ends = ["---:" if each else "---" for each in figures]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ends, *rows])


def escaped(name: str) -> str:
    """`name` with the signs escaped that mean something in Markdown, and without signs that cannot be printed."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name)
    return "".join(f"\\{letter}" if letter in "\\|*_[]<>`#" else letter for letter in plain)
