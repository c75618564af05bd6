"""The project's own work, measured as a stage does it; benchmarks/speed.py holds it against benchmarks/limits.py.

    python -m benchmarks.work training cnn_16 28 1                # model, pixels a side, channels; one forward pass
    python -m benchmarks.work combined cnn_16 28 1                # with the objective of params.yaml
    python -m benchmarks.work training cnn_16 28 1 fused=false    # with another value than `runtime` in params.yaml has

Prints images a second as JSON. Images are noise: no figure here depends on what they show.
"""

import json
import math
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from benchmarks import limits
from noisy_student.check import Params, check
from noisy_student.core.config import ParamsFile, overlay
from noisy_student.core.files import write_array
from noisy_student.core.metrics import one_hot
from noisy_student.core.randomness import generator
from noisy_student.models.device import setup
from noisy_student.models.precision import settled
from noisy_student.models.prediction import predict_logits, predict_split
from noisy_student.store.splits import pixel_hash, read_split, write_split
from noisy_student.training.augmentation import policy
from noisy_student.training.forecast import made_up_classifier, training_seconds
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import HeldOut, PlacedData, Trainer
from noisy_student.training.params import Recipe
from noisy_student.training.placed_images import placed

CLASSES, AT_WORK = 10, 1.0


def main(kind: str, model: str, side: str, channels: str, *runtime: str) -> None:
    images = np.random.default_rng(0).integers(256, size=(4096, int(side), int(side), int(channels)), dtype=np.uint8)
    params = check(ParamsFile())
    changes = {key: yaml.safe_load(value) for key, value in (change.split("=") for change in runtime)}
    params = params.model_copy(update={"runtime": overlay(params.runtime, changes, "runtime")})
    device = setup(params.runtime)
    recipe = params.recipes()["iter1"].model_copy(update={"model": model})
    kinds = {"training": training, "combined": training, "labeling": labeling, "noise": noising}
    if kind == "training":
        recipe = with_one_pass(recipe)
    rate = kinds[kind](images, recipe, params, device)
    print(json.dumps({"images_per_second": rate}))


def with_one_pass(recipe: Recipe) -> Recipe:
    """The student's `recipe` with the objective that has one forward pass a step."""
    training = recipe.training.model_copy(update={"objective": "pseudo_labels"})
    return recipe.model_copy(update={"training": training})


def training(images: np.ndarray, recipe: Recipe, params: Params, device: torch.device) -> float:
    """Images a second of a student's steps by `recipe`, whose objective decides how many forward passes one has.

    `images` uint8 (N,H,W,C) are the pool, and 100 of them the labeled ones.
    """
    labels = np.arange(len(images)) % CLASSES
    pool = placed(LabeledImages(images, one_hot(labels, CLASSES)), device)
    labeled = placed(LabeledImages(images[:100], one_hot(labels[:100], CLASSES)), device)
    data = PlacedData(labeled, pool, HeldOut(images[:1], labels[:1]))
    classifier = made_up_classifier(recipe, images.shape[1:], CLASSES, device)
    trainer = Trainer(recipe, data, settled(params.runtime, classifier.network, device, "training"), seed=0)

    def seconds(steps: int) -> float:
        return training_seconds(steps, classifier, trainer)

    seconds(3)  # the first ones warm up
    steps = max(5, round(limits.SECONDS * 5 / seconds(5)))
    return steps * recipe.training.batch_size / seconds(steps)


def labeling(images: np.ndarray, recipe: Recipe, params: Params, device: torch.device) -> float:
    """Images a second of a split that is read from the disk and whose logits are written to it.

    The split repeats `images` uint8 (N,H,W,C) until it takes at least AT_WORK seconds, as pools do.
    """
    teacher = made_up_classifier(recipe, images.shape[1:], CLASSES, device).eval()
    images = images[: limits.BATCH["labeling"]]  # a slow net needs no more
    predict_logits(teacher, images, params.runtime)  # the first time takes longer
    started = time.perf_counter()
    predict_logits(teacher, images, params.runtime)
    images = images.repeat(math.ceil(AT_WORK / (time.perf_counter() - started)), axis=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = [str(number) for number in range(len(images))]
        index = pd.DataFrame({"id": ids, "sha256": pixel_hash(images)})
        write_split(folder / "pool", images, index, [str(k) for k in range(CLASSES)], {}, 64_000_000)

        def label() -> None:
            for _, seen in predict_split(teacher, read_split(folder / "pool"), params.runtime, "benchmark"):
                write_array(folder / "logits.npy", seen.logits)

        return limits.per_second(label, len(images))


def noising(images: np.ndarray, recipe: Recipe, params: Params, device: torch.device) -> float:
    """Images a second of the input noise of a student's batches, each drawn anew."""
    batch = torch.from_numpy(images[: recipe.training.batch_size]).permute(0, 3, 1, 2).contiguous().to(device)
    steps = count()
    return limits.per_second(
        lambda: policy.augment(batch, recipe.noise, generator(0, "benchmark", next(steps))), len(batch)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
