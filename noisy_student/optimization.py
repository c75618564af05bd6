"""What turns gradients into a model: the optimizer, its rate over time, and the average of the weights."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from noisy_student.inference import Classifier
from noisy_student.recipes import TrainingParams


def make_optimizer(classifier: Classifier, params: TrainingParams, fused: bool) -> torch.optim.Optimizer:
    """The optimizer that `params` names, `fused` or not; only weights with two or more dimensions decay."""
    parameters = list(classifier.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": params.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    way: dict[str, Any] = {"lr": params.learning_rate, "fused": fused, "foreach": not fused}
    if params.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(params.momentum, 0.999), **way)
    return torch.optim.SGD(groups, momentum=params.momentum, nesterov=params.momentum > 0, **way)


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
