"""Reads a manifest: a table of a user's images as CSV or Parquet, as spreadsheets and other tools write them.

Columns are known by several names, in small or capital letters, with spaces or underscores. A CSV may have commas,
semicolons or tabs. It is UTF-8, or else Windows-1252, which spreadsheets write and which covers Latin-1.

It is read in batches. Of very many rows without labels a sample is kept, where a part of them is to be drawn, so that a
manifest may have any length.
"""

import csv
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
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
NAMED_SEPARATOR = "sep="  # how the line before the columns begins in which spreadsheets name it
QUOTED = r'^"(.*)"$'  # a value that had spaces around its quotes
NO_WIDTH = "\u200b\u2060\ufeff"  # that web pages leave around words
OF_SPREADSHEETS = "cp1252"
OF_OTHER_TABLES = (".xlsx", ".xls", ".ods", ".numbers")  # whose bytes are no text
UTF_16 = (b"\xff\xfe", b"\xfe\xff")  # how such a file begins
MAX_BYTES = 1_000_000_000  # of the rows that are kept
MANY = 2_000_000  # unlabeled rows, above which a sample is kept
SPARE = 0.1  # of the images wanted, which are kept beyond them, for some may be unusable or the same
ROWS_AT_ONCE = 2**14  # of a Parquet file
NUMBER, HASH = "number of the row", "hash of the path"  # columns beside those of a manifest while it is read


def class_name(label: str) -> str:
    """The class that a person's `label` or folder names: no spaces around it, one normal form of Unicode."""
    return unicodedata.normalize("NFC", label.strip().strip(NO_WIDTH).strip())


def read_manifest(path: Path, pool: int | None = None) -> pd.DataFrame:
    """The columns of COLUMNS of the manifest at `path`, all text, "" where one is missing.

    Spaces and quotes around a value are dropped, and labels are in one normal form of Unicode. Where so many images of
    the `pool` are wanted, and there are MANY more rows without labels, some more than these are kept: those whose paths
    have the smallest hashes, in the order of the file. Raises `UserError` for a file that is no such table.
    """
    table = _table(path, pool)
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


def _table(path: Path, pool: int | None) -> pd.DataFrame:
    """The rows that are kept, every value as text."""
    try:
        if path.suffix.lower() in OF_OTHER_TABLES:
            raise UserError(f"{path} is a spreadsheet; save it as CSV in UTF-8")
        return _parquet(path, pool) if path.suffix.lower() == ".parquet" else _csv(path, pool)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the manifest {path} ({one_line(error)}); see data.path") from None


def _parquet(path: Path, pool: int | None) -> pd.DataFrame:
    with pq.ParquetFile(path) as file:
        used = _used(path, file.schema_arrow.names)
        fields = [field for field in file.schema_arrow if field.name in used]
        for field in fields:
            if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
                raise UserError(f"{path} has no text but {field.type} in the column {field.name}; make it text")
        kept = _Kept(path, used, pool)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=[field.name for field in fields]):
            batch.validate(full=True)
            kept.add(pa.Table.from_batches([batch]))
    return _renamed(path, kept.rows(), used, file.schema_arrow.names)


