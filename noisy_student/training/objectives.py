"""What a student is trained to do: its loss on a part of a batch. An objective is a function and a name in OBJECTIVES.

B images in the part, K classes.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from noisy_student.training.batches import MicroBatch
from noisy_student.training.forward import ForwardPasses
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import DistillationParams, Recipe


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The sum over the images of weight (B,) times cross-entropy of `logits` (B,K) against soft `targets` (B,K)."""
    return -(weights * (targets * F.log_softmax(logits, dim=1)).sum(dim=1)).sum()


def pseudo_labels(student: ForwardPasses, part: MicroBatch, params: TrainingParams) -> Tensor:
    """Learn what the teacher said about the pool, and the labels (Xie et al. 2019, algorithm 1)."""
    return weighted_cross_entropy(student.logits(part.images), part.targets, part.weights)


def consistency(student: ForwardPasses, part: MicroBatch, params: TrainingParams) -> Tensor:
    """Say of a strongly noised pool image what one says of the weakly noised one, where one is sure; and the labels.

    The labels are the model's own, made on the fly; the teacher's decide alone which pool images are there. Soft and
    sharpened they are those of UDA (Xie et al. 2020, arXiv 1904.12848, section 3.2), with `consistency_temperature` 0
    hard ones, those of FixMatch (Sohn et al. 2020, arXiv 2001.07685, section 2.2). Other than there the labels are made
    without model noise, and labeled images are noised as strongly as the others.
    """
    targets, sure = online_labels(student, part, params)
    return weighted_cross_entropy(student.logits(part.images), targets, part.weights * sure)


def joined(student: ForwardPasses, part: MicroBatch, params: TrainingParams) -> Tensor:
    """Both of the above, half and half: the teacher where the model is not sure yet, and more and more itself."""
    targets, sure = online_labels(student, part, params)
    share = (0.5 * sure * part.from_pool)[:, None]
    return weighted_cross_entropy(student.logits(part.images), torch.lerp(part.targets, targets, share), part.weights)


def online_labels(student: ForwardPasses, part: MicroBatch, params: TrainingParams) -> tuple[Tensor, Tensor]:
    """What the model says of the weakly noised pool images, and the labels of the others (B,K); 1 where sure (B,)."""
    labeled = len(part.images) - len(part.weak)
    always = torch.ones_like(part.weights[:labeled])
    if labeled == len(part.images):
        return part.targets, always
    logits = student.noiseless_logits(part.weak)
    confidence, best = F.softmax(logits, dim=1).max(dim=1)
    if params.consistency_temperature:
        labels = F.softmax(logits / params.consistency_temperature, dim=1)
    else:
        labels = F.one_hot(best, logits.shape[1]).float()
    sure = (confidence >= params.consistency_threshold).float()
    return torch.cat([part.targets[:labeled], labels]), torch.cat([always, sure])


def distillation(student: ForwardPasses, part: MicroBatch, params: DistillationParams) -> Tensor:
    """Say what the teacher says, and of labeled images also the truth (Hinton et al. 2015, section 2).

    Soft targets are probabilities at a temperature T; their divergence is scaled by T squared, so that its gradients
    are as large as those of the labels whatever T is. On pool images the teacher's loss has all the weight.
    """
    logits = student.logits(part.images)
    true = -(part.targets * F.log_softmax(logits, dim=1)).sum(dim=1)  # (B,)
    if params.kind == "hard":
        told = F.cross_entropy(logits, part.teacher_logits.argmax(dim=1), reduction="none")  # (B,)
    else:
        ours, theirs = (F.log_softmax(each / params.temperature, dim=1) for each in (logits, part.teacher_logits))
        told = params.temperature**2 * F.kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)  # (B,)
    share = params.weight + (1 - params.weight) * part.from_pool
    return (part.weights * torch.lerp(true, told, share)).sum()


OBJECTIVES: dict[str, Callable[[ForwardPasses, MicroBatch, TrainingParams], Tensor]] = {
    "pseudo_labels": pseudo_labels,
    "consistency": consistency,
    "joined": joined,
}


def loss(recipe: Recipe, student: ForwardPasses, part: MicroBatch) -> Tensor:
    """What `recipe` has `student` learn of `part`, a scalar."""
    if recipe.distillation:
        return distillation(student, part, recipe.distillation)
    return OBJECTIVES[recipe.training.objective](student, part, recipe.training)
