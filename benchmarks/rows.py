"""Tables of measurements that grow a row at a time, so that a benchmark that was stopped goes on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from noisy_student.core.files import read_csv, write_csv


def has_row(path: Path, **key: Any) -> bool:
    """Whether the table at `path` has a row with these values."""
    rows = read_csv(path).to_dict("records") if path.exists() else []
    return any(all(row[name] == value for name, value in key.items()) for row in rows)


def add_row(path: Path, row: dict[str, Any], by: Sequence[str] = ()) -> pd.DataFrame:
    """Add a row to the table at `path`, in the order of the columns `by`, print it, and return all rows."""
    print(*(f"{name} {value}" for name, value in row.items() if value is not None), sep=", ", flush=True)
    before = [read_csv(path)] if path.exists() else []
    rows = pd.concat([*before, pd.DataFrame([row])], ignore_index=True)
    if by:
        rows = rows.sort_values(list(by), kind="stable", ignore_index=True)
    write_csv(path, rows)
    return rows
