"""The one training loop: teacher, student and control all run through it.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from noisy_student.core.errors import UserError
from noisy_student.core.files import write_csv
from noisy_student.core.metrics import accuracy, accuracy_interval, nll, one_hot, softmax
from noisy_student.core.progress import Meter, meter
from noisy_student.core.randomness import generator
from noisy_student.core.signals import Stopped, defer_signals
from noisy_student.models.checkpoint import Checkpoints, save_model
from noisy_student.models.classifier import Classifier, ensemble, load_classifier, new_classifier
from noisy_student.models.device import RuntimeParams, memory_format, reseed_torch, translate_torch_errors
from noisy_student.models.prediction import predict_logits
from noisy_student.models.registry import input_size, size_and_cost
from noisy_student.store.pseudo_labels import PseudoLabels
from noisy_student.store.splits import Split
from noisy_student.training.batches import Batches, ResidentDataset, examples
from noisy_student.training.forward import forward_passes
from noisy_student.training.init import from_pretrained
from noisy_student.training.objectives import loss
from noisy_student.training.optim import set_learning_rate
from noisy_student.training.params import TrainingParams, scope
from noisy_student.training.recipes import Recipe
from noisy_student.training.state import TrainState

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
    teacher_logits: tuple[np.ndarray, np.ndarray] | None = None  # (.,K), for the labeled images and for the pool's


def distilled(
    labeled: Split, validation: Split, pool: Split | None, logits: tuple[np.ndarray, np.ndarray]
) -> TrainingData:
    """What a teacher is taught into another model with, by its `logits` (.,K) for the labeled images and the pool."""
    unknown = np.zeros_like(logits[1])  # (N,K), the true labels of pool images, which no loss asks for
    images = (pool.images(), unknown, np.ones(len(pool), np.int64)) if pool else None
    return TrainingData(labeled, validation, images, logits)


def taught(pool: Split, told: PseudoLabels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `TrainingData` has of the `pool` when it is labeled as `told`."""
    return pool.images(told.rows), told.targets, told.copies


@dataclass(frozen=True)
class Trained:
    """A trained model: the averaged weights, in eval mode, and the learning curve."""

    name: str
    recipe: Recipe
    classifier: Classifier
    curve: list[dict[str, float]]


def fit(
    name: str,
    recipe: Recipe,
    data: TrainingData,
    runtime: RuntimeParams,
    device: torch.device,
    seed: int,
    checkpoints: Path | None = None,
    init_from: Path | None = None,
) -> Trained:
    """Train the model called `name` by `recipe`, on labels alone where `data` has no pool.

    The weights are drawn anew, or those in the folder that it `init_from`, all of them (`initial: warm`) or all but
    the head's (`initial: pretrained`). The run goes on from the last of its `checkpoints`, a folder, and keeps the next
    ones there. The members of a model are trained one after another; its learning curve is their mean, but for the last
    row, where the model as a whole is looked at.
    """
    with translate_torch_errors(SMALLER_BATCH):
        resident = _resident(data, device)
    names = [name] if recipe.members == 1 else [f"{name} member {number}" for number in range(1, recipe.members + 1)]
    members, curves = [], []
    for number, each in enumerate(names, start=1):
        folder = checkpoints / f"member-{number}" if checkpoints and recipe.members > 1 else checkpoints
        classifier, curve = _fit_one(each, recipe, data.labeled, resident, runtime, seed, folder, init_from)
        members.append(classifier)
        curves.append(pd.DataFrame(curve))
    if recipe.members == 1:
        return Trained(name, recipe, members[0], curve)
    rows: list[dict[str, Any]] = pd.concat(curves).groupby("step", as_index=False).mean().to_dict("records")
    whole = ensemble(members)
    rows[-1] |= validation_metrics(whole, resident.held_out, runtime)
    return Trained(name, recipe, whole, rows)


@dataclass(frozen=True)
class Resident:
    """What is trained on, on the device, and what is looked at."""

    labeled: ResidentDataset
    pool: ResidentDataset | None
    held_out: HeldOut


