"""Reads a manifest: a table of a user's images as CSV or Parquet, as spreadsheets and other tools write them.

Columns are known by several names, in small or capital letters. A CSV may have commas, semicolons or tabs. It is UTF-8,
or else Windows-1252, which spreadsheets write and which covers Latin-1.
"""

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from noisy_student.core.errors import UserError, one_line

COLUMNS = {  # what a manifest has, and what its columns may be called
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path"),
    "label": ("label", "class", "category"),
    "split": ("split", "subset"),
    "group": ("group",),
}
SPLIT_NAMES = {"": "", "test": "test", "train": "", "training": ""}  # what `split` may say, and what that means
SEPARATORS = (",", ";", "\t")
OF_SPREADSHEETS = "cp1252"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
MAX_BYTES = 1_000_000_000  # of a manifest
MAX_ROWS = 100_000_000
ROWS_AT_ONCE = 1000  # of a Parquet file


def read_manifest(path: Path) -> pd.DataFrame:
    """The columns of COLUMNS of the manifest at `path`, all text, "" where one is missing.

    Spaces around a value are dropped, and labels are in one normal form of Unicode. Raises `UserError` for a file that
    is no such table.
    """
    table = _named(path, _table(path))
    for column in COLUMNS:
        table[column] = table[column].fillna("").str.strip()
    table["path"] = _with_slashes(table["path"])
    table["label"] = table["label"].map(lambda label: unicodedata.normalize("NFC", label))
    split = table["split"].str.lower()
    wrong = table.loc[~split.isin(list(SPLIT_NAMES)), "split"]
    if len(wrong):
        raise UserError(f"{path} has the split {wrong.iloc[0]!r}; it may be test, train or empty")
    return table.assign(split=split.map(SPLIT_NAMES))


def _named(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the columns of COLUMNS, whatever it calls them, and no others."""
    plain = {name: name.strip().lower() for name in table.columns}
    called = {column: [name for name in plain if plain[name] in known] for column, known in COLUMNS.items()}
    for column, names in called.items():
        if len(names) > 1 or (names and list(table.columns).count(names[0]) > 1):
            both = " and ".join(names if len(names) > 1 else names * 2)
            raise UserError(f"{path} has two columns for the {column}, {both}; keep one of them")
        if not names and column in ("path", "label"):
            known = ", ".join(COLUMNS[column])
            raise UserError(f"{path} has no column for the {column}; call it one of {known}")
    used = {names[0]: column for column, names in called.items() if names}
    if unused := [str(name) for name in table.columns if name not in used]:
        print(f"{path}: the columns {', '.join(unused)} are not used", flush=True)
    return table[list(used)].rename(columns=used).reindex(columns=list(COLUMNS), fill_value="")


def _with_slashes(paths: pd.Series) -> pd.Series:
    """`paths` of Windows, which have backslashes and no slash, with slashes."""
    if paths.str.contains("/", regex=False).any():
        return paths
    return paths.str.replace("\\", "/", regex=False)


def _table(path: Path) -> pd.DataFrame:
    """All of the table, every value as text."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path} is larger than {MAX_BYTES:,} bytes; split the images over several projects")
        return _parquet(path) if path.suffix == ".parquet" else _csv(path)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest {path} ({one_line(error)}); see data.path") from None


def _parquet(path: Path) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > MAX_ROWS:
            raise UserError(f"{path} has more than {MAX_ROWS:,} rows; split the images over several projects")
        table = pa.Table.from_batches(_small_enough(path, file), file.schema_arrow)
    table.validate(full=True)
    return table.cast(pa.schema([(name, pa.string()) for name in table.column_names])).to_pandas()


def _small_enough(path: Path, file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """The rows of a manifest. Raises `UserError` above MAX_BYTES, because a small file can expand to many rows."""
    size = 0
    for batch in file.iter_batches(ROWS_AT_ONCE):
        if (size := size + batch.nbytes) > MAX_BYTES:
            raise UserError(f"{path} holds more than {MAX_BYTES:,} bytes; split the images over several projects")
        yield batch


def _csv(path: Path) -> pd.DataFrame:
    with path.open("rb") as file:
        header = file.readline(2**16)
    if header.startswith(UTF_16):
        raise UserError(f"{path} is saved as UTF-16; save it as CSV in UTF-8")
    separator = max(SEPARATORS, key=lambda each: header.count(each.encode()))
    try:
        return _csv_in(path, separator, "utf8")
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "UTF8" not in str(error) and not isinstance(error, UnicodeDecodeError):
            raise
    print(f"{path} is not UTF-8; it is read as Windows-1252, as spreadsheets save it", flush=True)
    return _csv_in(path, separator, OF_SPREADSHEETS)


def _csv_in(path: Path, separator: str, encoding: str) -> pd.DataFrame:
    parse = pyarrow.csv.ParseOptions(delimiter=separator)
    read = pyarrow.csv.ReadOptions(encoding=encoding)
    names = pyarrow.csv.open_csv(path, read_options=read, parse_options=parse).schema.names
    as_text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False)
    return pyarrow.csv.read_csv(path, read_options=read, parse_options=parse, convert_options=as_text).to_pandas()
