"""CIFAR-10 as an ordinary folder of JPEG files, from the Parquet files that hold their bytes.

    python -m benchmarks.cifar_folder SOURCE FOLDER [--labels 4000] [--images 60000] [--classes dog frog]

SOURCE has cifar10-train.parquet and cifar10-test.parquet (path, label, jpeg). The first labels of each class become
labeled/<class>/, the other training images pool/ and the test images test/<class>/. The JPEGs are a little harder than
the original pixels.
"""

from argparse import ArgumentParser
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from noisy_student.core.errors import UserError, cli_main


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--labels", type=int, default=4000, help="training images with labels")
    parser.add_argument("--images", type=int, default=60_000, help="in all; five sixths are training images")
    parser.add_argument("--classes", nargs="+", help="those that are taken; none: all ten")
    args = parser.parse_args(argv)
    if args.folder.exists():
        raise UserError(f"{args.folder} is there, and its images would mix with these; remove it")
    training, test = (pq.read_table(args.source / f"cifar10-{part}.parquet").to_pylist() for part in ("train", "test"))
    known = {image["label"] for image in test}
    if unknown := set(args.classes or ()) - known:
        raise UserError(f"CIFAR-10 has no class {min(unknown)}; it has {', '.join(sorted(known))}")
    taken = set(args.classes or known)
    labeled: Counter[str] = Counter()
    for number, image in enumerate(training[: args.images * 5 // 6]):
        if image["label"] not in taken:
            continue
        labeled[image["label"]] += 1
        has_label = labeled[image["label"]] <= args.labels // 10
        write(args.folder / "labeled" / image["label"] if has_label else args.folder / "pool", number, image["jpeg"])
    for number, image in enumerate(test[: args.images // 6]):
        if image["label"] in taken:
            write(args.folder / "test" / image["label"], number, image["jpeg"])


def write(folder: Path, number: int, jpeg: bytes) -> None:
    """Write the image of that number into the `folder`, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number:05}.jpg").write_bytes(jpeg)


if __name__ == "__main__":
    main()