def _resident(data: TrainingData, device: torch.device) -> Resident:
    truth = one_hot(data.labeled.labels, len(data.labeled.classes))
    of_labeled, of_pool = data.teacher_logits or (None, None)
    labeled = examples(data.labeled.images(), truth, device, teacher_logits=of_labeled)
    pool = examples(*data.pool[:2], device, data.pool[2], of_pool) if data.pool else None
    return Resident(labeled, pool, HeldOut(data.validation.images(), data.validation.labels))


def _fit_one(
    name: str,
    recipe: Recipe,
    labeled: Split,
    resident: Resident,
    runtime: RuntimeParams,
    seed: int,
    checkpoints: Path | None,
    init_from: Path | None,
) -> tuple[Classifier, list[dict[str, float]]]:
    """One net: its averaged weights and its learning curve."""
    device = resident.labeled.targets.device
    run_seed = int(generator(seed, f"training of {name}").integers(2**32))
    reseed_torch(run_seed, "initial weights")
    images = recipe.training.steps * recipe.training.batch_size
    print(f"{name}: {recipe.model}, {images:,} images in {recipe.training.steps:,} steps on {device}", flush=True)
    with meter(name, images) as progress, translate_torch_errors(SMALLER_BATCH):
        classifier = initial_model(recipe, labeled, init_from, device)
        kept = Checkpoints(checkpoints) if checkpoints else None
        of = (resident.labeled, resident.pool, resident.held_out)
        return train(classifier, recipe, *of, runtime, run_seed, progress, kept)


def initial_model(recipe: Recipe, labeled: Split, init_from: Path | None, device: torch.device) -> Classifier:
    """The model before its first step."""
    rates, initial = (recipe.noise.dropout, recipe.noise.stochastic_depth), recipe.training.initial
    if initial == "scratch":
        return new_classifier(recipe.model, labeled, *rates).to(device)
    if not init_from:
        raise UserError(f"there is no folder of weights for training.initial {initial}")
    if initial == "warm":
        return load_classifier(init_from, device, rates)[0]
    return from_pretrained(recipe.model, labeled, *rates, init_from, device)


def save_trained(folder: Path, trained: Trained, data: TrainingData) -> None:
    """Write the model's folder: its weights, a description that a person can read, and its learning curve."""
    labeled, classifier, last = data.labeled, trained.classifier, trained.curve[-1]
    recipe, distillation = trained.recipe, trained.recipe.distillation
    low, high = accuracy_interval(last["validation_accuracy"], len(data.validation))
    description = {
        "name": trained.name,
        "model": recipe.model,
        "members": recipe.members,
        "classes": labeled.classes,
        "image_size": list(labeled.image_size),
        "channels": labeled.channels,
        "preparation": labeled.preparation,
        "input_channels": classifier.mean.numel(),
        "input_size": list(input_size(classifier.network, labeled.image_size)),
        "normalisation": {"mean": classifier.mean.flatten().tolist(), "std": classifier.std.flatten().tolist()},
        **size_and_cost(classifier.network, classifier.mean.numel(), labeled.image_size),
        "labels": {"training": len(labeled), "validation": len(data.validation)},
        "validation": {
            "accuracy": last["validation_accuracy"],
            "accuracy_low": low,
            "accuracy_high": high,
            "loss": last["validation_loss"],
        },
        "training": recipe.training.model_dump(),
        **({"distillation": distillation.model_dump(), "teacher": recipe.distilled_from} if distillation else {}),
        "noise": recipe.noise.model_dump(),
    }
    save_model(folder, classifier.state_dict(), description)
    write_csv(folder / "curve.csv", pd.DataFrame(trained.curve))


