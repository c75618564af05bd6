"""The same work by what public trainers use: python -m benchmarks.side_by_side

    noise      RandAugment (OPERATIONS at MAGNITUDE), a crop and a flip: whole batches here; image by image with
               torchvision in WORKERS processes of a loader; with kornia, where it is installed, whole batches too
    training   steps of the same net with that noise: ours, in float32 and bfloat16, and a plain loop in float32 over
               torchvision's loader

Each is measured ROUNDS times in turn, in a process of its own, on images of 32 and 96 pixels. Writes side_by_side.md.
"""

import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import limits, work
from benchmarks.processes import ROOT, hardware, run
from noisy_student import models
from noisy_student.config import Params
from noisy_student.files import write_bytes
from noisy_student.noise import NoiseParams
from noisy_student.pipeline import check

OPERATIONS, MAGNITUDE, CROP, FILL = 2, 15, 4, 128
NOISE = NoiseParams(
    operations=OPERATIONS, magnitude=MAGNITUDE, crop=CROP, flip=True, cutout=0, fill=FILL, dropout=0, stochastic_depth=0
)
MODEL, CLASSES, BATCH, THREADS, WORKERS, ROUNDS = "cnn_24", 10, 128, 2, 2, 3
SIDES = (32, 96)
WAYS = {"noise": ["ours", "torchvision", "kornia"], "training": ["ours", "ours in bfloat16", "torchvision"]}


class Pictures(Dataset):
    """Images, each noised on its own when it is asked for."""

    def __init__(self, side: int):
        from noisy_student.vision import torchvision

        transforms = torchvision.transforms
        self.images = pictures(side)
        self.to_image = transforms.ToPILImage()
        self.noise = transforms.Compose(
            [
                transforms.RandomCrop(side, padding=CROP, fill=FILL),
                transforms.RandomHorizontalFlip(),
                transforms.RandAugment(OPERATIONS, MAGNITUDE, fill=[FILL] * 3),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.25] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        return self.noise(self.to_image(self.images[number])), number % CLASSES


def pictures(side: int) -> np.ndarray:
    """Images uint8 (N,side,side,3)."""
    coarse = np.random.default_rng(0).integers(256, size=(4096, 4, 4, 3), dtype=np.uint8)
    return coarse.repeat(side // 4, axis=1).repeat(side // 4, axis=2)


def batches(side: int) -> Iterator[list[torch.Tensor]]:
    """Batches of `Pictures`, without end."""
    loader = DataLoader(
        Pictures(side), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True, drop_last=True
    )
    while True:
        yield from loader


def ours(way: str, side: int, rate: Callable[..., float]) -> float:
    """Images a second through our own work, by a student's recipe with MODEL and NOISE."""
    everything = check(Params())
    precision = "bfloat16" if way == "ours in bfloat16" else "float32"
    runtime = everything.runtime.model_copy(update={"precision": precision})
    student = everything.recipes()["iter1"]
    training = student.training.model_copy(update={"batch_size": BATCH})
    recipe = student.model_copy(update={"model": MODEL, "noise": NOISE, "training": training})
    return rate(pictures(side), recipe, everything.model_copy(update={"runtime": runtime}), torch.device("cpu"))


def noise_rate(way: str, side: int) -> float:
    """Images a second through the noise."""
    batch = torch.from_numpy(pictures(side)[:BATCH]).permute(0, 3, 1, 2).contiguous()
    if way == "torchvision":
        found = batches(side)
        return limits.per_second(lambda: next(found), BATCH)
    if way == "kornia":
        from kornia import augmentation as kornia

        crop = kornia.RandomCrop((side, side), padding=CROP, fill=FILL)
        whole = kornia.AugmentationSequential(
            crop, kornia.RandomHorizontalFlip(), kornia.auto.RandAugment(OPERATIONS, MAGNITUDE)
        )
        return limits.per_second(lambda: whole(batch.float() / 255), BATCH)
    return ours(way, side, work.noising)


def training_rate(way: str, side: int) -> float:
    """Images a second through steps of training."""
    if way != "torchvision":
        return ours(way, side, work.training)
    network = models.build(MODEL, 3, CLASSES, (side, side), dropout=0.0, stochastic_depth=0.0)
    optimizer, found = torch.optim.SGD(network.parameters(), 0.1, 0.9, nesterov=True), batches(side)

    def step() -> None:
        images, targets = next(found)
        nn.functional.cross_entropy(network(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return limits.per_second(step, BATCH)


def measured(kind: str, way: str, side: int) -> float:
    """Images a second, in a process of its own."""
    done = run(ROOT, sys.executable, "-m", "benchmarks.side_by_side", kind, way, str(side))
    return json.loads(done.output.splitlines()[-1])


def lines() -> Iterator[str]:
    """The rows of the table."""
    for kind, ways in WAYS.items():
        names = [way for way in ways if way != "kornia" or importlib.util.find_spec("kornia")]
        for side in SIDES:
            rounds = [{way: measured(kind, way, side) for way in names} for _ in range(ROUNDS)]
            for way in names:
                rate = statistics.median(each[way] for each in rounds)
                ratio = statistics.median(each["ours"] / each[way] for each in rounds)
                print(f"{kind} {side} {way}: {rate:,.0f} images/s, ours is {ratio:.2f} times that", flush=True)
                yield f"| {kind} | {side} | {way} | {rate:,.0f} | {ratio:.2f} |"


def main() -> None:
    about = f"RandAugment {OPERATIONS} at {MAGNITUDE}, crop {CROP}, flip; training of {MODEL} in batches of {BATCH}"
    runs = f"Medians of {ROUNDS} runs in turn, on {THREADS} threads, or {WORKERS} processes of a loader"
    head = ["# Side by side", "", f"{about}. {runs}. {hardware()}.", ""]
    head += ["| work | pixels a side | by | images/s | ours, times that |", "|---|---:|---|---:|---:|"]
    write_bytes(ROOT / "benchmarks" / "side_by_side.md", ("\n".join([*head, *lines()]) + "\n").encode())


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        torch.set_num_threads(THREADS)
        rate = {"noise": noise_rate, "training": training_rate}[sys.argv[1]]
        print(json.dumps(rate(sys.argv[2], int(sys.argv[3]))))
