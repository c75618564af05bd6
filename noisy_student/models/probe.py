"""Finds out what a network can do by passing images without pixels through it, on torch's meta device.

Nothing is computed and nothing is drawn, so a pass takes milliseconds.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LARGEST_SIDE = 1024  # pixels; no model of torchvision or timm asks for more
TOO_SMALL = (RuntimeError, AssertionError, ValueError)  # what models raise on images that they cannot take


def forward(model: nn.Module, channels: int, image_size: tuple[int, int]) -> Tensor:
    """The logits of two images of that many channels and that size (H,W), on the meta device: their shape alone."""
    tensors = chain(model.named_parameters(), model.named_buffers())
    images = torch.empty(2, channels, *image_size, device="meta")
    with torch.no_grad():
        return torch.func.functional_call(model, {name: tensor.to("meta") for name, tensor in tensors}, (images,))


def takes(model: nn.Module, channels: int, image_size: tuple[int, int]) -> bool:
    """Whether the model gives logits for images of that many channels and that size (H,W)."""
    try:
        return forward(model, channels, image_size).ndim == 2
    except TOO_SMALL:
        return False


def smallest_side(model: nn.Module) -> int | None:
    """Pixels a side of the smallest square color image that the model takes; None where it takes none.

    Most models take some power of two, and the side is found by bisection below it. Others take one size alone, such as
    224, and each side is tried.
    """

    def takes_side(side: int) -> bool:
        return takes(model, 3, (side, side))

    power = next((2**i for i in range(LARGEST_SIDE.bit_length()) if takes_side(2**i)), None)
    if power:
        return power // 2 + 1 + bisect_left(range(power // 2 + 1, power), True, key=takes_side)
    return next((side for side in range(1, LARGEST_SIDE) if takes_side(side)), None)


def random_operations(model: nn.Module, side: int) -> int:
    """How many operations of a forward pass draw random numbers: those of dropout and of stochastic depth."""
    with _RandomOperations() as counter:
        forward(model, 3, (side, side))
    return counter.count


class _RandomOperations(TorchDispatchMode):
    """Counts the operations that torch marks as random."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.count += torch.Tag.nondeterministic_seeded in operator.tags
        return operator(*args, **(kwargs or {}))
