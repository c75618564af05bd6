"""How many planted near-duplicates are found: python -m benchmarks.planted FOLDER

Of IMAGES images drawn from all below FOLDER a copy is made for each kind of change. The copies are looked for as
prepare does, at THRESHOLD: among themselves, and among OTHERS that are made of all images below FOLDER. Writes
benchmarks/planted.md.
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from benchmarks.processes import hardware
from noisy_student.core.files import write_bytes
from noisy_student.core.markdown import markdown_table
from noisy_student.data.listing import files_below
from noisy_student.data.near_duplicates import RADIUS, agreeing, close_pairs, perceptual_hashes
from noisy_student.store.decoding import Preparation, decode

IMAGES, THRESHOLD, SIDE = 2000, 0.96, 32
OTHERS = (0, 100_000, 1_000_000)
TABLE = Path(__file__).with_suffix(".md")
HOW = Preparation(image_size=SIDE, resize="crop", background=0, max_megapixels=50)

ABOUT = """# Planted near-duplicates

{images:,} images, a copy of each for each kind of change, and others, each two photographs laid over each other. Pairs
count at an agreement of {threshold}. {hardware}."""


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
    photographs = np.stack([pixels((Path(folder) / path).read_bytes()) for path in paths])
    drawn = sorted(np.random.default_rng(0).choice(paths, IMAGES, replace=False))
    images = [Image.open(Path(folder) / path).convert("RGB") for path in drawn]
    planted = np.stack([pixels(change(image)) for change in (encoded, *CHANGES.values()) for image in images])
    found, costs = {}, []
    for others in OTHERS:
        among = Crowd(planted, photographs, others)
        found[f"{len(among):,}"], cost = search(among)
        costs.append([f"{len(among):,}", *cost])
        print(*costs[-1], sep=", ", flush=True)
    head = ["change", *(f"found among {images}, %" for images in found)]
    parts = [
        ABOUT.format(images=IMAGES, threshold=THRESHOLD, hardware=hardware()),
        markdown_table(head, list(zip(CHANGES, *found.values(), strict=True))),
        markdown_table(["images", "hashes, s", "search, s", "similar hashes", "comparison, s", "pairs"], costs),
    ]
    write_bytes(TABLE, ("\n\n".join(parts) + "\n").encode())


def pixels(content: bytes) -> np.ndarray:
    """An encoded image, decoded as prepare does: uint8 (SIDE,SIDE,3)."""
    return np.broadcast_to(decode(content, HOW).pixels, (SIDE, SIDE, 3))


class Crowd:
    """The images that are known, uint8 (M,SIDE,SIDE,3), and behind them so many others: two photographs laid over each
    other, drawn at random. They are made when they are asked for."""

    def __init__(self, known: np.ndarray, photographs: np.ndarray, others: int):
        self.known, self.photographs = known, photographs
        self.drawn = np.random.default_rng(others).integers(len(photographs), size=(others, 2))

    def __len__(self) -> int:
        return len(self.known) + len(self.drawn)

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        rows = np.arange(len(self))[part] if isinstance(part, slice) else part
        there = rows < len(self.known)
        found = np.empty((len(rows), *self.known.shape[1:]), np.uint8)
        found[there] = self.known[rows[there]]
        first, second = self.drawn[rows[~there] - len(self.known)].T
        found[~there] = (self.photographs[first].astype(np.uint16) + self.photographs[second]) // 2
        return found


def search(images: Crowd) -> tuple[list[str], list[str]]:
    """What share of each change is taken for what it is, in per cent, and what the search cost."""
    times = [time.perf_counter()]
    hashes = perceptual_hashes(images)
    times.append(time.perf_counter())
    close = close_pairs(hashes, RADIUS)
    times.append(time.perf_counter())
    pairs, _ = agreeing(images, close, THRESHOLD)
    times.append(time.perf_counter())
    hashing, searching, comparing = (f"{seconds:.1f}" for seconds in np.diff(times))
    copies = pairs[(pairs[:, 0] < IMAGES) & (pairs[:, 0] == pairs[:, 1] % IMAGES), 1] // IMAGES
    shares = 100 * np.bincount(copies, minlength=len(CHANGES) + 1)[1 : len(CHANGES) + 1] / IMAGES
    return [f"{share:.2f}" for share in shares], [hashing, searching, f"{len(close):,}", comparing, f"{len(pairs):,}"]


if __name__ == "__main__":
    main(*sys.argv[1:])
