"""Labels that a person gave to images by hand: corrections.csv, with the columns id and label."""

import difflib
from pathlib import Path

import numpy as np

from noisy_student.errors import Refusal
from noisy_student.files import read_csv


def read_corrections(path: Path, ids: np.ndarray, hashes: np.ndarray, classes: list[str]) -> dict[int, int]:
    """The class of each row that the file at `path` labels, and of each row with the same pixels.

    Lines whose label is still empty say nothing, and columns beside id and label neither.
    `ids` and `hashes` (N,) are those of all rows. Raises `Refusal` for an id or a class that there is not, and for two
    labels of one image.
    """
    table = read_csv(path, text=True)
    if not {"id", "label"} <= set(table):
        raise Refusal(f"{path} has the columns {', '.join(table)}; it takes id and label and a line for each image")
    table = table[table["label"] != ""]
    of_class = {name: number for number, name in enumerate(classes)}
    rows_of = _rows_of(table["id"].tolist(), ids, hashes)
    found: dict[int, int] = {}
    for name, label in zip(table["id"], table["label"], strict=True):
        if name not in rows_of:
            raise Refusal(f"{path} labels {name!r}, which is no image of the source; remove that line")
        if label not in of_class:
            close = difflib.get_close_matches(label, classes, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(classes[:20])}"
            raise Refusal(f"{path} gives {name!r} the label {label!r}, which is no class; {hint}")
        for row in rows_of[name]:
            if found.setdefault(row, of_class[label]) != of_class[label]:
                raise Refusal(f"{path} gives {name!r}, or an identical image, two labels; keep one")
    return found


def _rows_of(names: list[str], ids: np.ndarray, hashes: np.ndarray) -> dict[str, list[int]]:
    """The rows of each name that there is, with those of identical images."""
    named = np.flatnonzero(np.isin(ids, names))
    same: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(np.isin(hashes, hashes[named])).tolist():
        same.setdefault(hashes[row], []).append(row)
    return {ids[row]: same[hashes[row]] for row in named.tolist()}
