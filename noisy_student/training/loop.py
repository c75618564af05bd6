"""The training loop, which teachers, students, controls and distilled models share.

B images in a batch, N in a split, C channels, H x W pixels, K classes.
"""

import math
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from noisy_student.core import ranks
from noisy_student.core.errors import UserError
from noisy_student.core.files import write_csv
from noisy_student.core.metrics import accuracy, accuracy_interval, nll, softmax
from noisy_student.core.progress import Meter, meter
from noisy_student.core.randomness import generator
from noisy_student.core.signals import Stopped, defer_signals
from noisy_student.models.checkpoint import Checkpoints, Found, save_model
from noisy_student.models.classifier import Classifier, ensemble, load_classifier, new_classifier
from noisy_student.models.device import RuntimeParams, memory_format, reseed_torch, translate_torch_errors
from noisy_student.models.init import from_pretrained
from noisy_student.models.precision import settled
from noisy_student.models.prediction import predict_logits
from noisy_student.models.registry import input_size, size_and_cost
from noisy_student.store.selection import Selection
from noisy_student.store.splits import Split
from noisy_student.training.batches import Batches
from noisy_student.training.forward import forward_passes
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.objectives import OBJECTIVES, loss
from noisy_student.training.optim import set_learning_rate
from noisy_student.training.params import Recipe, TrainingParams, phase_of
from noisy_student.training.placed_images import PlacedImages, placed
from noisy_student.training.state import TrainState

TELLING = 20  # validation images, fewer of which tell no accuracy
SMALLER_BATCH = "raise training.accumulation or lower training.batch_size"


@dataclass(frozen=True)
class HeldOut:
    """Labeled images to validate the model on, never to train on."""

    images: np.ndarray  # uint8 (N,H,W,C)
    labels: np.ndarray  # int64 (N,)


@dataclass(frozen=True)
class TrainingData:
    """The images that a model is trained on and validated on."""

    labeled: Split
    validation: Split
    pool: LabeledImages | None = None
    teacher_logits: Selection | None = None  # float32 (N,K), for the labeled images, where a teacher is distilled
    features: Selection | None = None  # float16 (N,F) of the labeled images, where the initial weights are pretrained

    def placed(self, device: torch.device) -> "PlacedData":
        """The images in their place for a training on the `device`."""
        labeled = placed(LabeledImages.from_labels(self.labeled, self.teacher_logits), device)
        pool = placed(self.pool, device) if self.pool else None
        return PlacedData(labeled, pool, HeldOut(self.validation.images(), self.validation.labels))


@dataclass(frozen=True)
class PlacedData:
    """The images to train on, in their place, and the images to validate on."""

    labeled: PlacedImages
    pool: PlacedImages | None
    held_out: HeldOut


@dataclass(frozen=True)
class TrainingRun:
    """A model to be trained: its name, recipe, seed, initial weights and runtime."""

    name: str
    recipe: Recipe
    runtime: RuntimeParams
    device: torch.device
    seed: int
    init_from: Path | None = None  # a folder of weights, for `training.initial` warm and pretrained


@dataclass(frozen=True)
class Trained:
    """A trained model: the averaged weights, in eval mode, and the learning curve."""

    name: str
    recipe: Recipe
    runtime: RuntimeParams
    classifier: Classifier
    curve: list[dict[str, float]]


def fit(run: TrainingRun, data: TrainingData, checkpoints: Path | None = None) -> Trained:
    """Train the model of `run`, on labels alone where `data` has no pool.

    The run resumes from the last checkpoint in the folder `checkpoints` and writes the next ones there. The members of
    an ensemble are trained one after another. Its learning curve is the mean of theirs, except for the last row, which
    validates the ensemble.
    """
    recipe, count = run.recipe, run.recipe.ensemble_size
    with translate_torch_errors(SMALLER_BATCH):
        there = data.placed(run.device)
    if count == 1:
        classifier, curve = _fit_one(run, run.name, data, there, checkpoints)
        return Trained(run.name, recipe, runtime_of(run, classifier), classifier, curve)
    members, curves = [], []
    for number in range(1, count + 1):
        folder = checkpoints / f"member-{number}" if checkpoints else None
        classifier, curve = _fit_one(run, f"{run.name} member {number}", data, there, folder)
        members.append(classifier)
        curves.append(pd.DataFrame(curve))
    rows: list[dict[str, Any]] = pd.concat(curves).groupby("step", as_index=False).mean().to_dict("records")
    whole = ensemble(members)
    rows[-1] |= validation_metrics(whole, there.held_out, run.runtime)
    return Trained(run.name, recipe, runtime_of(run, whole), whole, rows)


