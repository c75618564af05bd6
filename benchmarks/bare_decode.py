"""What a machine can do at best with a folder of images: Pillow alone, on every core. Imports nothing of the project.

    python -m benchmarks.bare_decode FOLDER

Opens and decodes each file below FOLDER once, and prints their number and images a second as JSON.
"""

import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from PIL import Image

CHUNK = 128  # files that a process takes at once


def main(folder: str) -> None:
    paths = [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as executor:
        executor.submit(decode, paths[:1]).result()  # the processes start
        started = time.perf_counter()
        decoded = sum(executor.map(decode, chunks))
        seconds = time.perf_counter() - started
    print(json.dumps({"images": decoded, "images_per_second": decoded / seconds}))


def decode(paths: list[str]) -> int:
    """How many images there were."""
    for path in paths:
        with Image.open(path) as image:
            image.load()
    return len(paths)


if __name__ == "__main__":
    main(*sys.argv[1:])
