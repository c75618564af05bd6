"""Objectives: the loss of a student on a micro-batch. A new one is a function and a name in OBJECTIVES.

B images in the part, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from noisy_student.core.errors import UserError
from noisy_student.training.forward import ForwardPasses
from noisy_student.training.micro_batch import MicroBatch
from noisy_student.training.params import Recipe, TrainingParams


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum over the images of weight (B,) times cross-entropy of `logits` (B,K) against soft `targets` (B,K)."""
    return -(weights * log_likelihoods(logits, targets)).sum()


def log_likelihoods(logits: Tensor, targets: Tensor) -> Tensor:
    """The mean log-probability (B,) of the classes under `logits` (B,K), weighted by soft `targets` (B,K)."""
    return (targets * F.log_softmax(logits, dim=1)).sum(dim=1)


def pseudo_labels(student: ForwardPasses, part: MicroBatch, recipe: Recipe) -> Tensor:
    """Learn the labels and the teacher's pseudo-labels (Xie et al. 2019, algorithm 1)."""
    return weighted_cross_entropy(student.logits(part.images), part.targets, part.weights)


def consistency(student: ForwardPasses, part: MicroBatch, recipe: Recipe) -> Tensor:
    """Predict for a strongly noised pool image what the model predicts for the weakly noised one, where it is sure.

    These online labels replace the teacher's, which only decide which pool images take part. Soft and sharpened labels
    are those of UDA (Xie et al. 2020, arXiv 1904.12848, section 3.2). Hard labels (`consistency_temperature` 0) are
    those of FixMatch (Sohn et al. 2020, arXiv 2001.07685, section 2.2). Two things differ from both papers: labels are
    made without model noise, and labeled images have the strong noise, too.
    """
    targets, sure = online_labels(student, part, recipe.training)
    return weighted_cross_entropy(student.logits(part.images), targets, part.weights * sure)


def combined(student: ForwardPasses, part: MicroBatch, recipe: Recipe) -> Tensor:
    """Learn the mean of the teacher's label and the online label where the model is sure, else the teacher's alone."""
    targets, sure = online_labels(student, part, recipe.training)
    share = (0.5 * sure * part.from_pool)[:, None]
    return weighted_cross_entropy(student.logits(part.images), torch.lerp(part.targets, targets, share), part.weights)


def online_labels(student: ForwardPasses, part: MicroBatch, params: TrainingParams) -> tuple[Tensor, Tensor]:
    """Targets (B,K), and 1 where the model is sure, else 0 (B,).

    The target of a pool image is the model's own label of its weak view. Labeled images keep their targets and are
    always sure.
    """
    if part.weak is None:
        return part.targets, torch.ones_like(part.weights)
    labeled = len(part.images) - len(part.weak)
    always = torch.ones_like(part.weights[:labeled])
    logits = student.noiseless_logits(part.weak)
    confidence, best = F.softmax(logits, dim=1).max(dim=1)
    if params.consistency_temperature:
        labels = F.softmax(logits / params.consistency_temperature, dim=1)
    else:
        labels = F.one_hot(best, logits.shape[1]).float()
    sure = (confidence >= params.consistency_threshold).float()
    return torch.cat([part.targets[:labeled], labels]), torch.cat([always, sure])


def distillation(student: ForwardPasses, part: MicroBatch, recipe: Recipe) -> Tensor:
    """Learn the teacher's output, and of labeled images the true label as well (Hinton et al. 2015, section 2).

    Soft targets are probabilities at a temperature T. Their divergence is multiplied by T squared, so that its
    gradients keep their size whatever T is. On pool images the teacher's loss has all the weight.
    """
    params = recipe.distillation
    if params is None or part.teacher_logits is None:
        raise ValueError("a distillation takes its options and a teacher's logits")
    logits = student.logits(part.images)
    label_loss = -log_likelihoods(logits, part.targets)  # (B,)
    if params.kind == "hard":
        teacher_loss = F.cross_entropy(logits, part.teacher_logits.argmax(dim=1), reduction="none")  # (B,)
    else:
        ours, theirs = (F.log_softmax(each / params.temperature, dim=1) for each in (logits, part.teacher_logits))
        divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)  # (B,)
        teacher_loss = params.temperature**2 * divergence
    share = params.weight + (1 - params.weight) * part.from_pool
    return (part.weights * torch.lerp(label_loss, teacher_loss, share)).sum()


class Objective(NamedTuple):
    """A loss and what it needs."""

    loss: Callable[[ForwardPasses, MicroBatch, Recipe], Tensor]  # a scalar
    online_labels: bool = False  # whether it labels weakly noised pool images on the fly
    options: tuple[str, ...] = ()  # options of training that it reads and other objectives do not
    learns_targets: bool = True  # whether it learns the targets that pool images come with
    of_students: bool = True  # whether `training.objective` may name it


ONLINE_OPTIONS = ("consistency_threshold", "consistency_temperature")
OBJECTIVES = {
    "pseudo_labels": Objective(pseudo_labels),
    "consistency": Objective(consistency, online_labels=True, options=ONLINE_OPTIONS, learns_targets=False),
    "combined": Objective(combined, online_labels=True, options=ONLINE_OPTIONS),
    "distillation": Objective(distillation, of_students=False),
}


def check_objective(name: str, key: str) -> None:
    """Raise `UserError` unless `name`, which stands under `key` in params.yaml, is an objective of students."""
    known = [each for each, objective in OBJECTIVES.items() if objective.of_students]
    if name not in known:
        raise UserError(f"params.yaml: {key} was {name!r}; it must be one of {', '.join(known)}")


def loss(student: ForwardPasses, part: MicroBatch, recipe: Recipe) -> Tensor:
    """The loss of `student` on `part` by the objective of `recipe`, a scalar."""
    return OBJECTIVES[recipe.objective].loss(student, part, recipe)
