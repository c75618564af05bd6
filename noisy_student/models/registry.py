"""Models by name: the built-in networks `mlp_W`, `cnn_W`, `wrn_D_K`, and `torchvision/<name>` and `timm/<name>`.

Models are built with random weights, for any number of channels and classes and any image size. Dropout stands before
the classifier. Stochastic depth decays linearly: the l-th of L residual branches survives with probability
1 - rate * l / L (both as in Xie et al. 2019, section 3.1). A rate that a model cannot use is an error.

N images, C channels, H and W their size, K classes.
"""

import difflib
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from noisy_student.core.errors import UserError
from noisy_student.models import external, networks, probe
from noisy_student.models.probe import LARGEST_SIDE


def build(
    name: str,
    channels: int,
    classes: int,
    image_size: tuple[int, int],
    dropout: float,
    stochastic_depth: float,
    input_size: tuple[int, int] | None = None,
) -> nn.Module:
    """The model `name` in training mode, its weights drawn from torch's global generator.

    It maps normalized float images (N,C,H,W) of `image_size` (H,W), in either memory format, to logits (N,K). Inside,
    it resizes them to `input_size` (H,W) where that differs, and enlarges images that are too small for it. Rates are
    in [0, 1). Raises `UserError` for an unknown name, a rate that the model cannot use, and images that it cannot
    take.
    """
    check_rates(name, dropout, stochastic_depth)
    height, width = input_size or image_size
    model: Any = _build(name, channels, classes, (height, width), dropout, stochastic_depth)
    smallest = model.smallest_image_size if _is_builtin(name) else _smallest_image_size(name)
    if _is_builtin(name) and min(height, width) >= smallest:
        as_they_are = (height, width) == image_size
        return model if as_they_are else networks.Resizing(model, image_size, (height, width), smallest)
    sides = (0, *range(smallest, LARGEST_SIDE + 1))  # a model may refuse a larger side: some need a multiple of 16
    for size in ((max(height, side), max(width, side)) for side in sides):
        if probe.takes(model, channels, size):
            return networks.Resizing(model, image_size, size, smallest)
    raise UserError(f"the model {name} takes no images of {height}x{width} pixels, enlarged or not; take another")


def check_name(name: str) -> None:
    """Raise `UserError` unless a model has that name. Built-in networks need no library, so the check is quick."""
    library, _, variant = name.rpartition("/")
    if library not in ("torchvision", "timm"):
        networks.parse(name)
        return
    known = external.names(library)
    if variant not in known:
        close = [f"{library}/{near}" for near in difflib.get_close_matches(variant, known, n=3)]
        meant = f"did you mean {' or '.join(close)}?" if close else f"take one of {library}'s list_models()"
        raise UserError(f"the model {name[:60]!r} is unknown; {meant}")


def check_rates(name: str, dropout: float, stochastic_depth: float) -> None:
    """Raise `UserError` for an unknown name, a rate outside [0, 1), or a rate above 0 that the model cannot use.

    A library may accept a rate and ignore it. So a rate counts as used if a forward pass draws random numbers more
    often with the rate than without it, see probe.py.
    """
    check_name(name)
    for noise, rates in (("dropout", (dropout, 0.0)), ("stochastic depth", (0.0, stochastic_depth))):
        rate = sum(rates)
        if not 0 <= rate < 1:
            raise UserError(f"the rate of {noise} was {rate}; it must be at least 0 and below 1")
        if rate and not _uses(name, *rates):
            raise UserError(f"the model {name} has no place for {noise}; set its rate to 0 or take another model")


def check_head(name: str) -> None:
    """Raise `UserError` unless the last linear layer is the only part of the model that depends on the number of
    classes."""
    if _is_builtin(name):
        return
    one, other = (_on_meta(name, 0.0, 0.0, classes) for classes in (2, 3))
    shapes = {key: tensor.shape for key, tensor in other.state_dict().items()}
    head = head_name(one)
    for key, tensor in one.state_dict().items():
        if tensor.shape != shapes[key] and not key.startswith(f"{head}."):
            raise UserError(f"the model {name} has a second head, {key}, so its head cannot be new; use another model")


def check_side(name: str, resolution: float, shape: tuple[int, ...]) -> None:
    """Check a `resolution` below 1 for images of `shape` (H,W,C).

    Raises `UserError` unless it makes the images smaller and the model takes images of that size.
    """
    if resolution == 1:
        return
    height, width, channels = shape
    builtin = _is_builtin(name)
    smallest: Any = (
        networks.build(name, channels, 2, (height, width)).smallest_image_size
        if builtin
        else _smallest_image_size(name)
    )
    side = round(resolution * min(height, width))
    if side < smallest:
        raise UserError(f"it was {resolution}, which makes images of {side} pixels; {name} takes {smallest} or more")
    if side == min(height, width):
        raise UserError(f"it was {resolution}, which leaves images of {side} pixels as they are; set it to 1")


