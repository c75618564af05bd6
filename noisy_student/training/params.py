"""The options of a training, its phases, and the recipe of a model."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from noisy_student.core.config import ParamsModel
from noisy_student.training.augmentation.policy import NoiseParams

TRANSFER = ("frozen", "body_rate", "layer_decay")  # options of training that mean nothing but for pretrained weights
Scope = Literal["all", "head", "deep half"]  # which of a model's tensors a step trains
BatchContent = Literal["both", "labeled", "pool"]  # which images a batch is made of


class TrainingParams(ParamsModel):
    """One training run of `steps` batches."""

    steps: int = Field(ge=0, le=10**8)  # optimizer steps; 0: pretrained weights with a solved head are the model
    batch_size: int = Field(ge=2, le=2**16)  # images a step, labeled and pool together
    pool_ratio: float = Field(gt=0)  # pool images for each labeled image of a batch
    pool_weight: float = Field(gt=0)  # weight of the pool's mean loss beside the labeled images'
    objective: str = "pseudo_labels"  # of students, see objectives.py
    consistency_threshold: float = Field(default=0.8, ge=0, le=1)  # least confidence in a label made on the fly
    consistency_temperature: float = Field(default=0.4, ge=0)  # sharpens a label made on the fly, 0: a hard one
    initial: Literal["scratch", "warm", "pretrained"] = "scratch"  # initial weights: random; those of the
    # teacher, which has the same model; or pretrained ones, with a new head
    frozen: float = Field(default=0.0, ge=0, le=1)  # first fraction of a pretrained body's layers, which keep their
    # weights and save time and memory (1: the head alone is trained)
    body_rate: float = Field(default=1.0, gt=0, le=1)  # learning rate of a pretrained body as a fraction of its head's
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # factor of the rate from each layer of a pretrained body to
    # the one before it (Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.2)
    norm_statistics: Literal["kept", "learned"] | None = None  # means and deviations of batch norms: as they came, or
    # of the batches; null: kept with pretrained weights, learned with others
    finetune: float = Field(default=0.0, ge=0, lt=1)  # last fraction of a student's steps, on labels alone; the pool's
    # images alone come before (0: labeled and pool images together throughout)
    resolution: float = Field(default=1.0, gt=0, le=1)  # side of the images trained on, a fraction of the whole one's
    resolution_fix: float = Field(default=0.0, ge=0, lt=1)  # last fraction of the steps, on whole images without noise,
    # the shallow half of the tensors frozen (Touvron et al. 2019, "Fixing the train-test resolution discrepancy")
    accumulation: int = Field(ge=1, le=2**15)  # parts that a batch is cut into, to save memory
    optimizer: Literal["sgd", "adamw", "muon"]  # SGD with Nesterov momentum; AdamW; Muon, see optim.py
    learning_rate: float = Field(gt=0)  # the highest, at the end of the warm-up
    warmup: float = Field(ge=0, lt=1)  # fraction of the steps in which the rate rises to it; a cosine to 0 follows
    momentum: float = Field(ge=0, lt=1)  # of SGD and Muon; AdamW's first decay rate
    weight_decay: float = Field(ge=0)  # of weights with two or more dimensions
    label_smoothing: float = Field(ge=0, lt=1)  # of the true labels
    ema_decay: float = Field(ge=0, lt=1)  # of the averaged weights that are kept as the model, 0: the last weights
    validations: int = Field(ge=1, le=10**4)  # points of the learning curve

    @model_validator(mode="after")
    def _batches_can_be_cut(self) -> "TrainingParams":
        if self.batch_size % self.accumulation:
            raise ValueError(f"must be such that accumulation {self.accumulation} divides batch_size {self.batch_size}")
        if labeled_in_batch(self) < 1:
            raise ValueError(f"must leave labeled images in a batch: pool_ratio {self.pool_ratio} is too high for it")
        if labeled_in_batch(self) == self.batch_size:
            raise ValueError(f"must leave pool images in a batch: pool_ratio {self.pool_ratio} is too low for it")
        if self.batch_size // self.accumulation < 2:
            raise ValueError(f"must leave two images in each part of a batch: accumulation {self.accumulation} is high")
        return self

    @model_validator(mode="after")
    def _both_phases_learn(self) -> "TrainingParams":
        for phase in ("finetune", "resolution_fix"):
            fraction = getattr(self, phase)
            if fraction and self.steps and not 0 < first_step(self, phase) < self.steps:
                raise ValueError(f"must leave steps before and after {phase} {fraction} begins, of {self.steps}")
        if self.finetune and self.objective == "consistency":
            raise ValueError("must have finetune 0 with objective consistency, which learns nothing without labels")
        return self

    @property
    def keeps_statistics(self) -> bool:
        """Whether batch norms keep the statistics that the initial weights came with."""
        default = "kept" if self.initial == "pretrained" else "learned"
        return (self.norm_statistics or default) == "kept"

    @model_validator(mode="after")
    def _first_weights_are_trained(self) -> "TrainingParams":
        if self.initial == "scratch" and self.norm_statistics == "kept":
            raise ValueError("must have norm_statistics learned where initial is scratch, which has none to keep")
        if self.steps == 0 and self.initial != "pretrained":
            raise ValueError("must have steps of at least 1 unless initial is pretrained")
        return self

    @model_validator(mode="after")
    def _transfer_has_weights(self) -> "TrainingParams":
        if self.initial != "pretrained":
            for option in TRANSFER:
                if getattr(self, option) != TrainingParams.model_fields[option].default:
                    raise ValueError(f"must have initial pretrained where {option} is set")
        elif self.optimizer == "muon" and (self.body_rate, self.layer_decay) != (1, 1):
            raise ValueError("must have optimizer adamw or sgd where layers differ in their rates")
        elif self.frozen == 1 and ((self.body_rate, self.layer_decay) != (1, 1) or self.resolution_fix):
            raise ValueError("must have body_rate 1, layer_decay 1 and resolution_fix 0 where frozen is 1")
        return self


def first_step(training: TrainingParams, phase: Literal["finetune", "resolution_fix"]) -> int:
    """The first step of the last phase called `phase`; the number of steps where there is none."""
    return round(training.steps * (1 - getattr(training, phase)))


@dataclass(frozen=True)
class Phase:
    """Steps of a training that are alike."""

    end: int  # the first step after the phase
    scope: Scope  # which of the model's tensors are trained
    images: BatchContent  # which images a student's batch is made of
    noised: bool  # whether images go through input noise
    resolution: float  # side of the images, a fraction of the whole one's


@lru_cache(maxsize=64)
def phases(training: TrainingParams) -> tuple[Phase, ...]:
    """The phases of a training, one after another: the pool before the labels (Xie et al. 2019, section 4.1 and
    appendix A.2), whole images without noise last (Touvron et al. 2019)."""
    fix = first_step(training, "resolution_fix")
    changes = (first_step(training, "finetune"), fix)
    starts = sorted({0, *(step for step in changes if 0 < step < training.steps)})
    found = []
    for start, end in pairwise([*starts, training.steps]):
        fixes_resolution = start >= fix
        resolution = 1.0 if fixes_resolution else training.resolution
        scope, images = _scope(training, start), _batch_content(training, start)
        found.append(Phase(end, scope, images, not fixes_resolution, resolution))
    return tuple(found)


def _scope(training: TrainingParams, step: int) -> Scope:
    """Which of the model's tensors `step` trains."""
    if training.frozen == 1:
        return "head"
    return "deep half" if step >= first_step(training, "resolution_fix") else "all"


