"""Lists a user's images before any is opened: from a folder, or from a manifest that names them.

    labeled/<class>/**     images with labels
    pool/**                images without; each folder directly in pool/ is a drop of its own
    test/<class>/**        the test split, if there is one of its own

A manifest, see manifest.py, has the columns path (below the manifest's folder), label (empty: unlabeled) and, where
they are wanted, split (test, train or empty) and group (images that belong together: see `splitting.draw`).
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError
from noisy_student.data.manifest import class_name, read_manifest
from noisy_student.data.manifest_rows import ALL, Sample
from noisy_student.store.decoding import BadImage, Preparation, read_inside
from noisy_student.store.encoded_images import ImagePlaces

SPLITS = ("test", "labeled", "pool")  # in the order in which rows are counted
LISTING_COLUMNS = ("path", "label", "split", "group", "drop")
HIDDEN = "hidden, or a system's own"
SYSTEMS_OWN = {"Thumbs.db", "desktop.ini"}
LINKED = "a link to a folder, which is not followed"
CHUNK = 128  # images that a process holds at once
MAX_DROPS = 1000  # each has files of its own
FILES_PER_BLOCK = 8192  # files whose rows are Python's own texts, five times as large as TEXT
TEXT = "string[pyarrow]"  # a third of the memory of Python's


@dataclass(frozen=True)
class Listing:
    """The files below `root`: the usable ones in `files`, the others with a reason in `unusable`."""

    root: Path
    files: pd.DataFrame  # LISTING_COLUMNS, all text: test images first, then labeled ones, then the pool drop by drop
    unusable: pd.DataFrame  # path, reason

    def __len__(self) -> int:
        return len(self.files) + len(self.unusable)

    def tasks(self) -> list[range]:
        """The rows of `files` that a process decodes at once, together all of them, in order."""
        return [range(start, min(start + CHUNK, len(self.files))) for start in range(0, len(self.files), CHUNK)]

    def names(self, rows: np.ndarray) -> list[str]:
        """What a person finds the files at `rows` (n,) by."""
        return self.files["path"].iloc[rows].tolist()

    def image_places(self, rows: np.ndarray, how: Preparation, channels: int) -> ImagePlaces | None:
        """Where the images at `rows` (n,) are in shards; None: they are files of their own."""
        return None

    def digest(self) -> str:
        """The sha256, in hex, of which files there are, in their order."""
        hashed = sha256(os.fsencode(os.path.realpath(self.root)))
        for start in range(0, len(self.files), FILES_PER_BLOCK):
            names = self.files["path"].iloc[start : start + FILES_PER_BLOCK]
            hashed.update("\0".join(["", *names]).encode("utf-8", "surrogatepass"))
        return hashed.hexdigest()

    def versions(self, rows: range) -> np.ndarray:
        """What tells that the files at `rows` changed, int64 (n,3): their sizes, and when they and links to them last
        changed, in ns, also by a change of who may read them; -1 for one that is gone."""
        return np.array([self._version(path) for path in self.files["path"].iloc[rows.start : rows.stop]], np.int64)

    def _version(self, path: str) -> tuple[int, int, int]:
        try:
            file, entry = os.stat(self.root / path), os.lstat(self.root / path)
        except (OSError, ValueError):
            return -1, -1, -1
        return file.st_size, file.st_ctime_ns, entry.st_ctime_ns

    def contents(self, rows: range) -> Iterator[bytes | BadImage]:
        """The bytes of each file at `rows`, or why it cannot be read."""
        root = os.path.realpath(self.root)
        for path in self.files["path"].iloc[rows.start : rows.stop].tolist():
            try:
                yield read_inside(root, path)
            except BadImage as bad:
                yield bad


def list_folder(root: Path) -> Listing:
    """The files below `root`. Raises `UserError` for no folder labeled/, for a link to a split, a class or a drop, and
    for more than MAX_DROPS drops."""
    check_folders(root, needs_pool=False)
    unusable: list[tuple[str, str]] = []
    rows = filter(None, (_row(path, problem, unusable) for path, problem in files_below(root)))
    blocks = [typed(pd.DataFrame([], columns=list(LISTING_COLUMNS)))]
    while block := list(islice(rows, FILES_PER_BLOCK)):
        blocks.append(typed(pd.DataFrame(block, columns=list(LISTING_COLUMNS))))
    listing = _sorted(root, pd.concat(blocks, ignore_index=True), pd.DataFrame(unusable, columns=["path", "reason"]))
    if (many := listing.files["drop"].nunique()) > MAX_DROPS:
        raise UserError(
            f"{root} has {many:,} folders directly in pool/, each a drop; put them into fewer folders there"
        )
    return listing


def check_folders(root: Path, needs_pool: bool) -> None:
    """Raise `UserError` where `root` has no labeled/, or no pool/ but a folder that may have been meant."""
    if not (root / "labeled").is_dir():
        raise UserError(
            f"{root} has no folder labeled/ with a folder of images for each class{_instead(root)}; see data.path"
        )
    if needs_pool and not (root / "pool").is_dir() and (other := _instead(root)):
        raise UserError(f"{root} has no folder pool/ with images without labels{other}; rename the one that is meant")


def _instead(root: Path) -> str:
    """Which folders of other names `root` has, in words."""
    others = sorted(f"{each.name}/" for each in root.glob("[!.]*") if each.is_dir() and each.name not in SPLITS)
    return f", but {', '.join(others[:5])}" if others else ""


def list_manifest(path: Path, sample: Sample = ALL) -> Listing:
    """The files that the manifest at `path` names, of a very long one a `sample`. Raises `UserError` when
    `read_manifest` does."""
    table = read_manifest(path, sample)
    table["split"] = table["split"].where(table["split"] == "test", np.where(table["label"] != "", "labeled", "pool"))
    reasons = pd.Series("", index=table.index)
    reasons[(table["split"] == "test") & (table["label"] == "")] = "a test image without a label"
    reasons[table.duplicated("path")] = "listed twice"
    first_labels = table.groupby("path")["label"].transform("first")
    reasons[table.duplicated("path") & (first_labels != table["label"])] = "listed twice, with another label"
    reasons[table["path"] == ""] = "no path"
    bad = reasons != ""
    unusable = pd.DataFrame({"path": table["path"][bad], "reason": reasons[bad]})
    return _sorted(path.parent, table[~bad].assign(drop=""), unusable)


def _row(path: str, problem: str, unusable: list[tuple[str, str]]) -> tuple[str, ...] | None:
    """The row of the file at `path` of a folder; None for one that is no image of a split, which goes to `unusable`."""
    if path == ".gitkeep":
        return None  # what keeps the empty folder in git
    split, *below = path.split("/")
    if reason := problem or _misplaced(split, below):
        if problem == LINKED and len(below) < 2:
            raise UserError(f"{path} is {LINKED}; move the images there, or name them in a manifest: see data.path")
        unusable.append((path, reason))
        return None
    if split != "pool":
        return path, class_name(below[0]), split, "", ""
    return path, "", split, "", below[0] if len(below) > 1 else ""


def _misplaced(split: str, below: list[str]) -> str:
    if not below or split not in SPLITS:
        return "outside of labeled/, pool/ and test/"
    if any(part.startswith(".") for part in below) or below[-1] in SYSTEMS_OWN:
        return HIDDEN
    of_class = split == "pool" or (len(below) > 1 and below[0].strip())
    return "" if of_class else "in no folder of a class"


def files_below(root: Path) -> Iterator[tuple[str, str]]:
    """The path of each file below `root`, with slashes, and why it cannot be used ("" if it can), folder by folder.

    Links to folders are not followed, for they may lead out or in a circle.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        files: list[str] = []
        problems: dict[str, str] = {}
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    (folders if entry.is_dir(follow_symlinks=False) else files).append(path)
                    if problem := _problem(entry):
                        problems[path] = problem
        except OSError as error:
            raise UserError(f"the folder {root / folder} cannot be read: {error.strerror}; make it readable") from None
        waiting += sorted(folders, reverse=True)
        for path in sorted(files):
            shown = readable(path)
            yield shown, problems.get(path, "" if shown == path else "its name is no UTF-8")


def readable(path: str) -> str:
    """`path` as text, even where its bytes are not UTF-8."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _problem(entry: os.DirEntry[str]) -> str:
    return LINKED if entry.is_symlink() and os.path.isdir(entry.path) else ""


def typed(files: pd.DataFrame) -> pd.DataFrame:
    """`files` with column types that need little memory."""
    texts = {name: TEXT for name in LISTING_COLUMNS if name != "split"}
    return files.astype({"split": pd.CategoricalDtype(SPLITS)} | texts)


def _sorted(root: Path, files: pd.DataFrame, unusable: pd.DataFrame) -> Listing:
    files = in_order(files)
    return Listing(root, files[list(LISTING_COLUMNS)], unusable.sort_values("path", ignore_index=True))


def in_order(files: pd.DataFrame) -> pd.DataFrame:
    """`files` in the order of a `Listing`, in little memory; further columns stay."""
    files = typed(files).astype({"label": "category", "group": "category", "drop": "category"})
    return files.iloc[np.lexsort((files["drop"].cat.codes, files["split"].cat.codes))].reset_index(drop=True)
