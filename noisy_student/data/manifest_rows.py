"""The rows of a manifest that are kept while it is read, so that it may have any length."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from noisy_student.core.errors import UserError

SPLIT_NAMES = {"": "", "test": "test", "train": "", "training": ""}  # what `split` may say, and what that means
MAX_BYTES = 1_000_000_000  # of the rows that are kept
MANY = 2_000_000  # rows without labels, above which a sample of them is kept
SPARE = 0.1  # of the images wanted, which are kept beyond them, for some may be unusable or show the same
NUMBER, HASH = "number of the row", "hash of the path"  # columns beside those of a manifest while it is read


@dataclass(frozen=True)
class Sample:
    """Which rows without labels are kept of very many."""

    pool: int | None = None  # so many images are drawn of them; None: all are wanted
    always: frozenset[str] = frozenset()  # paths of images that are kept, such as those that a person has labeled

    @property
    def most(self) -> int | None:
        """How many rows are kept."""
        return self.pool + round(SPARE * self.pool) if self.pool else None


ALL = Sample()


class ManifestRows:
    """All rows of the manifest at `path`, or with a `sample` of those without labels: the different paths that have the
    smallest hashes, so that no order of the rows changes which these are.

    `used` are the columns, and what manifest.py calls them.
    """

    def __init__(self, path: Path, used: dict[str, str], sample: Sample):
        self.path, self.names, self.most = path, {column: name for name, column in used.items()}, sample.most
        self.schema = pa.schema([(name, pa.string()) for name in used])
        self.always = pa.array(sorted(sample.always), pa.string())
        self.known: list[pa.Table] = []  # rows that are kept, each with its number
        self.pool: list[pa.Table] = []  # the others, also with the hash of the path
        self.seen, self.unlabeled, self.bytes, self.bound = 0, 0, 0, 2**64 - 1  # `bound`: the largest hash that is kept

    def add(self, part: pa.Table) -> None:
        """Add the next rows. Raises `UserError` where too much is kept."""
        part = part.select(self.schema.names).cast(self.schema)
        known = self._is_kept(part)
        part = part.append_column(NUMBER, pa.array(np.arange(self.seen, self.seen + len(part))))
        self.seen, self.unlabeled = self.seen + len(part), self.unlabeled + int((~known).sum())
        self._append(self.known, part.filter(pa.array(known)))
        unknown = part.filter(pa.array(~known))
        hashes = pd.util.hash_array(self._text(unknown, "path").to_numpy())
        self._append(self.pool, unknown.append_column(HASH, pa.array(hashes)).filter(pa.array(hashes <= self.bound)))
        if self.most and self.unlabeled > MANY and sum(map(len, self.pool)) > 2 * self.most:
            self._thin(self.most)
        if self.bytes > MAX_BYTES:
            remedy = "list them in shards" if self.most else "set data.pool, the images that are drawn of them"
            raise UserError(f"{self.path} holds more than {MAX_BYTES:,} bytes; {remedy}")

    def table(self) -> pd.DataFrame:
        """What is kept, in the order of the manifest, all text; says so where it is a sample."""
        if self.most and self.unlabeled > MANY:
            self._thin(self.most)
            kept = sum(map(len, self.pool))
            print(f"{self.path}: {kept:,} of {self.unlabeled:,} rows without labels are drawn from", flush=True)
        empty = self.schema.append(pa.field(NUMBER, pa.int64())).empty_table()
        parts = [empty, *self.known, *(each.drop_columns(HASH) for each in self.pool)]
        return pa.concat_tables(parts).sort_by(NUMBER).drop_columns(NUMBER).to_pandas()

    def _is_kept(self, part: pa.Table) -> np.ndarray:
        """Which rows of `part` are kept in any case, bool (n,): with a label, of the test split, without a path (they
        are listed as unusable), and those that `always` names."""
        path = self._text(part, "path")
        kept = [pc.equal(path, ""), pc.not_equal(self._text(part, "label"), "")]
        of_pool = pa.array([name for name, meaning in SPLIT_NAMES.items() if not meaning])
        kept.append(pc.invert(pc.is_in(pc.utf8_lower(self._text(part, "split")), of_pool)))
        kept += [pc.is_in(each, self.always) for each in (path, pc.replace_substring(path, "\\", "/"))]
        return np.logical_or.reduce([np.asarray(each) for each in kept])

    def _text(self, part: pa.Table, column: str) -> pa.ChunkedArray:
        """The values of a column, without spaces around them; empty where it is missing."""
        if column not in self.names:
            return pa.chunked_array([pa.array([""] * len(part), pa.string())])
        return pc.utf8_trim_whitespace(part[self.names[column]].fill_null(""))

    def _append(self, to: list[pa.Table], rows: pa.Table) -> None:
        if len(rows):
            to.append(rows)
            self.bytes += rows.nbytes

    def _thin(self, most: int) -> None:
        """Keep the first row of each path, and of these the `most` smallest hashes."""
        if not self.pool:
            return
        together = pa.concat_tables(self.pool)
        hashes, first = np.unique(together[HASH].to_numpy(), return_index=True)
        if len(hashes) > most:
            self.bound, first = int(hashes[most - 1]), first[:most]
        self.bytes -= sum(each.nbytes for each in self.pool)
        self.pool = [together.take(np.sort(first)).combine_chunks()]
        self.bytes += self.pool[0].nbytes
