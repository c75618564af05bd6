"""The project's own work, measured as a stage does it; benchmarks/speed.py holds it against benchmarks/limits.py.

    python -m benchmarks.work training cnn_16 28 1     # model, pixels a side, channels

Prints images a second as JSON. Images are noise: no figure here depends on what they show.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from noisy_student import noise
from noisy_student.batches import examples
from noisy_student.config import Params
from noisy_student.files import write_array
from noisy_student.images import pixel_hash, read_split, write_split
from noisy_student.inference import Classifier, predict_split
from noisy_student.models import build
from noisy_student.pipeline import check
from noisy_student.progress import Meter
from noisy_student.randomness import generator
from noisy_student.runtime import setup
from noisy_student.targets import one_hot
from noisy_student.training import HeldOut, train

CLASSES, SECONDS = 10, 3.0


def main(kind: str, model: str, side: str, channels: str) -> None:
    images = np.random.default_rng(0).integers(256, size=(4096, int(side), int(side), int(channels)), dtype=np.uint8)
    everything = check(Params())
    device = setup(everything.runtime)
    recipe = everything.recipes()["iter1"].model_copy(update={"model": model})
    rate = {"training": training, "labeling": labeling, "noise": noising}[kind](images, recipe, everything, device)
    print(json.dumps({"images_per_second": rate}))


def classifier(images: np.ndarray, recipe, device: torch.device) -> Classifier:
    channels, rates = images.shape[-1], (recipe.noise.dropout, recipe.noise.stochastic_depth)
    network = build(recipe.model, channels, CLASSES, images.shape[1:3], *rates)
    return Classifier(network, torch.full((channels,), 0.5), torch.ones(channels)).to(device)


def training(images: np.ndarray, recipe, everything, device: torch.device) -> float:
    """Steps of a student, with all of its noise, on a pool and a few labels."""
    labels = np.arange(len(images)) % CLASSES
    pool = examples(images, one_hot(labels, CLASSES), device)
    labeled = examples(images[:100], one_hot(labels[:100], CLASSES), device)
    trained = classifier(images, recipe, device)

    def seconds(steps: int) -> float:
        few = recipe.training.model_copy(update={"steps": steps, "validations": 1})
        started = time.perf_counter()
        train(
            trained,
            recipe.model_copy(update={"training": few}),
            labeled,
            pool,
            HeldOut(images[:1], labels[:1]),
            everything.runtime,
            0,
            Meter("benchmark", 1, None),
        )
        return time.perf_counter() - started

    seconds(3)  # the first ones warm up
    steps = max(5, round(SECONDS * 5 / seconds(5)))
    return steps * recipe.training.batch_size / seconds(steps)


def labeling(images: np.ndarray, recipe, everything, device: torch.device) -> float:
    """A split read from the disk and its logits written to it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = [str(number) for number in range(len(images))]
        index = pd.DataFrame({"id": ids, "sha256": pixel_hash(images)})
        write_split(folder / "pool", images, index, [str(k) for k in range(CLASSES)], 64_000_000)
        teacher = classifier(images, recipe, device).eval()
        done, started = 0, 0.0
        while not started or time.perf_counter() - started < SECONDS:
            for logits in predict_split(teacher, read_split(folder / "pool"), everything.runtime, "benchmark"):
                write_array(folder / "logits.npy", logits)
            done += len(images) if started else 0  # the first pass warms up
            started = started or time.perf_counter()
    return done / (time.perf_counter() - started)


def noising(images: np.ndarray, recipe, everything, device: torch.device) -> float:
    """The input noise of a student's batches."""
    batch = torch.from_numpy(images[: recipe.training.batch_size]).permute(0, 3, 1, 2).contiguous().to(device)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < SECONDS:
        noise.augment(batch, recipe.noise, generator(0, "benchmark", steps))
        steps += 1
    return steps * len(batch) / (time.perf_counter() - started)


if __name__ == "__main__":
    main(*sys.argv[1:])
