"""Labels that a person gave to images by hand: corrections.csv, with the columns id and label."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError, did_you_mean, one_line
from noisy_student.data.manifest import class_name


def read_corrections(path: Path, ids: pd.Series, hashes: np.ndarray, classes: list[str]) -> dict[int, int]:
    """The class of each row that the file at `path` labels, and of each row with the same pixels.

    Lines without a label are ignored, and so are columns other than id and label.
    `ids` and `hashes` (N,) are those of all rows. Raises `UserError` for an unknown id or class, and for two
    labels of one image.
    """
    lines = _read(path)
    of_class = {name: number for number, name in enumerate(classes)}
    rows_of = _rows_of([name for name, _ in lines], ids, hashes)
    found: dict[int, int] = {}
    for name, label in lines:
        if name not in rows_of:
            raise UserError(f"{path} labels {name!r}, which is no image of the source; remove that line")
        if label not in of_class:
            hint = did_you_mean(label, classes)
            raise UserError(f"{path} gives {name!r} the label {label!r}, which is no class; {hint}")
        for row in rows_of[name]:
            if found.setdefault(row, of_class[label]) != of_class[label]:
                raise UserError(f"{path} gives {name!r}, or an identical image, two labels; keep one")
    return found


def labeled_by_hand(path: Path) -> frozenset[str]:
    """The ids that the file at `path` labels."""
    return frozenset(name for name, _ in _read(path))


def read_lines(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of the columns, and each line by column.

    Raises `UserError` for a file that cannot be read, that has not one column id and one column label, or whose lines
    differ in their number of fields.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, restkey="")
            names = list(table.fieldnames or ())
            if not {"id", "label"} <= set(names) or len(set(names)) < len(names):
                raise UserError(f"the first line of {path} must have one column id and one column label; fix that line")
            lines = [(table.line_num, line) for line in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path} ({one_line(error)}); write it as CSV in UTF-8") from None
    for number, line in lines:
        if None in line.values() or any(line.get("", [])):
            raise UserError(f"{path} has another number of fields in line {number} than in its first; mend it")
    return names, [{name: line[name] for name in names} for _, line in lines]


def _read(path: Path) -> list[tuple[str, str]]:
    """The id and the label of each line that has one."""
    labels = ((line["id"], class_name(line["label"])) for line in read_lines(path)[1])
    return [(name, label) for name, label in labels if label]


def _rows_of(names: list[str], ids: pd.Series, hashes: np.ndarray) -> dict[str, list[int]]:
    """The rows of each name that there is, with those of identical images."""
    named = np.flatnonzero(ids.isin(names))
    same: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(np.isin(hashes, hashes[named])).tolist():
        same.setdefault(hashes[row], []).append(row)
    return {ids.iloc[row]: same[hashes[row]] for row in named.tolist()}
