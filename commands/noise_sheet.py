"""What noise does to your images at rising magnitude, as one picture: python -m commands.noise_sheet OUT

A row for each operation of RandAugment, for affine and jitter, the two crops, flip, cutout and the three ways to mix.
From left to right, the magnitude goes from 0 to 30. Noise without a magnitude goes up to a quarter of the side (crop),
half of the side (resized crop, cutout) or half of the image (mixing). A flip is shown from the middle on.
"""

from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.randomness import generator
from noisy_student.store.splits import read_split
from noisy_student.training.augmentation.mixing import MASKS, blended
from noisy_student.training.augmentation.operations import (
    OPERATIONS,
    affine,
    crop_and_flip,
    cutout,
    jitter,
    randaugment,
    resized_crop,
)
from noisy_student.training.augmentation.policy import JITTER_REACH, affine_reach, strengths

MAGNITUDES = (0, 5, 10, 15, 20, 25, 30)
TILE, GAP, NAMES, HEAD = 96, 6, 150, 32  # pixels: an image's side, between images, the names' column, the head
AMOUNT, FACTOR = np.array([[0.8, 0.6, -0.4, 0.5, 0.6, -0.4]]), np.array([[0.7, -0.8, 0.9]])  # of affine and jitter


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a PNG file to write")
    parser.add_argument("--images", type=Path, default=Path("data/labeled"), help="a split that prepare made")
    parser.add_argument("--image", type=int, default=0, help="the number of the one in it that is shown")
    parser.add_argument("--fill", type=int, default=0, help="the gray value, 0 to 255, of what a move uncovers")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != ".png":
        raise UserError(f"OUT was {args.out}; name a file that ends in .png")
    if not 0 <= args.fill <= 255:
        raise UserError(f"--fill was {args.fill}; it must be from 0 to 255")
    split = read_split(args.images)
    if not 0 <= args.image < len(split):
        raise UserError(f"--image was {args.image}; {args.images} has images 0 to {len(split) - 1}")
    other = (args.image + len(split) // 2) % len(split)
    two = torch.from_numpy(split.images(np.array([args.image, other]))).permute(0, 3, 1, 2)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet(two, args.fill).save(args.out)
    print(f"{args.out} shows every kind of noise")


def sheet(two: Tensor, fill: int = 0) -> Image.Image:
    """The picture for the first of `two` images uint8 (2,C,H,W), the second being what it is mixed with."""
    rows: dict[str, Callable[[float], Tensor]]
    size = (two.shape[2], two.shape[3])
    rows = {name.replace("_", " "): partial(operated, two, fill, name) for name in OPERATIONS}
    rows["affine"] = lambda share: affine(two[:1], share * AMOUNT * affine_reach(size)[None], fill)
    rows["jitter"] = lambda share: jitter(two[:1], 1 + share * FACTOR * JITTER_REACH)
    rows["crop"] = lambda share: cropped(two, share / 4, False, fill)
    rows["resized crop"] = lambda share: enlarged(two, 1 - share / 2)
    rows["flip"] = lambda share: cropped(two, 0, share >= 0.5, fill)
    rows["cutout"] = lambda share: with_cutout(two, share / 2, fill)
    for name in MASKS:
        rows[name] = partial(mixed, two, name)
    return drawn(rows)


def operated(two: Tensor, fill: int, name: str, share: float) -> Tensor:
    """The first image after the operation of RandAugment called `name` at that share of the highest magnitude."""
    number = OPERATIONS.index(name)
    height, width = two.shape[2:]
    strength = strengths(30 * share, (height, width))[number, 1]
    return randaugment(two[:1], np.array([[number]]), np.array([[strength]]), fill)


def cropped(two: Tensor, fraction: float, mirrored: bool, fill: int) -> Tensor:
    """The first image cut out that fraction of its sides further down and right, and mirrored if so asked."""
    shift = np.round(fraction * np.array([two.shape[2:]])).astype(np.int64)
    return crop_and_flip(two[:1], shift, np.array([mirrored]), fill)


def enlarged(two: Tensor, fraction: float) -> Tensor:
    """The middle of the first image, that fraction of its sides, enlarged to the whole."""
    size = np.array(two.shape[2:])
    kept = np.maximum(1, np.round(fraction * size)).astype(np.int64)
    return resized_crop(two[:1], np.concatenate([(size - kept) // 2, kept])[None], np.zeros(1, bool))


def with_cutout(two: Tensor, fraction: float, fill: int) -> Tensor:
    """The first image without a square of that fraction of its side, in the middle."""
    height, width = two.shape[2:]
    return cutout(two[:1], np.array([[height // 2, width // 2]]), round(fraction * min(height, width)), fill)


def mixed(two: Tensor, name: str, share: float) -> Tensor:
    """The first image, half of `share` of it replaced by the second."""
    height, width = two.shape[2:]
    mask = MASKS[name](generator(0, "sheet"), np.array([1 - share / 2]), height, width)
    return blended(two[:1], two[1:], torch.from_numpy(mask[:, None].astype(np.float32)))


def drawn(rows: dict[str, Callable[[float], Tensor]]) -> Image.Image:
    """The images of `rows`, which are functions of the share of the highest magnitude, in two columns with names."""
    items = list(rows.items())
    half = -(-len(items) // 2)
    left, right = (_column(items[start : start + half], half) for start in (0, half))
    picture = Image.new("RGB", (left.width + right.width, left.height), "white")
    picture.paste(left, (0, 0))
    picture.paste(right, (left.width, 0))
    return picture


def _column(items: list[tuple[str, Callable[[float], Tensor]]], height: int) -> Image.Image:
    """A row of tiles for each item, with its name before them and the magnitudes above; as high as `height` rows."""
    step = TILE + GAP
    picture = Image.new("RGB", (NAMES + step * len(MAGNITUDES), HEAD + step * height), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(18)
    for column, magnitude in enumerate(MAGNITUDES):
        pen.text((NAMES + column * step + TILE // 2, HEAD // 2), str(magnitude), "black", font, anchor="mm")
    for row, (name, make) in enumerate(items):
        top = HEAD + row * step
        pen.text((NAMES - 12, top + TILE // 2), name, "black", font, anchor="rm")
        for column, magnitude in enumerate(MAGNITUDES):
            pixels = make(magnitude / MAGNITUDES[-1])[0].permute(1, 2, 0).numpy()
            tile = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels).convert("RGB")
            picture.paste(tile.resize((TILE, TILE), Image.Resampling.NEAREST), (NAMES + column * step, top))
    return picture


if __name__ == "__main__":
    main()
