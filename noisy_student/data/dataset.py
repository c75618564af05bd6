"""A data set of any source: images, labels, ids.

N images of H x W pixels and C channels; `images` is an array or anything that gives one for a slice or for rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.data.splitting import Index
from noisy_student.store.encoded_images import ImagePlaces
from noisy_student.store.selection import Selection
from noisy_student.store.splits import pixel_hash


@dataclass(frozen=True, eq=False)
class Images:
    """N images of one size."""

    images: Any  # uint8 (N,H,W,C)
    labels: np.ndarray  # int64 (N,), -1 where unknown
    ids: pd.Series  # text (N,), such as mnist_5k/00012


@dataclass(frozen=True, eq=False)
class UserFiles:
    """What is known of images from a user's files; rows count all parts together."""

    hashes: np.ndarray  # S64 (N,), sha256 of the pixels
    sizes: np.ndarray  # int32 (N,2), width and height of the files' images
    groups: np.ndarray | None  # int64 (N,), -1: in none
    drops: np.ndarray  # int64 (N,)
    quarantine: pd.DataFrame  # the files that are not among them: path, sha256, reason
    white: int | None = None  # value of white in 16-bit gray files that do not tell it; None where there are none
    image_places: ImagePlaces | None = None  # where the images are in shards; None where all are copied


@dataclass(frozen=True, eq=False)
class Dataset(Images):
    """The training images of a source, and what comes with them."""

    classes: list[str]  # names, in the order of the labels
    test: Images | None = None  # the source's own test split
    unlabeled: Images | None = None
    user_files: UserFiles | None = None

    @property
    def parts(self) -> list[Images]:
        """All parts, in the order in which rows are counted: the source's test split, training images, unlabeled
        images."""
        return [part for part in (self.test, self, self.unlabeled) if part]

    @property
    def image_places(self) -> ImagePlaces | None:
        """Where the images are in shards, if the pool stays there."""
        return self.user_files.image_places if self.user_files else None

    def found_preparation(self) -> dict[str, int]:
        """What the files told of their preparation, to be kept with that of `params.yaml`."""
        return {"white": self.user_files.white} if self.user_files and self.user_files.white else {}

    def figures(self) -> dict[str, int]:
        """Counts and sizes of a user's files; empty for other sources."""
        if not self.user_files:
            return {}
        usable, bad = len(self.user_files.hashes), len(self.user_files.quarantine)
        sides = np.sort(self.user_files.sizes.min(axis=1))
        return {
            "files": usable + bad,
            "usable": usable,
            "quarantined": bad,
            "different_images": len(np.unique(self.user_files.hashes)),
            "smallest_side_pixels": int(sides[0]),
            "median_side_pixels": int(sides[len(sides) // 2]),
            "largest_side_pixels": int(self.user_files.sizes.max()),
            **({"white_of_16_bit_files": self.user_files.white} if self.user_files.white else {}),
        }

    def quarantine(self) -> pd.DataFrame:
        """The files that cannot be used: path, sha256, reason."""
        return self.user_files.quarantine if self.user_files else pd.DataFrame(columns=["path", "sha256", "reason"])

    def all_images(self) -> Selection:
        """The images of all parts, one after the other."""
        arrays = [part.images for part in self.parts]
        return Selection(arrays, np.arange(sum(map(len, arrays))))

    def all_ids(self) -> pd.Series:
        """The ids of all parts, text (N,)."""
        return pd.concat([part.ids for part in self.parts], ignore_index=True)

    def index(self) -> Index:
        """What the splits are drawn from."""
        labels = np.concatenate([part.labels for part in self.parts])
        source_test, classes = len(self.test.ids) if self.test else 0, len(self.classes)
        if self.user_files:
            known = self.user_files
            return Index(labels, known.hashes, source_test, classes, known.groups, known.drops)
        hashes = np.array([found for part in self.parts for found in pixel_hash(part.images)], "S64")
        return Index(labels, hashes, source_test, classes)
