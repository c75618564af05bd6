"""What a machine can do at best: the model alone, on images that never change. Imports nothing of the project but it.

    python -m benchmarks.limits training cnn_16 28 1     # model, pixels a side, channels
    python -m benchmarks.limits labeling cnn_16 28 1
    python -m benchmarks.limits noise cnn_16 28 1        # a copy of a batch

Prints images a second as JSON.
"""

import json
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from noisy_student import models

CLASSES, THREADS, SECONDS = 10, 2, 3.0
BATCH = {"training": 128, "labeling": 512, "noise": 128}


def main(kind: str, model: str, side: str, channels: str) -> None:
    torch.set_num_threads(THREADS)
    rates = {"dropout": 0.0, "stochastic_depth": 0.0}
    network = models.build(model, int(channels), CLASSES, (int(side), int(side)), **rates)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(BATCH[kind], int(channels), int(side), int(side)).contiguous(memory_format=torch.channels_last)
    work = {"training": training, "labeling": labeling, "noise": noise}[kind](network, images)
    print(json.dumps({"images_per_second": images_per_second(work, len(images))}))


def images_per_second(work: Callable[[], object], images: int) -> float:
    """The rate at which `work`, done again and again for SECONDS, goes through its `images`."""
    for _ in range(3):  # the first ones warm up
        work()
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        work()
        steps += 1
    return steps * images / (time.perf_counter() - started)


def training(network: torch.nn.Module, images: torch.Tensor):
    """A step of AdamW on the same batch."""
    optimizer = torch.optim.AdamW(network.parameters(), foreach=True)
    targets = torch.arange(len(images)) % CLASSES

    def step() -> None:
        F.cross_entropy(network(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def labeling(network: torch.nn.Module, images: torch.Tensor):
    """A forward pass of the same batch in eval mode."""
    network.eval()

    @torch.inference_mode()
    def forward() -> None:
        network(images)

    return forward


def noise(network: torch.nn.Module, images: torch.Tensor):
    """A copy of the same batch, as bytes."""
    pixels = images.byte()
    return pixels.clone


if __name__ == "__main__":
    main(*sys.argv[1:])