def train(
    classifier: Classifier,
    recipe: Recipe,
    labeled: ResidentDataset,
    pool: ResidentDataset | None,
    held_out: HeldOut,
    runtime: RuntimeParams,
    seed: int,
    progress: Meter,
    checkpoints: Checkpoints | None = None,
) -> tuple[Classifier, list[dict[str, float]]]:
    """Train `classifier` in place by `recipe`; return the classifier with averaged weights and the learning curve.

    Every draw is a function of `seed` and the step alone, so that a run that goes on from the last of its `checkpoints`
    is the run that was never interrupted. A row of the curve has step, loss (the mean since the row before),
    validation_loss and validation_accuracy (of the averaged weights on `held_out`).
    Raises `UserError` when the loss is no longer finite, and `Stopped`, after a checkpoint, when a signal asks for it.
    """
    params = recipe.training
    report_after = report_steps(params)
    classifier.to_memory_format(memory_format(runtime)).requires_grad_(True)
    state, batches = TrainState.start(classifier, params, runtime.fused), Batches(recipe, labeled, pool, seed)
    if runtime.compile:
        classifier.network.compile()
    if checkpoints and (found := checkpoints.latest()):
        state.restore(*found)
        progress.resume(state.step * params.batch_size, f"goes on after step {state.step:,} of {params.steps:,}")

    with defer_signals() as asked:  # all in one: DVC passes Ctrl-C on, so that a second signal often comes
        while state.step < params.steps and not asked:
            take_step(state, batches, runtime)
            progress.advance(params.batch_size)
            if state.step in report_after:  # the only steps that wait for the device
                validate(state, held_out, runtime)
                progress.show(**{name: state.curve[-1][name] for name in ("loss", "validation_accuracy")})
            if checkpoints and checkpoints.due():
                checkpoints.save(state.step, *state.dump())
        if asked:
            raise _stopped(asked.signal, state, params.steps, checkpoints)
        if checkpoints:  # what comes now, another member or the writing of the model, may be interrupted as well
            checkpoints.save(state.step, *state.dump())
    return state.ema.classifier, state.curve


def take_step(state: TrainState, batches: Batches, runtime: RuntimeParams) -> None:
    """Take `state` one optimiser step on."""
    params, step = batches.recipe.training, state.step
    set_learning_rate(state.optimizer, params, step)
    reseed_torch(batches.seed, "model noise", step)
    student = forward_passes(state.classifier, runtime, scope(params, step))
    for part in batches.parts(step):
        part_loss = loss(batches.recipe, student, part)
        part_loss.backward()
        state.losses[step] += part_loss.detach()
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.ema.update(params.ema_decay, step)
    state.step = step + 1


def report_steps(params: TrainingParams) -> set[int]:
    """After how many steps the learning curve has a row: evenly spread, the last step among them."""
    return set(np.linspace(0, params.steps, params.validations + 1).round().astype(int)[1:].tolist())


def validate(state: TrainState, held_out: HeldOut, runtime: RuntimeParams) -> None:
    """Add a row to the learning curve: the mean loss since the row before and the figures on the held-out images.

    Raises `UserError` when one of them is not finite.
    """
    since = int(state.curve[-1]["step"]) if state.curve else 0
    row = {"step": state.step, "loss": float(state.losses[since : state.step].mean())}
    row |= validation_metrics(state.ema.classifier, held_out, runtime)
    for name in ("loss", "validation_loss"):
        if not math.isfinite(row[name]):
            remedy = "lower training.learning_rate or use precision float32"
            raise UserError(f"the {name.replace('_', ' ')} became {row[name]}; {remedy}")
    state.curve.append(row)


def validation_metrics(classifier: Classifier, held_out: HeldOut, runtime: RuntimeParams) -> dict[str, float]:
    """Loss and accuracy of `classifier` on the held-out images, as a learning curve names them."""
    probabilities = softmax(predict_logits(classifier, held_out.images, runtime))
    return {
        "validation_loss": nll(probabilities, held_out.labels),
        "validation_accuracy": accuracy(probabilities.argmax(axis=1), held_out.labels),
    }


def _stopped(signal: int, state: TrainState, steps: int, checkpoints: Checkpoints | None) -> Stopped:
    """What a run that was asked to stop ends with, once its last step is kept."""
    if not checkpoints:
        return Stopped(signal)
    checkpoints.save(state.step, *state.dump())
    return Stopped(signal, f" after step {state.step:,} of {steps:,}; run again to go on")
