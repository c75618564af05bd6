"""Splits whose images stay in a user's shards: their places there are on the disk, in tables beside split.json.

n images in a shard.
"""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, replacing, write_json
from noisy_student.store.decoding import Preparation
from noisy_student.store.encoded_images import BLOCKS_KEPT, PLACE, EncodedImages
from noisy_student.store.shard_files import Shard
from noisy_student.store.split_files import (
    DESCRIPTION,
    Description,
    UserShard,
    check_folder,
    described,
    read_table,
    validated_in,
    write_table,
)

INDEX_OF_SHARD = "index-{:05}.parquet"
INDICES_KEPT = 2 * BLOCKS_KEPT  # in memory
PLACE_COLUMNS = ("group", "start", "length")  # of a user's shard


def write_streamed_split(
    folder: Path, images: Sequence[EncodedImages], index: pd.DataFrame, classes: list[str], preparation: dict[str, Any]
) -> None:
    """Write to `folder` where the `images` of a split are, as a whole or not at all; they stay in their shards.

    There is at least one; `index` as for `write_split`. Raises `UserError` for a `folder` that holds something else.
    """
    check_folder(folder)
    shape = sum(map(len, images)), *images[0].shape[1:]
    starts = np.cumsum([0, *map(len, images)])
    shards = [UserShard(**each.shard._asdict(), images=len(each)) for each in images]
    description = described(
        shape, classes, preparation, shards=[], user_shards=shards, user_folder=str(images[0].folder)
    )
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        for number, (start, of_shard) in enumerate(zip(starts, images, strict=False)):
            places, rows = of_shard.read_places(), index.iloc[start : start + len(of_shard)]
            table = rows.assign(**{name: places[name] for name in PLACE_COLUMNS})
            write_table(temporary / INDEX_OF_SHARD.format(number), table)
        write_json(temporary / DESCRIPTION, description.model_dump(exclude_defaults=True))


def user_shards(folder: Path, description: Description) -> list[EncodedImages]:
    """The images that stay in a user's shards; nothing of these is read, nor of their indices."""
    how = validated_in(Preparation, description.preparation, folder / DESCRIPTION)
    return [
        EncodedImages(
            shard=Shard(shard.url, shard.bytes, shard.version),
            folder=Path(description.user_folder or ""),
            count=shard.images,
            read_places=partial(_places, folder / INDEX_OF_SHARD.format(number), shard.images),
            how=how,
            channels=description.channels,
        )
        for number, shard in enumerate(description.user_shards)
    ]


def ids_in_user_shards(folder: Path, description: Description) -> np.ndarray:
    tables = [read_table(folder / INDEX_OF_SHARD.format(number)) for number in range(len(description.user_shards))]
    return np.concatenate([table["id"].to_numpy(str) for table in tables])


def _places(path: Path, images: int) -> np.ndarray:
    """The places PLACE (N,) in the index of a user's shard."""
    return _read_places(path, images, path.stat().st_mtime_ns if path.exists() else 0)


@lru_cache(maxsize=INDICES_KEPT)
def _read_places(path: Path, images: int, changed: int) -> np.ndarray:
    """The same of an index that was `changed` at that time, nanoseconds."""
    index = read_table(path)
    if not set(PLACE_COLUMNS) <= set(index) or len(index) != images:
        raise UserError(f"{path} does not say where {images:,} images are in their shard; {REMEDY}")
    places = np.zeros(images, PLACE)
    for name in PLACE_COLUMNS:
        places[name] = index[name]
    return places
