"""What a machine can do at best: the model alone, on images that never change. Imports nothing of the project but it.

    python -m benchmarks.limits training cnn_16 28 1     # model, pixels a side, channels
    python -m benchmarks.limits combined cnn_16 28 1     # with a second forward pass, as a teacher labels the pool
    python -m benchmarks.limits labeling cnn_16 28 1
    python -m benchmarks.limits noise cnn_16 28 1        # a copy of a batch
    python -m benchmarks.limits matmul                   # of matrices of SIDE x SIDE, in 10^9 operations a second
    python -m benchmarks.limits copy                     # of COPIED bytes, in 10^9 bytes read and written a second

Prints JSON: images a second, and what an image costs in multiply-adds and in bytes of weights and pixels. What RUNTIME
has may follow with another value, as params.yaml has it under `runtime`: precision=bfloat16. All else is torch's
default.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from noisy_student.models import registry

CLASSES = 10
SECONDS_VARIABLE = "NOISY_STUDENT_BENCHMARK_SECONDS"  # environment variable: how long a rate is measured
SECONDS = float(os.environ.get(SECONDS_VARIABLE, "2"))
RUNTIME = {"device": "auto", "precision": "float32", "threads": "2", "channels_last": "true"}
MODEL_NOISE = (0.2, 0.1)  # a student's dropout and stochastic depth, part of its net while it is trained
BATCH = {"training": 128, "combined": 128, "labeling": 512, "noise": 128}
POOL = 0.75  # of a batch, which the second pass of the combined objective sees
PASSES = {"training": 3, "combined": 3 + POOL, "labeling": 1, "noise": 0}  # forward ones; a backward one is worth two
SIDE, SIDE_ON_GPU, COPIED = 1024, 8192, 64_000_000
Forward = Callable[[torch.Tensor], torch.Tensor]


def main(kind: str, *arguments: str) -> None:
    probe = [argument for argument in arguments if "=" not in argument]
    runtime = RUNTIME | dict(argument.split("=") for argument in arguments if "=" in argument)
    if unknown := runtime.keys() - RUNTIME.keys():
        sys.exit(f"{min(unknown)} is none of {', '.join(RUNTIME)}")
    torch.set_num_threads(int(runtime["threads"]))
    on_gpu = torch.cuda.is_available() and runtime["device"] != "cpu"
    device, precision = torch.device("cuda" if on_gpu else "cpu"), getattr(torch, runtime["precision"])
    layout = torch.channels_last if runtime["channels_last"] == "true" else torch.contiguous_format
    measure = {"matmul": matmul, "copy": copy}.get(kind, partial(of_model, kind, layout))
    print(json.dumps(measure(device, precision, *probe)))


def of_model(
    kind: str,
    layout: torch.memory_format,
    device: torch.device,
    precision: torch.dtype,
    model: str,
    side: str,
    channels: str,
) -> dict[str, float]:
    """Images a second and the costs of one."""
    size, count = (int(side), int(side)), int(channels)
    network = registry.build(model, count, CLASSES, size, *MODEL_NOISE)
    cost = registry.size_and_cost(network, count, size)
    network = network.to(device, memory_format=layout)  # type: ignore[call-overload]
    images = torch.randn(BATCH[kind], count, *size, device=device).contiguous(memory_format=layout)

    def forward(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            return network(images).float()

    kinds = {"training": training, "combined": combined, "labeling": labeling, "noise": noise}
    work = kinds[kind](network, forward, images)
    return {
        "images_per_second": per_second(work, len(images)),
        "multiply_adds_per_image": PASSES[kind] * cost["multiply_adds"],
        "bytes_per_image": 4 * cost["parameters"] / len(images) + images[0].numel(),
    }


def per_second(work: Callable[[], object], count: float) -> float:
    """How many a second `work`, which does `count` at once, does again and again for SECONDS."""
    for _ in range(3):  # the first ones warm up
        work()
    wait_for_device()
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        work()
        done += 1
    wait_for_device()
    return done * count / (time.perf_counter() - started)


def wait_for_device() -> None:
    """Return when a GPU has done all that it was asked for."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def training(network: torch.nn.Module, forward: Forward, images: torch.Tensor):
    """A step of AdamW on the same batch."""
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    targets = torch.arange(len(images), device=images.device) % CLASSES

    def step() -> None:
        F.cross_entropy(forward(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def combined(network: torch.nn.Module, forward: Forward, images: torch.Tensor):
    """A forward pass of the pool's images in eval mode, then a step of AdamW on the same batch."""
    step = training(network, forward, images)
    pool = images[: round(POOL * len(images))]

    def both() -> None:
        network.eval()
        with torch.no_grad():
            forward(pool)
        network.train()
        step()

    return both


def labeling(network: torch.nn.Module, forward: Forward, images: torch.Tensor):
    """A forward pass of the same batch in eval mode."""
    network.eval()
    return torch.inference_mode()(lambda: forward(images))


def noise(network: torch.nn.Module, forward: Forward, images: torch.Tensor):
    """A copy of the same batch, as bytes."""
    return images.byte().clone


def matmul(device: torch.device, precision: torch.dtype) -> dict[str, float]:
    """The rate of matrix products, each multiply-add two operations."""
    side = SIDE_ON_GPU if device.type == "cuda" else SIDE  # a small product takes a GPU as long as its launch
    one, other, product = torch.randn(3, side, side, device=device).to(precision)
    return {"gflops": per_second(lambda: torch.mm(one, other, out=product), 2 * side**3) / 1e9}


def copy(device: torch.device, precision: torch.dtype) -> dict[str, float]:
    """The rate of copies into memory that is there already: fresh memory costs more than the copy."""
    source, copied = torch.ones(2, COPIED, dtype=torch.uint8, device=device)  # zeros need not be read
    return {"gb_per_second": per_second(lambda: copied.copy_(source), 2 * COPIED) / 1e9}


if __name__ == "__main__":
    main(*sys.argv[1:])
