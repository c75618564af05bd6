"""How long trainings and predictions take: a few steps or images, measured on made-up images."""

import time
from dataclasses import replace

import numpy as np
import torch

from noisy_student.core.metrics import one_hot
from noisy_student.core.progress import SilentMeter
from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams, translate_torch_errors
from noisy_student.models.precision import settled
from noisy_student.models.prediction import LabelingParams, predict
from noisy_student.models.registry import build
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import SMALLER_BATCH, HeldOut, PlacedData, Trainer
from noisy_student.training.params import Recipe
from noisy_student.training.placed_images import placed

Shape = tuple[int, int, int]  # height and width, pixels, and channels of images
PREDICTED = 64  # made-up images that a prediction is measured on


def forecast(
    recipe: Recipe,
    shape: Shape,
    classes: int,
    runtime: RuntimeParams,
    device: torch.device,
    with_pool: bool = False,
    input_size: tuple[int, int] | None = None,
) -> float:
    """About how many seconds the steps of `recipe` take: three of them, measured on made-up images of that `shape`.

    `input_size` (H,W) is that of pretrained weights, where the model begins with such.
    """
    if not recipe.training.steps:
        return 0.0
    classifier = made_up_classifier(recipe, shape, classes, device, input_size)
    images = np.zeros((recipe.training.batch_size, *shape), dtype=np.uint8)
    labels = np.arange(len(images)) % classes
    targets = one_hot(labels, classes)
    logits = targets if recipe.distillation else None
    made_up = placed(LabeledImages(images, targets, teacher_logits=logits), device)
    of = PlacedData(made_up, made_up if with_pool else None, HeldOut(images[:1], labels[:1]))
    trainer = Trainer(recipe, of, settled(runtime, classifier.network, device, "training"), seed=0)
    for steps in (1, 3):  # the first one warms up
        seconds = training_seconds(steps, classifier, trainer)
    return seconds / steps * recipe.training.steps * recipe.ensemble_size


def forecast_predictions(
    recipe: Recipe,
    shape: Shape,
    classes: int,
    runtime: RuntimeParams,
    device: torch.device,
    labeling: LabelingParams,
    images: int,
    input_size: tuple[int, int] | None = None,
) -> float:
    """About how many seconds a model of `recipe` takes to predict for so many `images` of that `shape`.

    It is measured on PREDICTED made-up images.
    """
    classifier = made_up_classifier(recipe, shape, classes, device, input_size)
    made_up = np.zeros((PREDICTED, *shape), dtype=np.uint8)
    for few in (made_up[:1], made_up):  # the first one warms up
        started = time.monotonic()
        predict(classifier, few, runtime, labeling=labeling)
    return (time.monotonic() - started) / PREDICTED * images * recipe.ensemble_size


def made_up_classifier(
    recipe: Recipe, shape: Shape, classes: int, device: torch.device, input_size: tuple[int, int] | None = None
) -> Classifier:
    """An untrained model of `recipe` for images of that `shape`, without normalization."""
    height, width, channels = shape
    rates = (recipe.noise.dropout, recipe.noise.stochastic_depth)
    network = build(recipe.model, channels, classes, (height, width), *rates, input_size)
    return Classifier(network, torch.zeros(channels), torch.ones(channels)).to(device)


def training_seconds(steps: int, classifier: Classifier, trainer: Trainer) -> float:
    """How many seconds the `trainer` takes for so many `steps`, with one validation."""
    training = trainer.recipe.training.model_copy(update={"steps": steps, "validations": 1})
    few = replace(trainer, recipe=trainer.recipe.model_copy(update={"training": training}))
    started = time.monotonic()
    with translate_torch_errors(SMALLER_BATCH):
        few.train(classifier, SilentMeter())
    return time.monotonic() - started
