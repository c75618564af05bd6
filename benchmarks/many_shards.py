"""What a run over 3·10^8 images in 30,000 shards does before a labeling decodes the first one.

    python -m benchmarks.many_shards lay_out FOLDER    # a list, a split, and logits of half the shards
    python -m benchmarks.many_shards begin FOLDER      # prints the seconds of each step as JSON

No image and no shard is there, and a file of logits has one number. `benchmarks.scale` measures it.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from noisy_student.core import ranks
from noisy_student.core.files import digest, write_array, write_json
from noisy_student.core.workspace import Work
from noisy_student.store.shard_files import read_list
from noisy_student.store.split_files import DESCRIPTION, Description, UserShard
from noisy_student.store.splits import read_split

SHARDS, IMAGES, BYTES = 30_000, 10_000, 742_000_000  # images and bytes of a shard
LIST, POOL, WORK = "shards.csv", "pool", "work"
T = TypeVar("T")
HOW: dict[str, Any] = {"image_size": 475, "resize": "crop", "background": 0, "max_megapixels": 50.0}


def main(what: str, folder: str) -> None:
    {"lay_out": lay_out, "begin": begin}[what](Path(folder))


def lay_out(folder: Path) -> None:
    """Write what `begin` reads."""
    lines = [f"s3://bucket/photos/part-{number:05}.tar,{BYTES},{number:032x}-89" for number in range(SHARDS)]
    (folder / LIST).write_text("\n".join(["url,bytes,version", *lines, ""]))
    shards = [UserShard(**shard._asdict(), images=IMAGES) for shard in read_list(folder / LIST)]
    description = Description(
        classes=[f"class {number:03}" for number in range(1000)],
        image_size=[HOW["image_size"]] * 2,
        channels=3,
        preparation=HOW,
        images=SHARDS * IMAGES,
        shards=[],
        user_shards=shards,
        user_folder=".",
    )
    write_json(folder / POOL / DESCRIPTION, description.model_dump(exclude_defaults=True))
    job = Work(folder / WORK)
    write_array(job.part / name_of(0), np.zeros((1, 1), np.float32))
    content, known = (job.part / name_of(0)).read_bytes(), digest(job.part / name_of(0))
    job.hashes.mkdir()
    for number in range(0, SHARDS, 2):
        (job.part / name_of(number)).write_bytes(content)
        (job.hashes / name_of(number)).write_text(known)


def begin(folder: Path) -> None:
    """Read the list and the split, find what is done, and take this rank's share of the rest."""
    shards, listing = timed(lambda: read_list(folder / LIST))
    split, reading = timed(lambda: read_split(folder / POOL))
    job = Work(folder / WORK)
    done, finding = timed(lambda: {number for number in range(SHARDS) if job.has(name_of(number))})
    missing = [number for number in range(len(split.shards)) if number not in done]
    left = [missing[place] for place in ranks.share_of(len(missing))]
    found = {"shards": len(shards), "images": len(split), "left": len(left)}
    print(json.dumps(found | {"list": listing, "split": reading, "done": finding}))


def timed(make: Callable[[], T]) -> tuple[T, float]:
    """What `make` returns, and the seconds it took."""
    started = time.perf_counter()
    made = make()
    return made, time.perf_counter() - started


def name_of(shard: int) -> str:
    return f"pool-{shard:05}.npy"


if __name__ == "__main__":
    main(*sys.argv[1:])