def _fit_one(
    run: TrainingRun, name: str, data: TrainingData, there: PlacedData, folder: Path | None
) -> tuple[Classifier, list[dict[str, float]]]:
    """One net: its averaged weights and its learning curve."""
    recipe = run.recipe
    seed = int(generator(run.seed, f"training of {name}").integers(2**32))
    reseed_torch(seed, "initial weights")
    images = recipe.training.steps * recipe.training.batch_size
    work = f"{images:,} images in {recipe.training.steps:,} steps" if images else "a linear probe"
    print(f"{name}: {recipe.model}, {work} on {run.device}", flush=True)
    with translate_torch_errors(SMALLER_BATCH):
        checkpoints = Checkpoints(folder, name) if folder else None
        found = ranks.from_first(checkpoints.latest) if checkpoints else None
        classifier = initial_model(run, data.labeled)
        if recipe.training.initial == "pretrained" and not found:
            from noisy_student.training.linear_probe import solve_head  # its libraries take a second to import

            if data.features is None:
                raise ValueError("a head is solved on the features of the labeled images, which are missing")
            pool = _pool_with_targets(run, data)
            solve_head(classifier, data.labeled.labels, data.features, pool, recipe.training.pool_weight)
        trainer = Trainer(recipe, there, runtime_of(run, classifier), seed)
        with meter(name, images) as progress:
            return trainer.train(classifier, progress, checkpoints, found)


def runtime_of(run: TrainingRun, classifier: Classifier) -> RuntimeParams:
    """How the run goes, its precision settled."""
    return settled(run.runtime, classifier.network, run.device, "training")


def _pool_with_targets(run: TrainingRun, data: TrainingData) -> LabeledImages | None:
    """The pool where its targets are learned; None where the model labels it itself."""
    return data.pool if OBJECTIVES[run.recipe.objective].learns_targets else None


def initial_model(run: TrainingRun, labeled: Split) -> Classifier:
    """The model before its first step: new, the teacher's, or a pretrained body with a new head."""
    recipe, initial = run.recipe, run.recipe.training.initial
    rates = recipe.noise.dropout, recipe.noise.stochastic_depth
    if initial == "scratch":
        return new_classifier(recipe.model, labeled, *rates).to(run.device)
    if not run.init_from:
        raise ValueError(f"a training with initial {initial} begins with weights, whose folder is missing")
    if initial == "warm":
        return load_classifier(run.init_from, run.device, rates)[0]
    return from_pretrained(recipe.model, labeled, *rates, run.init_from, run.device)


def save_trained(folder: Path, trained: Trained, data: TrainingData) -> None:
    """Write the model's folder: its weights, a description that a person can read, and its learning curve."""
    labeled, classifier, last = data.labeled, trained.classifier, trained.curve[-1]
    recipe, distillation = trained.recipe, trained.recipe.distillation
    low, high = accuracy_interval(last["validation_accuracy"], len(data.validation))
    description = {
        "name": trained.name,
        "model": recipe.model,
        "ensemble_size": recipe.ensemble_size,
        "classes": labeled.classes,
        "image_size": list(labeled.image_size),
        "channels": labeled.channels,
        "preparation": labeled.preparation,
        "input_channels": classifier.mean.numel(),
        "input_size": list(input_size(classifier.network, labeled.image_size)),
        "normalization": {"mean": classifier.mean.flatten().tolist(), "std": classifier.std.flatten().tolist()},
        **size_and_cost(classifier.network, classifier.mean.numel(), labeled.image_size),
        "labels": {"training": len(labeled), "validation": len(data.validation)},
        "validation": {
            "accuracy": last["validation_accuracy"],
            "accuracy_low": low,
            "accuracy_high": high,
            "loss": last["validation_loss"],
        },
        "ranks": ranks.world_size(),
        "precision": trained.runtime.precision,
        "training": recipe.training.model_dump(),
        **({"distillation": distillation.model_dump(), "teacher": recipe.distilled_from} if distillation else {}),
        "noise": recipe.noise.model_dump(),
    }
    save_model(folder, classifier.state_dict(), description)
    write_csv(folder / "curve.csv", pd.DataFrame(trained.curve))


