"""The same work by what public trainers use: python -m benchmarks.side_by_side

    noise      RandAugment, a crop and a flip, from uint8 images to normalized batches: whole batches here; image by
               image with torchvision in processes of a loader; with kornia, where it is installed, whole batches too,
               all of whose images go through the same operations
    photos     the same with the noise of photographs: a random resized crop, brightness, contrast, color and a flip
    training   steps of the same net with that noise: ours, in float32 and bfloat16, and a plain loop in float32 over
               torchvision's loader, with SGD and without an average of the weights

Each is measured ROUNDS times in turn, in a process of its own, on images of SIDES pixels. Beside the noise stands
how strong it is: by how many levels, of 255, RandAugment alone changes a pixel. Writes side_by_side.md.
"""

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks import limits, public_noise, work
from benchmarks.processes import ROOT, hardware, run
from benchmarks.public_noise import BATCH, CLASSES, NOISE
from noisy_student.check import check
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_bytes
from noisy_student.models import registry
from noisy_student.models.device import keep_freed_memory, setup

MODEL, THREADS, ROUNDS = "cnn_24", 2, 3
SIDES = {"noise": (32, 96), "photos": (128, 224), "training": (32, 96)}
OURS = ("ours", "ours in bfloat16")
LAID_OUT = "torchvision, channels_last"  # with the memory layout that ours has, which the public trainers leave off
WAYS = {
    "noise": ["ours", "torchvision", "kornia"],
    "photos": ["ours", "torchvision"],
    "training": [*OURS, "torchvision", LAID_OUT],
}
DRAWS = 1000  # of operations, by which the strength is measured


def our_training_rate(way: str, side: int) -> float:
    """Images a second through our own training, by a student's recipe with MODEL, NOISE and one forward pass."""
    params = check(ParamsFile())
    precision = "bfloat16" if way == "ours in bfloat16" else "float32"
    runtime = params.runtime.model_copy(update={"precision": precision})
    student = params.recipes()["iter1"]
    training = student.training.model_copy(update={"batch_size": BATCH})
    recipe = work.with_one_pass(student.model_copy(update={"model": MODEL, "noise": NOISE, "training": training}))
    setup(runtime)
    params = params.model_copy(update={"runtime": runtime})
    return work.training(public_noise.pictures(side), recipe, params, torch.device("cpu"))


def strength(way: str, side: int) -> float:
    """By how many of 255 levels RandAugment changes a pixel in the mean; in pairs, as kornia draws once for a batch."""
    operate = public_noise.randaugment(way, side)
    pairs = public_noise.resident(side)[: 2 * DRAWS].split(2)
    return 255 * statistics.mean(float((operate(pair) - pair.float() / 255).abs().mean()) for pair in pairs)


def noise_rate(way: str, side: int, of_photos: bool = False) -> float:
    """Images a second through the noise."""
    if way == "torchvision":
        found = public_noise.batches(side, of_photos)
        return limits.per_second(lambda: next(found), BATCH)
    keep_freed_memory()  # as a stage does
    images = public_noise.resident(side)
    ours = public_noise.our_noise(public_noise.OF_PHOTOS if of_photos else NOISE)
    noised = ours if way == "ours" else public_noise.kornia_noise(side, alone=False)

    def batch() -> Tensor:
        noisy = noised(images[torch.randint(len(images), (BATCH,))])
        return noisy.sub_(public_noise.MEAN).div_(public_noise.DEVIATION)

    return limits.per_second(batch, BATCH)


def training_rate(way: str, side: int) -> float:
    """Images a second through steps of training."""
    if way in OURS:
        return our_training_rate(way, side)
    return plain_training_rate(MODEL, side, torch.channels_last if way == LAID_OUT else torch.contiguous_format)


def plain_training_rate(
    model: str, side: int, layout: torch.memory_format, device: str = "cpu", precision: str = "float32"
) -> float:
    """Images a second through a plain loop over torchvision's loader, with SGD."""
    network = registry.build(model, 3, CLASSES, (side, side), dropout=0.0, stochastic_depth=0.0)
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    optimizer, found = torch.optim.SGD(network.parameters(), 0.1, 0.9, nesterov=True), public_noise.batches(side)

    def step() -> None:
        images, targets = (each.to(device, non_blocking=True) for each in next(found))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits = network(images.contiguous(memory_format=layout))
        nn.functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return limits.per_second(step, BATCH)


KINDS: dict[str, Callable[[str, int], float]] = {
    "noise": noise_rate,
    "photos": partial(noise_rate, of_photos=True),
    "training": training_rate,
    "strength": strength,
}


def measured(kind: str, way: str, side: int) -> float:
    """One of KINDS, in a process of its own."""
    return run(ROOT, sys.executable, "-m", "benchmarks.side_by_side", kind, way, str(side)).figures()


def lines() -> Iterator[str]:
    """The rows of the table."""
    for kind, ways in WAYS.items():
        names = [way for way in ways if way != "kornia" or importlib.util.find_spec("kornia")]
        for side in SIDES[kind]:
            rounds = [{way: measured(kind, way, side) for way in names} for _ in range(ROUNDS)]
            for way in names:
                rate = f"{statistics.median(each[way] for each in rounds):,.0f}"
                changed = f"{measured('strength', way, side):.1f}" if kind == "noise" else ""
                cells = [kind, str(side), way, rate, *(times(rounds, own, way) for own in OURS), changed]
                print(*filter(None, cells), flush=True)
                yield f"| {' | '.join(cells)} |"


def times(rounds: list[dict[str, float]], own: str, way: str) -> str:
    """How many times as fast as `way` our `own` is, the median over the rounds."""
    return f"{statistics.median(each[own] / each[way] for each in rounds):.2f}" if own in rounds[0] else ""


def main() -> None:
    about = (
        f"Noise: {public_noise.WHAT}. Photos: {public_noise.WHAT_OF_PHOTOS}. Training of {MODEL} in batches of {BATCH}"
    )
    runs = f"Medians of {ROUNDS} runs in turn, on {THREADS} threads, or {public_noise.WORKERS} processes of a loader"
    head = ["# Side by side", "", f"{about}. {runs}. {hardware()}.", ""]
    columns = ["work", "pixels a side", "by", "images/s", *(f"{own}, times that" for own in OURS), "levels changed"]
    head += [f"| {' | '.join(columns)} |", "|---|---:|---|---:|---:|---:|---:|"]
    write_bytes(ROOT / "benchmarks" / "side_by_side.md", ("\n".join([*head, *lines()]) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        torch.set_num_threads(THREADS)
        print(json.dumps(KINDS[sys.argv[1]](sys.argv[2], int(sys.argv[3]))))
