"""A user's images as a source: list the files, decode them, quarantine the bad ones."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError
from noisy_student.core.files import write_csv
from noisy_student.data.dataset import Dataset, Images, UserFiles
from noisy_student.data.decoding_work import DecodingWork
from noisy_student.data.listing import HIDDEN, SPLITS, Listing, list_folder, list_manifest
from noisy_student.data.manifest import class_name
from noisy_student.data.manifest_rows import Sample
from noisy_student.data.parallel_decoding import DecodedListing, decode_listing, decode_together
from noisy_student.data.shards import list_shards
from noisy_student.store.decoding import Preparation

LISTS: dict[str, Callable[[Path], Listing]] = {
    "folder": list_folder,
    "manifest": list_manifest,
    "shards": list_shards,
}


class BadFraction(NamedTuple):
    """The most of a user's files that may be unusable."""

    most: float  # from 0 to 1
    key: str  # where it stands in params.yaml


def load_user_images(
    source: str, path: Path, how: Preparation, limit: BadFraction, scratch: Path | None = None
) -> Dataset:
    """The images of a folder, a manifest or shards (`source`), decoded into a file in `scratch`.

    Raises `UserError` for more bad files than `limit` allows, fewer than two classes, a class without a usable image,
    one that only the test split has, and what the functions of LISTS and `decode_listing` refuse.
    """
    listing = LISTS[source](path)
    return _dataset(path, listing, decode_listing(listing, how, scratch), limit, scratch)


def load_user_images_together(
    source: str,
    path: Path,
    how: Preparation,
    limit: BadFraction,
    work: DecodingWork,
    streamed_pool: bool,
    sample: Sample,
) -> Dataset | None:
    """Like `load_user_images`, by all ranks, each of which lists and decodes a share; None in all but the first.

    A `streamed_pool` stays in its shards. Of a very long manifest a `sample` is decoded. The `work` must
    not be removed before this returns.
    """
    if source == "manifest":
        listing = list_manifest(path, sample)
    else:
        listing = list_shards(path, together=True) if source == "shards" else LISTS[source](path)
    decoded = decode_together(listing, how, work, streamed_pool)
    return _dataset(path, listing, decoded, limit, work.parent) if decoded else None


def _dataset(
    path: Path, listing: Listing, decoded: DecodedListing, limit: BadFraction, scratch: Path | None
) -> Dataset:
    """The data set of a listing whose files were decoded."""
    _check_bad_fraction(decoded.quarantine, len(listing), limit, scratch)
    files = decoded.files
    classes = _classes(listing, files, path)
    _warn_of_classes(classes, files)
    number_of = {name: number for number, name in enumerate(classes)}
    labels = np.array([number_of.get(name, -1) for name in files["label"].cat.categories])[files["label"].cat.codes]
    ends = np.cumsum([(files["split"] == split).sum() for split in SPLITS])
    rows = [np.arange(start, end) for start, end in zip((0, *ends), ends, strict=False)]
    test, training, unlabeled = (
        {"images": decoded.images.at(each), "labels": labels[each], "ids": files["path"].iloc[each]} for each in rows
    )
    return Dataset(
        **training,
        classes=classes,
        test=Images(**test) if len(test["ids"]) else None,
        unlabeled=Images(**unlabeled) if len(unlabeled["ids"]) else None,
        user_files=UserFiles(
            hashes=decoded.hashes,
            sizes=decoded.sizes,
            groups=_groups(files),
            drops=files["drop"].cat.codes.to_numpy(np.int64),
            quarantine=decoded.quarantine,
            white=decoded.white,
            image_places=decoded.image_places,
        ),
    )


def check_pool(source: str, path: Path, dataset: Dataset) -> None:
    """Raise `UserError` where all of a user's images in `path` (of a `source` of LISTS) have a label."""
    if dataset.unlabeled:
        return
    if source == "folder":
        raise UserError(f"{path / 'pool'} is missing or has no usable image; put unlabeled images there")
    what = "add lines whose label is empty" if source == "manifest" else "list shards of images without labels, too"
    raise UserError(f"{path} lists no usable image without a label; {what}")


