"""A user's images inside shards, read where they lie.

Keys are ids. An image without a label is in the pool, and the pool's images of a shard are a drop.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pandas as pd

from noisy_student.core import ranks
from noisy_student.core.errors import UserError
from noisy_student.core.progress import meter
from noisy_student.data.listing import LISTING_COLUMNS, Listing, in_order, typed
from noisy_student.data.shard_contents import Found, images_in
from noisy_student.store.decoding import BadImage, Preparation
from noisy_student.store.encoded_images import ImagePlaces, block_numbers, read_encoded
from noisy_student.store.shard_files import Shard, read_list

AT_ONCE = 8  # shards that are listed at the same time: a store makes each wait


@dataclass(frozen=True)
class ShardListing(Listing):
    """Images in shards; `root` is the folder of their list."""

    shards: list[Shard]
    places: np.ndarray  # PLACE (N,), of each row of `files`

    def tasks(self) -> list[range]:
        """The rows that a process decodes at once: of a block of a tar, or of a row group of a Parquet file."""
        if not len(self.places):
            return []
        part = block_numbers(self.places)
        changes = [np.diff(each, prepend=-1) != 0 for each in (self.places["shard"], part)]
        falls = np.diff(self.places["start"], prepend=-1) < 0  # labeled rows of a shard come before its pool
        edges = np.flatnonzero(changes[0] | changes[1] | falls).tolist()
        return [range(start, end) for start, end in zip(edges, [*edges[1:], len(part)], strict=True)]

    def names(self, rows: np.ndarray) -> list[str]:
        """The shard and the key of the images at `rows` (n,)."""
        shards = [self.shards[number].url for number in self.places["shard"][rows]]
        return [f"{url}/{key}" for url, key in zip(shards, super().names(rows), strict=True)]

    def image_places(self, rows: np.ndarray, how: Preparation, channels: int) -> ImagePlaces:
        """Where the images at `rows` (n,) are in the shards."""
        return ImagePlaces(self.shards, self.root, self.places[rows], how, channels)

    def digest(self) -> str:
        """The sha256, in hex, of which images of which versions of shards there are, in their order; another one each
        time where a shard has no version."""
        hashed = sha256(super().digest().encode())
        hashed.update(np.ascontiguousarray(self.places).data.cast("B"))
        versions = [(shard.url, shard.bytes, shard.version or uuid4().hex) for shard in self.shards]
        hashed.update(repr(versions).encode())
        return hashed.hexdigest()

    def versions(self, rows: range) -> np.ndarray:
        """Nothing, int64 (n,0): the shards' own versions are in the digest."""
        return np.empty((len(rows), 0), np.int64)

    def contents(self, rows: range) -> Iterator[bytes | BadImage]:
        """The encoded image at each of `rows`, which are of one task.

        Raises `UserError` for a shard that is gone or has changed.
        """
        places = self.places[rows.start : rows.stop]
        return read_encoded(self.shards[places["shard"][0]], self.root, places)


class _Listed(NamedTuple):
    """A shard's part of a listing."""

    files: pd.DataFrame
    places: np.ndarray
    unusable: list[tuple[str, str]]


def list_shards(path: Path, together: bool = False) -> ShardListing:
    """The images in the shards that the list at `path` names. With `together`, each rank lists a share of the shards.

    Raises `UserError` for a list that cannot be read, and a shard that is gone, has changed or cannot be read.
    """
    shards = read_list(path)
    own: dict[int, _Listed] = {}  # by the number of the shard
    numbers = ranks.share_of(len(shards)) if together else range(len(shards))
    with (
        meter("listing", len(shards), ranks.Counter() if together else None, unit="shards") as progress,
        ThreadPoolExecutor(AT_ONCE) as executor,
    ):
        every = executor.map(partial(images_in, folder=path.parent), (shards[number] for number in numbers))
        for number, found in zip(numbers, every, strict=True):
            own[number] = _listed(found, number, shards[number])
            progress.advance(1)
    parts = ranks.of_all(own) if together else [own]
    of_all = {number: each for part in parts for number, each in part.items()}
    blocks, places, problems = zip(*(of_all[number] for number in range(len(shards))), strict=True)
    unusable = list(chain(*problems))
    files = pd.concat(blocks, ignore_index=True).assign(row=np.arange(sum(map(len, blocks))))
    place = np.concatenate(places)
    again = files.duplicated("path").to_numpy()
    for row in np.flatnonzero(again).tolist():
        unusable.append((f"{shards[place['shard'][row]].url}/{files['path'][row]}", "its key is that of another image"))
    files = in_order(files[~again])
    listed = pd.DataFrame(unusable, columns=["path", "reason"]).sort_values("path", ignore_index=True)
    return ShardListing(path.parent, files[list(LISTING_COLUMNS)], listed, shards, place[files["row"].to_numpy(int)])


def _listed(found: Found, number: int, shard: Shard) -> _Listed:
    """What was `found` in the `shard` of that number, as rows of a listing."""
    found.places["shard"] = number
    split = ["labeled" if label else "pool" for label in found.labels]
    drop = ["" if label else shard.url for label in found.labels]
    columns = zip(LISTING_COLUMNS, (found.keys, found.labels, split, "", drop), strict=True)
    return _Listed(typed(pd.DataFrame(dict(columns))), found.places, found.unusable)


def check_versions(path: Path) -> None:
    """Raise `UserError` for a shard without a version in the list at `path`: a streamed pool could change unseen."""
    if unversioned := [shard.url for shard in read_list(path) if not shard.version]:
        raise UserError(
            f"the store tells no version of {unversioned[0]}, so a streamed pool could change unseen; set "
            "data.streamed_pool to false, or copy the shards to a disk"
        )


def about_how_many(path: Path) -> int:
    """About how many images the shards in the list at `path` have, going by the first one. Raises as `list_shards`."""
    shards = read_list(path)
    images = len(images_in(shards[0], path.parent).keys)
    return max(1, round(images * sum(shard.bytes for shard in shards) / shards[0].bytes))
