"""The one training loop: teacher, student and control all run through it.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from noisy_student.batches import Examples, batch_parts, examples
from noisy_student.checkpoint import save_model
from noisy_student.errors import Refusal
from noisy_student.files import write_csv
from noisy_student.images import Split
from noisy_student.inference import Classifier, new_classifier, predict
from noisy_student.metrics import accuracy, accuracy_interval, nll, softmax
from noisy_student.models import size_and_cost
from noisy_student.progress import Meter, meter
from noisy_student.randomness import generator
from noisy_student.recipes import Recipe, TrainingParams
from noisy_student.runtime import RuntimeParams, autocast, explained, reseed_torch
from noisy_student.targets import one_hot

SMALLER_BATCH = "raise training.accumulation or lower training.batch_size"


@dataclass(frozen=True)
class HeldOut:
    """Labeled images that the model is looked at with, and never trained on."""

    images: np.ndarray  # uint8 (N,H,W,C)
    labels: np.ndarray  # int64 (N,)


@dataclass(frozen=True)
class TrainingData:
    """What a model is trained on and looked at with."""

    labeled: Split
    validation: Split
    pool: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # uint8 (N,H,W,C), targets float32 (N,K), copies (N,)


@dataclass(frozen=True)
class Trained:
    """A trained model: the averaged weights, in eval mode, and the learning curve."""

    name: str
    recipe: Recipe
    classifier: Classifier
    curve: list[dict[str, float]]


def fit(
    name: str, recipe: Recipe, data: TrainingData, runtime: RuntimeParams, device: torch.device, seed: int
) -> Trained:
    """Train the model called `name` from scratch by `recipe`, on labels alone where `data` has no pool."""
    run_seed = int(generator(seed, f"training of {name}").integers(2**32))
    reseed_torch(run_seed, "initial weights")
    labeled, rates = data.labeled, (recipe.noise.dropout, recipe.noise.stochastic_depth)
    classifier = new_classifier(recipe.model, labeled, *rates).to(device)
    labeled_examples = examples(labeled.images(), one_hot(labeled.labels, len(labeled.classes)), device)
    pool_examples = examples(data.pool[0], data.pool[1], device, data.pool[2]) if data.pool else None
    held_out = HeldOut(data.validation.images(), data.validation.labels)
    images = recipe.training.steps * recipe.training.batch_size
    print(f"{name}: {recipe.model}, {images:,} images in {recipe.training.steps:,} steps on {device}", flush=True)
    with meter(name, images) as progress, explained(SMALLER_BATCH):
        averaged, curve = train(
            classifier, recipe, labeled_examples, pool_examples, held_out, runtime, run_seed, progress
        )
    return Trained(name, recipe, averaged, curve)


def save_trained(folder: Path, trained: Trained, data: TrainingData) -> None:
    """Write the model's folder: its weights, a description that a person can read, and its learning curve."""
    labeled, classifier, last = data.labeled, trained.classifier, trained.curve[-1]
    low, high = accuracy_interval(last["validation_accuracy"], len(data.validation))
    description = {
        "name": trained.name,
        "model": trained.recipe.model,
        "classes": labeled.classes,
        "image_size": list(labeled.image_size),
        "channels": labeled.channels,
        "normalisation": {"mean": classifier.mean.flatten().tolist(), "std": classifier.std.flatten().tolist()},
        **size_and_cost(classifier.network, labeled.channels, labeled.image_size),
        "labels": {"training": len(labeled), "validation": len(data.validation)},
        "validation": {
            "accuracy": last["validation_accuracy"],
            "accuracy_low": low,
            "accuracy_high": high,
            "loss": last["validation_loss"],
        },
        "training": trained.recipe.training.model_dump(),
        "noise": trained.recipe.noise.model_dump(),
    }
    save_model(folder, classifier.state_dict(), description)
    write_csv(folder / "curve.csv", pd.DataFrame(trained.curve))