@dataclass(frozen=True)
class Trainer:
    """Trains one network.

    Every draw is a function of the seed and the step alone, so that a resumed run equals the uninterrupted one.
    """

    recipe: Recipe
    data: PlacedData
    runtime: RuntimeParams
    seed: int

    def train(
        self,
        classifier: Classifier,
        progress: Meter,
        checkpoints: Checkpoints | None = None,
        found: Found | None = None,
    ) -> tuple[Classifier, list[dict[str, float]]]:
        """Train `classifier` in place; return the classifier with averaged weights and the learning curve.

        The run goes on from the checkpoint that was `found` and writes the next ones to `checkpoints`. A row of the
        curve has step, loss (the mean since the row before; 0 where no step is taken), validation_loss and
        validation_accuracy (of the averaged weights on the held-out images). Raises `UserError` when the loss is no
        longer finite, and `Stopped`, after a checkpoint, when a signal asks for it.
        """
        params = self.recipe.training
        report_after = report_steps(params)
        classifier.to_memory_format(memory_format(self.runtime)).requires_grad_(True)
        state = TrainState.start(classifier, params, self.runtime.fused)
        batches = Batches(self.recipe, self.data.labeled, self.data.pool, self.seed)
        if self.runtime.compile:
            classifier.network.compile()
        if found:
            state.restore(*found)
            progress.resume(state.step * params.batch_size, f"goes on after step {state.step:,} of {params.steps:,}")

        if params.steps == 0 and not state.curve:  # the model is its initial weights, such as a linear probe
            self.validate(state)
        with defer_signals() as stop:  # one block for all: DVC forwards Ctrl-C, so a second signal often follows
            while not ranks.any_rank(bool(stop)) and state.step < params.steps:
                self.take_step(state, batches)
                progress.advance(params.batch_size)
                if state.step in report_after:  # the only steps that wait for the device
                    self.validate(state)
                    progress.show(self.figures(state.curve[-1]))
                if checkpoints and ranks.is_first() and checkpoints.due():
                    checkpoints.save(state.step, *state.dump())
            # What comes now, another member or the writing of the model, may be interrupted as well.
            if checkpoints and ranks.is_first():
                checkpoints.save(state.step, *state.dump())
            if ranks.any_rank(bool(stop)):
                raise _stopped(stop.signal, state, params.steps, bool(checkpoints))
        return state.ema.classifier, state.curve

    def take_step(self, state: TrainState, batches: Batches) -> None:
        """Advance `state` by one optimizer step."""
        params, step = self.recipe.training, state.step
        set_learning_rate(state.optimizer, params, step)
        reseed_torch(self.seed, ranks.own_purpose("model noise"), step)
        scope = phase_of(params, step).scope
        student = forward_passes(state.replica, self.runtime, scope, params.keeps_statistics, params.frozen)
        for number, part in enumerate(batches.parts(step), start=1):
            with state.replica.part(last=number == params.accumulation):
                part_loss = loss(student, part, self.recipe)
                state.replica.backward(part_loss)
            state.losses[step] += part_loss.detach()
        state.replica.end_step(state.losses[step])
        state.optimizer.step()
        state.optimizer.zero_grad(set_to_none=True)
        state.ema.update(params.ema_decay, step)
        state.step = step + 1

    def validate(self, state: TrainState) -> None:
        """Add a row to the learning curve: the mean loss since the row before and the metrics on held-out images.

        Raises `UserError` when one of them is not finite.
        """
        since = int(state.curve[-1]["step"]) if state.curve else 0
        row = {"step": state.step, "loss": float(state.losses[since : state.step].mean()) if state.step else 0.0}
        row |= ranks.from_first(lambda: validation_metrics(state.ema.classifier, self.data.held_out, self.runtime))
        for name in ("loss", "validation_loss"):
            if not math.isfinite(row[name]):
                remedy = "lower training.learning_rate or use precision float32"
                raise UserError(f"the {name.replace('_', ' ')} became {row[name]}; {remedy}")
        state.curve.append(row)

    def figures(self, row: dict[str, float]) -> dict[str, float]:
        """What a person sees of a row of the learning curve; the accuracy on very few images would mislead."""
        count = len(self.data.held_out.labels)
        accuracy = {f"accuracy on {count:,} validation images": row["validation_accuracy"]}
        return {"loss": row["loss"], **(accuracy if count >= TELLING else {})}


def report_steps(params: TrainingParams) -> set[int]:
    """After how many steps the learning curve has a row: evenly spread, the last step among them."""
    return set(np.linspace(0, params.steps, params.validations + 1).round().astype(int)[1:].tolist())


def validation_metrics(classifier: Classifier, held_out: HeldOut, runtime: RuntimeParams) -> dict[str, float]:
    """Loss and accuracy of `classifier` on the held-out images, as a learning curve names them."""
    probabilities = softmax(predict_logits(classifier, held_out.images, runtime))
    return {
        "validation_loss": nll(probabilities, held_out.labels),
        "validation_accuracy": accuracy(probabilities.argmax(axis=1), held_out.labels),
    }


def _stopped(number: int, state: TrainState, steps: int, kept: bool) -> Stopped:
    """The exception that ends a run that the signal of that `number`, or another rank's, stopped. `kept`: with a
    checkpoint of its last step."""
    text = f" after step {state.step:,} of {steps:,}; run again to go on" if kept else ""
    return Stopped(number or signal.SIGTERM, text)
