"""Reads a manifest: a table of a user's images as CSV or Parquet, as spreadsheets and other tools write them.

Columns are known by several names, in small or capital letters, with spaces or underscores. A CSV may have commas,
semicolons or tabs. It is UTF-8, or else Windows-1252, which spreadsheets write and which covers Latin-1.

It is read in batches. Of very many rows without labels a sample is kept, where a part of them is to be drawn, so that a
manifest may have any length.
"""

import csv
import unicodedata
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from noisy_student.core.errors import UserError, one_line
from noisy_student.data.manifest_rows import ALL, SPLIT_NAMES, ManifestRows, Sample

COLUMNS = {  # what a manifest has, and what its columns may be called
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "class", "category"),
    "split": ("split", "subset"),
    "group": ("group",),
}
SEPARATORS = (",", ";", "\t")
NAMED_SEPARATOR = "sep="  # how the line before the columns begins in which spreadsheets name it
QUOTED = r'^"(.*)"$'  # a value that had spaces around its quotes
NO_WIDTH = "\u200b\u2060\ufeff"  # that web pages leave around words
OF_SPREADSHEETS = "cp1252"
OF_OTHER_TABLES = (".xlsx", ".xls", ".ods", ".numbers")  # whose bytes are no text
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
ROWS_AT_ONCE = 2**14  # of a Parquet file


def class_name(label: str) -> str:
    """The class that a person's `label` or folder names: no spaces around it, one normal form of Unicode."""
    return unicodedata.normalize("NFC", label.strip().strip(NO_WIDTH).strip())


def read_manifest(path: Path, sample: Sample = ALL) -> pd.DataFrame:
    """The columns of COLUMNS of the manifest at `path`, all text, "" where one is missing.

    Spaces and quotes around a value are dropped, and labels are in one normal form of Unicode. Of very many rows a
    `sample` is kept. Raises `UserError` for a file that is no such table.
    """
    table = _table(path, sample)
    for column in COLUMNS:
        table[column] = table[column].fillna("").str.strip().str.replace(QUOTED, r"\1", regex=True)
    table["path"] = _with_slashes(table["path"], path.parent)
    table["label"] = table["label"].map(class_name)
    split = table["split"].str.lower()
    wrong = table.loc[~split.isin(list(SPLIT_NAMES)), "split"]
    if len(wrong):
        raise UserError(f"{path} has the split {wrong.iloc[0]!r}; it may be test, train or empty")
    return table.assign(split=split.map(SPLIT_NAMES))


def _used(path: Path, names: list[str]) -> dict[str, str]:
    """Which of the columns called `names` are used, and what COLUMNS calls them."""
    plain = {name: _plain(name) for name in names}
    called = {column: [name for name in plain if plain[name] in known] for column, known in COLUMNS.items()}
    for column, found in called.items():
        if len(found) > 1 or (found and names.count(found[0]) > 1):
            both = " and ".join(found if len(found) > 1 else found * 2)
            raise UserError(f"{path} has two columns for the {column}, {both}; keep one of them")
        if not found and column in ("path", "label"):
            known = ", ".join(COLUMNS[column])
            seen = ", ".join(names)[:80]
            raise UserError(f"{path} has no column for the {column} among {seen}; call it one of {known}")
    return {found[0]: column for column, found in called.items() if found}


def _plain(name: str) -> str:
    """The `name` of a column as COLUMNS has it."""
    return name.strip().strip('"').lower().replace(" ", "_")


def _renamed(path: Path, table: pd.DataFrame, used: dict[str, str], names: list[str]) -> pd.DataFrame:
    """`table` with the columns of COLUMNS, empty where it has none. Says which of all `names` are not `used`."""
    if unused := [name for name in names if name not in used]:
        print(f"{path}: the columns {', '.join(unused)} are not used", flush=True)
    return table[list(used)].rename(columns=used).reindex(columns=list(COLUMNS), fill_value="")


def _with_slashes(paths: pd.Series, root: Path) -> pd.Series:
    """`paths` of Windows, which have backslashes, with slashes. If any of them has a slash, one stays as it is written
    where its file exists below `root`, and one with both where the file with slashes does not."""
    windows, mixed = (paths.str.contains(mark, regex=False) for mark in ("\\", "/"))
    slashed = paths.str.replace("\\", "/", regex=False)
    if mixed.any():
        windows = pd.Series(
            marked and not (root / name).is_file() and ("/" not in name or (root / other).is_file())
            for marked, name, other in zip(windows, paths, slashed, strict=True)
        )
    return paths.where(~windows, slashed)


def _table(path: Path, sample: Sample) -> pd.DataFrame:
    """The rows that are kept, every value as text."""
    try:
        if path.suffix.lower() in OF_OTHER_TABLES:
            raise UserError(f"{path} is a spreadsheet; save it as CSV in UTF-8")
        return _parquet(path, sample) if path.suffix.lower() == ".parquet" else _csv(path, sample)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest {path} ({one_line(error)}); see data.path") from None


def _parquet(path: Path, sample: Sample) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        used = _used(path, file.schema_arrow.names)
        fields = [field for field in file.schema_arrow if field.name in used]
        for field in fields:
            if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
                raise UserError(f"{path} has no text but {field.type} in the column {field.name}; make it text")
        kept = ManifestRows(path, used, sample)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[field.name for field in fields]):
            batch.validate(full=True)
            kept.add(pa.Table.from_batches([batch]))
    return _renamed(path, kept.table(), used, file.schema_arrow.names)


def _csv(path: Path, sample: Sample) -> pd.DataFrame:
    with path.open("rb") as file:
        first = file.readline(2**16)
    if first.startswith(UTF_16):
        raise UserError(f"{path} is saved as UTF-16; save it as CSV in UTF-8")
    header = first.decode(errors="replace").lstrip("\ufeff")
    named = header.lower().startswith(NAMED_SEPARATOR)
    separator = header[len(NAMED_SEPARATOR)] if named else _separator(header)
    parse = pyarrow.csv.ParseOptions(delimiter=separator)
    try:
        return _csv_in(path, parse, pyarrow.csv.ReadOptions(skip_rows=int(named)), sample)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "UTF8" not in str(error) and not isinstance(error, UnicodeDecodeError):
            raise
    print(f"{path} is not UTF-8; it is read as Windows-1252, as spreadsheets save it", flush=True)
    return _csv_in(path, parse, pyarrow.csv.ReadOptions(skip_rows=int(named), encoding=OF_SPREADSHEETS), sample)


def _separator(header: str) -> str:
    """What separates the columns: what finds the most of COLUMNS in the `header`, and of these the most frequent."""
    known = {name for names in COLUMNS.values() for name in names}

    def found(separator: str) -> tuple[int, int]:
        names = next(csv.reader(header.splitlines()[:1], delimiter=separator), [])
        return sum(_plain(name) in known for name in names), len(names)

    return max(SEPARATORS, key=found)


def _csv_in(path: Path, parse: pyarrow.csv.ParseOptions, read: pyarrow.csv.ReadOptions, sample: Sample) -> pd.DataFrame:
    names = pyarrow.csv.open_csv(path, read_options=read, parse_options=parse).schema.names
    used = _used(path, names)
    as_text = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(used, pa.string()), strings_can_be_null=False, include_columns=list(used)
    )
    kept = ManifestRows(path, used, sample)
    for batch in pyarrow.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=as_text):
        kept.add(pa.Table.from_batches([batch]))
    return _renamed(path, kept.table(), used, names)