def look_alikes(classes: list[str]) -> list[tuple[str, str]]:
    """Pairs of `classes` whose names differ in capital letters or spaces alone."""
    by_name: dict[str, str] = {}
    keys = [" ".join(name.split()).casefold() for name in classes]
    return [
        (by_name[key], name) for key, name in zip(keys, classes, strict=True) if by_name.setdefault(key, name) != name
    ]


def _warn_of_classes(classes: list[str], files: pd.DataFrame) -> None:
    """Say which `classes` have nearly the same name, and which the test split does not have."""
    for one, other in look_alikes(classes):
        print(
            f"warning: the classes {one!r} and {other!r} differ in capitals or spaces alone; if they are one, give "
            "them one name",
            flush=True,
        )
    tested = _labels(files, "test")
    if tested and (without := sorted(set(classes) - tested)):
        print(f"warning: the test split has no image of {', '.join(without)}", flush=True)


def _classes(listing: Listing, files: pd.DataFrame, path: Path) -> list[str]:
    """The classes of the labeled images, in the order of their names."""
    listed, used = (_labels(table, "labeled") for table in (listing.files, files))
    if (path / "labeled").is_dir():
        listed |= {class_name(each.name) for each in (path / "labeled").iterdir() if each.is_dir()}
        listed = {name for name in listed if not name.startswith(".")}
    if empty := sorted(listed - used):
        raise UserError(f"no image of the class {empty[0]!r} in {path} can be used; mend them or remove the class")
    if len(used) < 2:
        raise UserError(f"{path} has labels of {len(used)} class; it needs two classes or more")
    if alone := sorted(_labels(files, "test") - used):
        meant = [
            f" (there is the class {one!r})"
            for one, other in look_alikes([*sorted(used), alone[0]])
            if other == alone[0]
        ]
        raise UserError(
            f"the class {alone[0]!r} of {path} is in the test split alone{''.join(meant)}; label some for training, or "
            "remove it"
        )
    return sorted(used)


def _labels(files: pd.DataFrame, split: str) -> set[str]:
    return set(files.loc[files["split"] == split, "label"].unique())


def _groups(files: pd.DataFrame) -> np.ndarray | None:
    named = files["group"] != ""
    return np.where(named, files["group"].cat.codes, -1).astype(np.int64) if named.any() else None


def _check_bad_fraction(quarantine: pd.DataFrame, listed: int, limit: BadFraction, scratch: Path | None) -> None:
    """Raise `UserError` with the five commonest reasons if too many files are bad, and list all of them in `scratch`.

    Details of a reason follow its colon. Hidden files do not count: systems leave them in folders.
    """
    if scratch:
        (scratch / "quarantine.csv").unlink(missing_ok=True)  # of a run before
    quarantine = quarantine[quarantine["reason"] != HIDDEN]
    if not len(quarantine) or len(quarantine) / listed <= limit.most:
        return
    kinds = quarantine["reason"].str.partition(": ")[0]
    examples = quarantine["path"].groupby(kinds).first()
    commonest = kinds.value_counts().head(5).items()
    reasons = "; ".join(f"{count:,} {kind}, such as {examples[kind]}" for kind, count in commonest)
    if scratch:
        write_csv(scratch / "quarantine.csv", quarantine)
    where = f"; all are in {scratch / 'quarantine.csv'}" if scratch else ""
    section, _, key = limit.key.rpartition(".")
    percent = -(-100 * len(quarantine) // listed)
    raise UserError(
        f"{len(quarantine):,} of {listed:,} files cannot be used, more than {limit.key} {limit.most} allows "
        f"({reasons}{where}); fix or remove the files, or write `{key}: {percent / 100}` below `{section}:` in "
        "params.yaml"
    )