def train(
    classifier: Classifier,
    recipe: Recipe,
    labeled: Examples,
    pool: Examples | None,
    held_out: HeldOut,
    runtime: RuntimeParams,
    seed: int,
    progress: Meter,
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train `classifier` in place by `recipe`; return the classifier with averaged weights and the learning curve.

    Every draw is a function of `seed` and the step alone. A row of the curve has step, loss (the mean since the row
    before), validation_loss and validation_accuracy (of the averaged weights on `held_out`).
    Raises `Refusal` when the loss is no longer finite.
    """
    params = recipe.training
    optimizer = make_optimizer(classifier, params)
    average = Average(classifier)
    losses = torch.zeros(params.steps, device=classifier.mean.device)
    report_after = report_steps(params)
    curve: list[dict[str, float]] = []

    for step in range(params.steps):
        set_learning_rate(optimizer, params, step)
        reseed_torch(seed, "model noise", step)
        classifier.train()
        for images, targets, weights in batch_parts(recipe, labeled, pool, seed, step):
            with autocast(runtime, images.device):
                logits = classifier(images)
            loss = weighted_cross_entropy(logits.float(), targets, weights)
            loss.backward()
            losses[step] += loss.detach()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(params.ema_decay, step)

        progress.advance(params.batch_size)
        if step + 1 in report_after:  # the only steps that wait for the device
            since = int(curve[-1]["step"]) if curve else 0
            curve.append({"step": step + 1, **look(average.classifier, held_out, runtime, losses[since : step + 1])})
            progress.show(loss=curve[-1]["loss"], validation_accuracy=curve[-1]["validation_accuracy"])
    return average.classifier, curve


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum over the images of weight (B,) times cross-entropy of `logits` (B,K) against soft `targets` (B,K)."""
    return -(weights * (targets * F.log_softmax(logits, dim=1)).sum(dim=1)).sum()


def make_optimizer(classifier: Classifier, params: TrainingParams) -> torch.optim.Optimizer:
    """The optimizer that `params` names; only weights with two or more dimensions decay."""
    parameters = list(classifier.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=params.learning_rate, betas=(params.momentum, 0.999), foreach=True)
    nesterov = params.momentum > 0
    return torch.optim.SGD(groups, lr=params.learning_rate, momentum=params.momentum, nesterov=nesterov, foreach=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, params: TrainingParams, step: int) -> None:
    """Set the rate of `step`: a linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = params.warmup * params.steps
    if step < warmup:
        factor = (step + 1) / (warmup + 1)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (params.steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = params.learning_rate * factor


class Average:
    """An exponential moving average of a classifier's weights and statistics (Tarvainen and Valpola 2017)."""

    def __init__(self, classifier: Classifier):
        self.classifier = copy.deepcopy(classifier).eval()
        self.means, self.sources = _float_tensors(self.classifier), _float_tensors(classifier)

    @torch.no_grad()
    def update(self, decay: float, step: int) -> None:
        """Move towards the classifier by 1 - `decay`, by more in the first steps, where the mean is still the start."""
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, self.sources, 1 - decay)


def _float_tensors(classifier: Classifier) -> list[Tensor]:
    return [tensor for tensor in classifier.state_dict().values() if tensor.is_floating_point()]  # no copies


def report_steps(params: TrainingParams) -> set[int]:
    """After how many steps the learning curve has a row: evenly spread, the last step among them."""
    return set(np.linspace(0, params.steps, params.validations + 1).round().astype(int)[1:].tolist())


def look(classifier: Classifier, held_out: HeldOut, runtime: RuntimeParams, losses: Tensor) -> dict[str, float]:
    """A row of the learning curve: the mean of `losses` and the figures on the held-out images.

    Raises `Refusal` when one of them is not finite.
    """
    probabilities = softmax(predict(classifier, held_out.images, runtime))
    row = {
        "loss": float(losses.mean()),
        "validation_loss": nll(probabilities, held_out.labels),
        "validation_accuracy": accuracy(probabilities.argmax(axis=1), held_out.labels),
    }
    for name in ("loss", "validation_loss"):
        if not math.isfinite(row[name]):
            remedy = "lower training.learning_rate or use precision float32"
            raise Refusal(f"the {name.replace('_', ' ')} became {row[name]}; {remedy}")
    return row