def _batch_content(training: TrainingParams, step: int) -> BatchContent:
    """Which images the batch of `step` is made of."""
    if not training.finetune:
        return "both"
    return "labeled" if step >= first_step(training, "finetune") else "pool"


def phase_of(training: TrainingParams, step: int) -> Phase:
    """The phase of the `step`."""
    return next((phase for phase in phases(training) if step < phase.end), phases(training)[-1])


def labeled_in_batch(training: TrainingParams) -> int:
    """How many images of a student's batch are labeled ones; the rest come from the pool."""
    return round(training.batch_size / (1 + training.pool_ratio))


class DistillationParams(ParamsModel):
    """How a model learns from a teacher's logits (Hinton et al. 2015, arXiv 1503.02531)."""

    images: Literal["both", "pool", "labeled"]  # images to distill on; pool images have only the teacher's targets
    kind: Literal["soft", "hard"]  # the teacher's probabilities, or its most probable class
    temperature: float = Field(ge=0.1, le=1000)  # that divides the logits of both for soft targets
    weight: float = Field(ge=0, le=1)  # of the teacher's loss on labeled images; the true labels' is the rest

    @model_validator(mode="after")
    def _options_agree(self) -> "DistillationParams":
        if self.kind == "hard" and self.temperature != 1:
            raise ValueError("must have temperature 1 where kind is hard, for it softens soft ones")
        return self


class Recipe(ParamsModel):
    """Everything that decides a training run, except images and seed."""

    model: str
    noise: NoiseParams
    training: TrainingParams
    ensemble_size: int = 1
    distillation: DistillationParams | None = None  # of a distilled model
    distilled_from: str | None = None  # the iteration that is its teacher

    @property
    def objective(self) -> str:
        """The name of the objective that the model is trained by, see objectives.py."""
        return "distillation" if self.distillation else self.training.objective
