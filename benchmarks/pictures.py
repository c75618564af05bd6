"""Folders of small photos, all distinct, for what is measured on one's own images.

    python -m benchmarks.pictures FOLDER NUMBER [SIDE]

FOLDER then has labeled/<one of two classes>/, one image in ten, and pool/ with the others, in subfolders of 10,000:
JPEG files of SIDE pixels, 32 if it is not named, each another blur of random colors.
"""

import sys
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
        colors = np.random.default_rng(picture).integers(256, size=(COARSE, COARSE, 3), dtype=np.uint8)
        image = Image.fromarray(colors).resize((side, side), Image.Resampling.BICUBIC)
        image.save(where / f"{picture:07}.jpg", quality=QUALITY)


def below(folder: Path, picture: int) -> Path:
    """The folder of that picture."""
    part = f"{picture // A_FOLDER:03}"
    return folder / "pool" / part if picture % 10 else folder / "labeled" / ("left", "right")[picture // 10 % 2] / part


if __name__ == "__main__":
    main(*sys.argv[1:])
