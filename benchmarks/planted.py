"""How many planted near-duplicates are found: python -m benchmarks.planted FOLDER

Of IMAGES images drawn from all below FOLDER a changed copy is made, one kind of change after the other, and the copies
are looked for among all as prepare does, at THRESHOLD. Writes benchmarks/planted.md.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from noisy_student.core.files import write_bytes
from noisy_student.data.listing import files_below
from noisy_student.data.near_duplicates import near_duplicates
from noisy_student.store.decoding import Preparation, decode

IMAGES, THRESHOLD = 2000, 0.96
TABLE = Path(__file__).with_suffix(".md")
HOW = Preparation(image_size=32, resize="crop", background=0, max_megapixels=50)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def resized(times: float) -> Callable[[Image.Image], bytes]:
    return lambda image: encoded(image.resize([round(side * times) for side in image.size], Image.Resampling.BILINEAR))


def shifted(right: int, down: int) -> Callable[[Image.Image], bytes]:
    """What moves out on one side is what is uncovered on the other: a shift's border shows something else."""
    return lambda image: encoded(ImageChops.offset(image, right, down))


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "none": encoded,
    "JPEG 90": lambda image: encoded(image, "JPEG", quality=90),
    "JPEG 75": lambda image: encoded(image, "JPEG", quality=75),
    "JPEG 50": lambda image: encoded(image, "JPEG", quality=50),
    "resized to 2": resized(2),
    "resized to 1.5": resized(1.5),
    "resized to 0.75": resized(0.75),
    "resized to 0.5": resized(0.5),
    "a pixel right": shifted(1, 0),
    "a pixel down": shifted(0, 1),
    "a pixel right and down": shifted(1, 1),
    "a pixel right and down, black border": lambda image: encoded(
        ImageOps.expand(image, (1, 1, 0, 0)).crop((0, 0, *image.size))
    ),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
    "mirrored, JPEG 75": lambda image: encoded(ImageOps.mirror(image), "JPEG", quality=75),
}


def main(folder: str) -> None:
    paths = [path for path, problem in files_below(Path(folder)) if not problem]
    drawn = sorted(np.random.default_rng(0).choice(paths, IMAGES, replace=False))
    images = [Image.open(Path(folder) / path).convert("RGB") for path in drawn]
    head = f"# Planted near-duplicates\n\n{IMAGES:,} images, each with a changed copy, at {THRESHOLD}.\n"
    lines = [head, "| change | found, % |", "|---|---:|"]
    for name, change in CHANGES.items():
        lines.append(f"| {name} | {100 * found(images, change):.2f} |")
        print(lines[-1], flush=True)
    write_bytes(TABLE, ("\n".join(lines) + "\n").encode())


def found(images: list[Image.Image], change: Callable[[Image.Image], bytes]) -> float:
    """Which share of the changed copies are taken for what they are."""
    both = [encoded(image) for image in images] + [change(image) for image in images]
    pixels = np.stack([np.broadcast_to(decode(content, HOW).pixels, (32, 32, 3)) for content in both])
    pairs, _ = near_duplicates(pixels, THRESHOLD)
    return float((pairs[:, 1] - pairs[:, 0] == len(images)).sum() / len(images))


if __name__ == "__main__":
    main(*sys.argv[1:])
