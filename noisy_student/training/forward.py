"""The two forward passes of a classifier in training that objectives use.

B images, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.precision import autocast
from noisy_student.models.registry import bare, body_layers, heads
from noisy_student.training.params import Scope
from noisy_student.training.replica import Replica


class ForwardPasses(NamedTuple):
    """Two functions from uint8 images (B,C,H,W) to float32 logits (B,K) of the classifier in training."""

    logits: Callable[[Tensor], Tensor]  # with its model noise, for a loss
    noiseless_logits: Callable[[Tensor], Tensor]  # in eval mode and without gradients, as a teacher labels


def forward_passes(
    replica: Replica,
    runtime: RuntimeParams,
    scope: Scope = "all",
    keep_statistics: bool = False,
    frozen: float = 0.0,
) -> ForwardPasses:
    """The forward passes of a classifier, of which the tensors in `scope` are trained, without the first fraction
    `frozen` of the body's.

    With `keep_statistics`, batch norms normalize by the statistics that they have and do not change them.
    """

    classifier = replica.classifier

    def forward(module: nn.Module, images: Tensor) -> Tensor:
        with autocast(runtime, images.device):
            logits: Tensor = module(images)
            return logits.float()

    def logits(images: Tensor) -> Tensor:
        PREPARE[scope](classifier)
        if keep_statistics:
            set_norms(classifier, training=False)
        if frozen:  # not every model has a body and a head that can be told apart
            freeze(classifier, frozen)
        return forward(replica.module, images)

    @torch.no_grad()
    def noiseless_logits(images: Tensor) -> Tensor:
        classifier.eval()
        return forward(classifier, images)

    return ForwardPasses(logits, noiseless_logits)


def learn_all(classifier: Classifier) -> None:
    """Train all tensors, with model noise."""
    classifier.train().requires_grad_(True)


def freeze(classifier: Classifier, fraction: float) -> None:
    """Keep that first `fraction` of the body's layers, and the statistics of its batch norms, as they are, so that no
    gradient is computed for them."""
    body = body_layers(classifier.network)
    for parameter, layer in body:
        if layer <= round(fraction * body[-1][1]):
            parameter.requires_grad_(False)
    for module in classifier.modules():
        if isinstance(module, _BatchNorm) and not module.weight.requires_grad:
            module.eval()


def learn_head(classifier: Classifier) -> None:
    """Train the head alone: the body is in eval mode, and only the dropout before the head is on."""
    classifier.eval().requires_grad_(False)
    turn_on_dropout(classifier)
    for head in heads(classifier.network):
        head.train().requires_grad_(True)


def turn_on_dropout(classifier: Classifier) -> None:
    """Put the dropout before the head into training mode, and nothing else.

    Most networks have a layer for it. Those of timm apply it in `forward`, by the network's own flag.
    """
    bare(classifier.network).training = True
    for module in classifier.modules():
        if isinstance(module, nn.Dropout):
            module.train()


def set_norms(classifier: Classifier, training: bool) -> None:
    """Let the batch norms follow the statistics of the batches, in `training` mode, or keep those that they have."""
    for module in classifier.modules():
        if isinstance(module, _BatchNorm):
            module.train(training)


def learn_deep_half(classifier: Classifier) -> None:
    """Train the deeper half of the tensors and the statistics of all layers, without model noise."""
    classifier.eval()
    set_norms(classifier, training=True)
    weights = list(classifier.parameters())
    for place, weight in enumerate(weights):
        weight.requires_grad_(place >= len(weights) // 2)


PREPARE: dict[Scope, Callable[[Classifier], None]] = {
    "all": learn_all,
    "head": learn_head,
    "deep half": learn_deep_half,
}
