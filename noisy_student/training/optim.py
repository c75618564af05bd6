"""The optimizer, its learning rate over time, and the average of the weights."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from noisy_student.models.classifier import Classifier
from noisy_student.models.registry import body_layers
from noisy_student.training.params import TrainingParams


class Muon:
    """Muon for the weights of hidden layers, AdamW for all other parameters.

    Muon steps equally far in every direction of a weight matrix (Jordan et al. 2024, "Muon: An optimizer for hidden
    layers in neural networks", kellerjordan.github.io/posts/muon). A convolution's weights are a matrix with a row for
    each output channel. Steps are scaled to the size of AdamW's (Liu et al. 2025, "Muon is Scalable for LLM Training",
    arXiv 2502.16982, section 2.2), so that both share one learning rate and one weight decay.
    """

    def __init__(self, weights: Sequence[Tensor], groups: list[dict[str, Any]], params: TrainingParams, fused: bool):
        self.weights, self.orders = weights, [_order(weight) for weight in weights]
        self.matrices = [_matrix(weight.detach(), order) for weight, order in zip(weights, self.orders, strict=True)]
        self.muon = torch.optim.Muon(
            self.matrices,
            lr=params.learning_rate,
            weight_decay=params.weight_decay,
            momentum=params.momentum,
            adjust_lr_fn="match_rms_adamw",
        )
        self.adamw = _adamw(groups, params, fused)
        self.param_groups = self.muon.param_groups + self.adamw.param_groups
        # One dictionary for both, by parameter: each fills in its own, and a checkpoint finds all of them in it.
        self.state = self.muon.state = self.adamw.state
        self.defaults = self.adamw.defaults

    def step(self) -> None:
        for matrix, weight, order in zip(self.matrices, self.weights, self.orders, strict=True):
            matrix.grad = None if weight.grad is None else _matrix(weight.grad, order)
        self.muon.step()
        self.adamw.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self.weights:
            weight.grad = None
        self.adamw.zero_grad(set_to_none)


def _order(weight: Tensor) -> tuple[int, ...]:
    """The dimensions in the order of the memory, so that the matrix of the weights is a view."""
    return (0, 2, 3, 1) if weight.ndim == 4 and not weight.is_contiguous() else tuple(range(weight.ndim))


def _matrix(tensor: Tensor, order: tuple[int, ...]) -> Tensor:
    return tensor.permute(order).reshape(len(tensor), -1)


def make_optimizer(classifier: Classifier, params: TrainingParams, fused: bool) -> torch.optim.Optimizer | Muon:
    """The optimizer that `params` names, `fused` or not; only weights with two or more dimensions decay."""
    weights = [p for p in classifier.parameters() if p.ndim > 1]
    # All but the last, which are the classifier's weights: Muon is for hidden layers.
    hidden = weights[:-1] if params.optimizer == "muon" else []
    groups = _groups(classifier, params, {id(weight) for weight in hidden})
    if hidden:
        return Muon(hidden, groups, params, fused)
    if params.optimizer == "sgd":
        way: dict[str, Any] = {"lr": params.learning_rate, "fused": fused, "foreach": not fused}
        return torch.optim.SGD(groups, momentum=params.momentum, nesterov=params.momentum > 0, **way)
    return _adamw(groups, params, fused)


def _groups(classifier: Classifier, params: TrainingParams, without: set[int]) -> list[dict[str, Any]]:
    """The optimizer's groups: parameters of the same share of the learning rate, with weight decay or without it.

    Parameters whose id is in `without` are left out.
    """
    shares = rate_shares(classifier, params)
    groups: dict[tuple[float, bool], list[Tensor]]
    groups = {(share, decays): [] for share in shares.values() for decays in (True, False)}
    for parameter in classifier.parameters():
        if id(parameter) not in without:
            groups[shares[id(parameter)], parameter.ndim > 1].append(parameter)
    return [
        {"params": each, "weight_decay": params.weight_decay if decays else 0.0, "rate_share": share}
        for (share, decays), each in groups.items()
    ]


def rate_shares(classifier: Classifier, params: TrainingParams) -> dict[int, float]:
    """Each parameter's share of the learning rate, by the parameter's id.

    The head has share 1. The k-th layer of weights before it has `body_rate` times `layer_decay` to the power of k.
    Parameters with one dimension belong to the layer of the weights before them.
    """
    parameters = list(classifier.parameters())
    if (params.body_rate, params.layer_decay) == (1, 1):
        return {id(parameter): 1.0 for parameter in parameters}
    body = body_layers(classifier.network)
    shares = {
        id(parameter): params.body_rate * params.layer_decay ** (body[-1][1] + 1 - layer) for parameter, layer in body
    }
    return {id(parameter): 1.0 for parameter in parameters} | shares


def _adamw(groups: list[dict[str, Any]], params: TrainingParams, fused: bool) -> torch.optim.AdamW:
    betas = (params.momentum, 0.999)
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=betas, fused=fused, foreach=not fused)


def set_learning_rate(optimizer: torch.optim.Optimizer | Muon, params: TrainingParams, step: int) -> None:
    """Set the rate of `step`: a linear warm-up, then a cosine to zero (Loshchilov and Hutter 2017)."""
    warmup = params.warmup * params.steps
    if step < warmup:
        factor = (step + 1) / (warmup + 1)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / (params.steps - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = params.learning_rate * factor * group.get("rate_share", 1.0)


class EMA:
    """An exponential moving average of a classifier's weights and statistics (Tarvainen and Valpola 2017)."""

    def __init__(self, classifier: Classifier):
        self.classifier = copy.deepcopy(classifier).eval()
        self.means, self.sources = _float_tensors(self.classifier), _float_tensors(classifier)

    @torch.no_grad()
    def update(self, decay: float, step: int) -> None:
        """Move the average towards the classifier by 1 - `decay`; by more in the first steps, to forget the initial
        weights."""
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.means, self.sources, 1 - decay)


def _float_tensors(classifier: Classifier) -> list[Tensor]:
    return [tensor for tensor in classifier.state_dict().values() if tensor.is_floating_point()]  # no copies
