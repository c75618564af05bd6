"""The files of a split besides its pixels: split.json and the tables of its images."""

from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
from pydantic import Field

from noisy_student.core.config import ParamsModel, validated
from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, read_json, read_parquet, write_parquet

DESCRIPTION = "split.json"
INDEX_COLUMNS = {
    "id": pa.string(),
    "label": pa.int64(),
    "sha256": pa.string(),
    "group": pa.int64(),
    "start": pa.int64(),
    "length": pa.int64(),
}

M = TypeVar("M", bound=ParamsModel)


class PixelShard(ParamsModel):
    """A file of decoded images in a split's folder."""

    file: str = Field(pattern=r"^images-[0-9]{5}\.npy$")  # its name inside the split's folder
    images: int = Field(ge=1)
    sha256: str  # of the file


class UserShard(ParamsModel):
    """A user's file of images, which stay there."""

    url: str
    bytes: int
    version: str
    images: int = Field(ge=1)


class Description(ParamsModel):
    """What split.json holds."""

    classes: list[str] = Field(min_length=1)  # names, in the order of the labels
    image_size: list[int] = Field(min_length=2, max_length=2)  # height and width, pixels
    channels: int = Field(ge=1)
    preparation: dict[str, Any]  # how an image of any size and kind is made one of these
    images: int = Field(ge=1)
    shards: list[PixelShard]
    user_shards: list[UserShard] = []
    user_folder: str | None = None  # below which the paths in `user_shards` are


def described(shape: tuple[int, ...], classes: list[str], preparation: dict[str, Any], **where: Any) -> Description:
    """What split.json says of images of that `shape` (N,H,W,C), and `where` they are."""
    images, height, width, channels = shape
    return Description(
        classes=classes,
        image_size=[height, width],
        channels=channels,
        preparation=preparation,
        images=images,
        **where,
    )


def check_folder(folder: Path) -> None:
    """Raise `UserError` where `folder` holds something that is no split, which writing one would remove."""
    if folder.exists() and not (folder / DESCRIPTION).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there and holds no split; name another folder or remove it")


def read_description(path: Path) -> Description:
    """What the split.json at `path` holds. Raises `UserError` where it is none."""
    return validated_in(Description, read_json(path), path)


def validated_in(model: type[M], value: Any, path: Path) -> M:
    """The `value` of the file at `path` as a `model`. Raises `UserError` where it is none."""
    try:
        return validated(model, value, "split", path)
    except UserError as error:
        raise UserError(f"{error}; {REMEDY}") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write columns of `INDEX_COLUMNS` as Parquet, without the metadata of pandas, which varies with its version."""
    write_parquet(path, pa.table({name: pa.array(table[name]).cast(INDEX_COLUMNS[name]) for name in table}))


def read_table(path: Path) -> pd.DataFrame:
    """The table at `path` without its hashes. Raises `UserError` for other columns than INDEX_COLUMNS, a missing value,
    and an id that stands there twice."""
    table = read_parquet(path)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.type != INDEX_COLUMNS.get(name) or column.null_count:
            raise UserError(f"{path} has a column {name} of {column.type} with {column.null_count} nulls; {REMEDY}")
    if "id" not in table.column_names or len(table["id"].unique()) != len(table):
        raise UserError(f"{path} does not name each image by an id of its own; {REMEDY}")
    read = [name for name in table.column_names if name != "sha256"]  # which nobody asks for, and is most of the bytes
    return table.select(read).to_pandas()
