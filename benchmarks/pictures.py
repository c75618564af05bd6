"""Small photos, all distinct, in folders or in shards, for what is measured on one's own images.

    python -m benchmarks.pictures FOLDER NUMBER [SIDE]

FOLDER then has labeled/<one of two classes>/, one image in ten, and pool/ with the others, in subfolders of 10,000:
JPEG files of SIDE pixels, 32 if it is not named, each another blur of random colors.
"""

import io
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

COARSE, QUALITY = 8, 90  # colors a side of the blur; of the JPEG
A_FOLDER = 10_000


def main(folder: str, number: str, side: str = "32") -> None:
    write(Path(folder), int(number), int(side))


def write(folder: Path, number: int, side: int = 32) -> None:
    """Write the pictures from 0 to before `number`, `side` pixels square; each is the same whatever their number."""
    for picture in range(number):
        where = below(folder, picture)
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{picture:07}.jpg").write_bytes(encoded(picture, side))


def write_shards(folder: Path, number: int, side: int = 32) -> None:
    """Write the same pictures as tars of A_FOLDER each."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, number, A_FOLDER):
        with tarfile.open(folder / f"{start // A_FOLDER:05}.tar", "w") as shard:
            for picture in range(start, min(start + A_FOLDER, number)):
                _add(shard, f"{picture:07}.jpg", encoded(picture, side))
                if label := label_of(picture):
                    _add(shard, f"{picture:07}.cls", label.encode())


def _add(shard: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    shard.addfile(member, io.BytesIO(content))


def encoded(picture: int, side: int) -> bytes:
    """The JPEG file of that picture."""
    colors = np.random.default_rng(picture).integers(256, size=(COARSE, COARSE, 3), dtype=np.uint8)
    file = io.BytesIO()
    image = Image.fromarray(colors).resize((side, side), Image.Resampling.BICUBIC)
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def label_of(picture: int) -> str:
    """The label of that picture, "" for one in the pool."""
    return "" if picture % 10 else ("left", "right")[picture // 10 % 2]


def below(folder: Path, picture: int) -> Path:
    """The folder of that picture."""
    part, label = f"{picture // A_FOLDER:03}", label_of(picture)
    return folder / "labeled" / label / part if label else folder / "pool" / part


if __name__ == "__main__":
    main(*sys.argv[1:])