class _Kept:
    """The rows of a manifest that are kept while it is read: all, or with a sample of those without labels."""

    def __init__(self, path: Path, used: dict[str, str], pool: int | None):
        self.path, self.names = path, {column: name for name, column in used.items()}
        self.schema = pa.schema([(name, pa.string()) for name in used])
        self.most = pool + round(SPARE * pool) if pool else None
        self.labeled: list[pa.Table] = []  # with the number of each row
        self.pool: list[pa.Table] = []  # the same, with the hash of its path
        self.seen, self.unlabeled, self.bound = 0, 0, 2**64 - 1  # `bound`: the largest hash that is kept

    def add(self, part: pa.Table) -> None:
        """Add the next rows of the manifest."""
        part = part.select(self.schema.names).cast(self.schema)
        numbers = pa.array(np.arange(self.seen, self.seen + len(part)))
        self.seen += len(part)
        known = self._has(part, "label") | self._has(part, "split")
        part = part.append_column(NUMBER, numbers)
        self.labeled.append(part.filter(pa.array(known)))
        unknown = part.filter(pa.array(~known))
        self.unlabeled += len(unknown)
        hashes = pd.util.hash_array(unknown[self.names["path"]].fill_null("").to_numpy())
        self.pool.append(unknown.append_column(HASH, pa.array(hashes)).filter(pa.array(hashes <= self.bound)))
        if self.most and self.unlabeled > MANY and sum(map(len, self.pool)) > 2 * self.most:
            self._thin(self.most)
        if sum(each.nbytes for each in (*self.labeled, *self.pool)) > MAX_BYTES:
            remedy = "list them in shards" if self.most else "set data.pool, the images that are drawn of them"
            raise UserError(f"{self.path} holds more than {MAX_BYTES:,} bytes; {remedy}")

    def _has(self, part: pa.Table, column: str) -> np.ndarray:
        """Which rows of `part` have a value in the `column` of COLUMNS, bool (n,)."""
        if column not in self.names:
            return np.zeros(len(part), bool)
        texts = pc.utf8_trim_whitespace(part[self.names[column]].fill_null(""))
        return np.asarray(pc.not_equal(texts, ""))

    def _thin(self, most: int) -> None:
        """Keep the `most` smallest hashes alone."""
        together = pa.concat_tables(self.pool)
        hashes = together[HASH].to_numpy()
        self.bound = int(np.partition(hashes, most - 1)[most - 1])
        self.pool = [together.filter(pa.array(hashes <= self.bound)).combine_chunks()]

    def rows(self) -> pd.DataFrame:
        """All that are kept, in the order of the manifest."""
        if self.most and self.unlabeled > MANY:
            self._thin(self.most)
            kept = sum(map(len, self.pool))
            print(f"{self.path}: {kept:,} of {self.unlabeled:,} rows without labels are drawn from", flush=True)
        parts = [*self.labeled, *(each.drop_columns(HASH) for each in self.pool)]
        return pa.concat_tables(parts).sort_by(NUMBER).drop_columns(NUMBER).to_pandas()


def _csv(path: Path, pool: int | None) -> pd.DataFrame:
    with path.open("rb") as file:
        first = file.readline(2**16)
    if first.startswith(UTF_16):
        raise UserError(f"{path} is saved as UTF-16; save it as CSV in UTF-8")
    header = first.decode(errors="replace").lstrip("\ufeff")
    named = header.lower().startswith(NAMED_SEPARATOR)
    separator = header[len(NAMED_SEPARATOR)] if named else _separator(header)
    parse = pyarrow.csv.ParseOptions(delimiter=separator)
    try:
        return _csv_in(path, parse, pyarrow.csv.ReadOptions(skip_rows=int(named)), pool)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        if "UTF8" not in str(error) and not isinstance(error, UnicodeDecodeError):
            raise
    print(f"{path} is not UTF-8; it is read as Windows-1252, as spreadsheets save it", flush=True)
    return _csv_in(path, parse, pyarrow.csv.ReadOptions(skip_rows=int(named), encoding=OF_SPREADSHEETS), pool)


def _separator(header: str) -> str:
    """What separates the columns: what finds the most of COLUMNS in the `header`, and of these the most frequent."""
    known = {name for names in COLUMNS.values() for name in names}

    def found(separator: str) -> tuple[int, int]:
        names = next(csv.reader(header.splitlines()[:1], delimiter=separator), [])
        return sum(_plain(name) in known for name in names), len(names)

    return max(SEPARATORS, key=found)


def _csv_in(
    path: Path, parse: pyarrow.csv.ParseOptions, read: pyarrow.csv.ReadOptions, pool: int | None
) -> pd.DataFrame:
    names = pyarrow.csv.open_csv(path, read_options=read, parse_options=parse).schema.names
    used = _used(path, names)
    as_text = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(used, pa.string()), strings_can_be_null=False, include_columns=list(used)
    )
    kept = _Kept(path, used, pool)
    for batch in pyarrow.csv.open_csv(path, read_options=read, parse_options=parse, convert_options=as_text):
        kept.add(pa.Table.from_batches([batch]))
    return _renamed(path, kept.rows(), used, names)