def heads(model: nn.Module) -> list[nn.Linear]:
    """The last linear layer of each member of `model`. Its input is what is called features.

    Raises `UserError` where there is none.
    """
    members = model.members if isinstance(model, networks.Ensemble) else [model]
    linear = [[layer for layer in member.modules() if isinstance(layer, nn.Linear)] for member in members]
    if not all(linear):
        raise UserError("this model has no linear layer at its end and thus no features; use another model")
    return [layers[-1] for layers in linear]


def body_layers(network: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """The parameters of the `network` but those of its heads, each with the number of its layer of weights, from 1 on.

    A parameter with one dimension belongs to the layer of the weights before it.
    """
    head = {id(parameter) for each in heads(network) for parameter in each.parameters()}
    body = [parameter for parameter in network.parameters() if id(parameter) not in head]
    return [(each, max(layer, 1)) for each, layer in zip(body, accumulate(p.ndim > 1 for p in body), strict=True)]


def head_name(model: nn.Module) -> str:
    """The dotted name, in one network, of the layer that `heads` finds."""
    (head,) = heads(model)
    return next(name for name, module in model.named_modules() if module is head)


def bare(model: nn.Module) -> nn.Module:
    """The network inside a model of `build`, without its resizing; of an ensemble, that of the first member."""
    first = model.members[0] if isinstance(model, networks.Ensemble) else model
    return first.network if isinstance(first, networks.Resizing) else first


def input_size(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) to which a model of `build` brings images of `image_size` (H,W)."""
    first = model.members[0] if isinstance(model, networks.Ensemble) else model
    return first.size if isinstance(first, networks.Resizing) else image_size


def size_and_cost(model: Any, channels: int, image_size: tuple[int, int]) -> dict[str, Any]:
    """Size and cost of a model of `build` for images of that many channels and that size (H,W).

    `parameters`: numbers among its weights. `multiply_adds`: of one image's forward pass, in convolutions and matrix
    products. `input_sizes`: pixels a side of the square images that it takes without resizing them: the `smallest` and
    from there on in steps of `step`, null where that is the only one.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        images = len(probe.forward(model, channels, image_size))
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2 // images,  # it counts a multiply-add as two operations
        "input_sizes": {"smallest": model.smallest_image_size, "step": _step_of_sizes(model, channels)},
    }


def _step_of_sizes(model: Any, channels: int) -> int | None:
    network, smallest = bare(model), model.smallest_image_size
    larger = ((step, smallest + step) for step in (1, 2, 4, 8, 16, 32))
    return next((step for step, side in larger if probe.takes(network, channels, (side, side))), None)


def _is_builtin(name: str) -> bool:
    return "/" not in name


def _build(
    name: str, channels: int, classes: int, image_size: tuple[int, int], dropout: float, stochastic_depth: float
) -> nn.Module:
    """The model as its library builds it; rates that it cannot use are ignored, and small images are not enlarged."""
    if name.startswith("timm/"):
        return external.timm_model(name, channels, classes, dropout, stochastic_depth)
    builtin = _is_builtin(name)
    model = (
        networks.build(name, channels, classes, image_size)
        if builtin
        else external.torchvision_model(name, channels, classes)
    )
    _set_rates(model, dropout, stochastic_depth)
    return model


def _set_rates(model: nn.Module, dropout: float, stochastic_depth: float) -> None:
    """Set the rates of a built-in network or one of torchvision; dropouts outside the head are set to 0."""
    head = external.head_dropouts(model)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout if module in head else 0.0
    # torchvision's class has the name and attribute of networks', and is not imported for this.
    branches: list[Any] = [module for module in model.modules() if type(module).__name__ == "StochasticDepth"]
    for depth, branch in enumerate(branches, start=1):
        branch.p = stochastic_depth * depth / len(branches)


@cache
def _smallest_image_size(name: str) -> int:
    """Pixels a side of the smallest square image that a library's model takes."""
    side = probe.smallest_side(_on_meta(name, 0.0, 0.0))
    if side is None:
        raise UserError(f"the model {name} takes no square images of up to {LARGEST_SIDE} pixels a side; take another")
    return side


@cache
def _on_meta(name: str, dropout: float, stochastic_depth: float, classes: int = 2) -> nn.Module:
    """A model for color images without weights. The library must have been imported by `check_name` before, since
    importing it on the meta device fails."""
    arguments = (name, 3, classes, (32, 32), dropout, stochastic_depth)
    try:
        with torch.device("meta"):
            return _build(*arguments)
    except NotImplementedError:  # some constructors compute with tensors, which the meta device has no values for
        with torch.random.fork_rng(devices=[]):
            return _build(*arguments).to("meta")


@cache
def _uses(name: str, dropout: float, stochastic_depth: float) -> bool:
    """Whether a model in training draws random numbers for the rate that is not 0."""
    if _is_builtin(name):  # they use what they have, and a process's first pass on the meta device costs a second
        return dropout > 0 or networks.parse(name)[0] in networks.RESIDUAL
    side = _smallest_image_size(name)
    with_rate, without = (_on_meta(name, *rates) for rates in ((dropout, stochastic_depth), (0.0, 0.0)))
    return probe.random_operations(with_rate, side) > probe.random_operations(without, side)
