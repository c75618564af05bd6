"""One training run: its options, and what each of its steps is about."""

from typing import Literal

from pydantic import Field, model_validator

from noisy_student.core.config import ParamsModel

TRANSFER = ("body_rate", "layer_decay", "unfreeze")  # options of training that mean nothing but for pretrained weights
Scope = Literal["all", "head", "deep half"]  # which of a model's tensors a step trains


class TrainingParams(ParamsModel):
    """One training run of `steps` batches."""

    steps: int = Field(ge=1, le=10**8)  # optimiser steps
    batch_size: int = Field(ge=2, le=2**16)  # images a step, labeled and pool together
    pool_ratio: float = Field(gt=0)  # pool images for each labeled image of a batch
    pool_weight: float = Field(gt=0)  # weight of the pool's mean loss beside the labeled images'
    # of students, see objectives.py
    objective: Literal["pseudo_labels", "consistency", "joined"] = "pseudo_labels"
    consistency_threshold: float = Field(default=0.8, ge=0, le=1)  # least confidence in a label made on the fly
    consistency_temperature: float = Field(default=0.4, ge=0)  # that sharpens it, 0: a hard label
    initial: Literal["scratch", "warm", "pretrained"] = "scratch"  # the first weights: drawn; of students, the
    # teacher's of the same net; or those of models/pretrained, with a new head
    body_rate: float = Field(default=1.0, ge=0, le=1)  # learning rate of a pretrained body as a fraction of its head's
    # (0: the head alone is trained)
    layer_decay: float = Field(default=1.0, gt=0, le=1)  # factor of the rate from each layer of a pretrained body to
    # the one before it (Howard and Ruder 2018, "Universal Language Model Fine-tuning", section 3.2)
    unfreeze: float = Field(default=0.0, ge=0, lt=1)  # first fraction of the steps, in which the head alone is trained
    finetune: float = Field(default=0.0, ge=0, lt=1)  # last fraction of a student's steps, on labels alone; the pool's
    # images alone come before (0: labeled and pool images together throughout)
    resolution: float = Field(default=1.0, gt=0, le=1)  # side of the images trained on, a fraction of the whole one's
    resolution_fix: float = Field(default=0.0, ge=0, lt=1)  # last fraction of the steps, on whole images without noise,
    # the shallow half of the tensors frozen (Touvron et al. 2019, "Fixing the train-test resolution discrepancy")
    accumulation: int = Field(ge=1, le=2**15)  # parts that a batch is cut into, to save memory
    optimizer: Literal["sgd", "adamw", "muon"]  # with Nesterov momentum; AdamW; Muon, see optimization.py
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
            raise ValueError(
                f"should be such that accumulation {self.accumulation} divides batch_size {self.batch_size}"
            )
        if labeled_in_batch(self) < 1:
            raise ValueError(f"should leave labeled images in a batch: pool_ratio {self.pool_ratio} is too high for it")
        if labeled_in_batch(self) == self.batch_size:
            raise ValueError(f"should leave pool images in a batch: pool_ratio {self.pool_ratio} is too low for it")
        if self.batch_size // self.accumulation < 2:
            raise ValueError(
                f"should leave two images in each part of a batch: accumulation {self.accumulation} is high"
            )
        return self

    @model_validator(mode="after")
    def _both_phases_learn(self) -> "TrainingParams":
        for phase in ("finetune", "resolution_fix"):
            fraction = getattr(self, phase)
            if fraction and not 0 < first_step(self, phase) < self.steps:
                raise ValueError(f"should leave steps before and after {phase} {fraction} begins, of {self.steps}")
        if self.finetune and self.objective == "consistency":
            raise ValueError("should have finetune 0 with objective consistency, which learns nothing without labels")
        return self

    @model_validator(mode="after")
    def _transfer_has_weights(self) -> "TrainingParams":
        if self.initial != "pretrained":
            for option in TRANSFER:
                if getattr(self, option) != TrainingParams.model_fields[option].default:
                    raise ValueError(f"should have initial pretrained where {option} is set")
        elif self.optimizer == "muon" and (self.body_rate, self.layer_decay) != (1, 1):
            raise ValueError("should have optimizer adamw or sgd where layers differ in their rates")
        elif self.resolution != 1:
            raise ValueError("should have resolution 1 with pretrained weights, which see images at their own size")
        elif self.body_rate == 0 and (self.layer_decay != 1 or self.unfreeze or self.resolution_fix):
            raise ValueError("should have layer_decay 1, unfreeze 0 and resolution_fix 0 where body_rate is 0")
        elif self.unfreeze and not 0 < round(self.unfreeze * self.steps) < first_step(self, "resolution_fix"):
            raise ValueError(
                f"should leave steps that train all of the model before and after unfreeze {self.unfreeze}"
            )
        return self


def first_step(training: TrainingParams, phase: Literal["finetune", "resolution_fix"]) -> int:
    """The first step of a last phase: all steps where there is no such phase."""
    return round(training.steps * (1 - getattr(training, phase)))


def scope(training: TrainingParams, step: int) -> Scope:
    """Which of a model's tensors the `step` trains."""
    frozen = training.initial == "pretrained" and training.body_rate == 0
    if frozen or step < round(training.unfreeze * training.steps):
        return "head"
    return "deep half" if step >= first_step(training, "resolution_fix") else "all"


def labeled_in_batch(training: TrainingParams) -> int:
    """How many images of a student's batch are labeled ones; the rest come from the pool."""
    return round(training.batch_size / (1 + training.pool_ratio))
