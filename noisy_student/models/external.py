"""The models of torchvision and timm as they are built here: any channels and classes, deterministic on a GPU.

The two are imported when one of their models is built, not before.
"""

import re
from collections import OrderedDict
from itertools import chain
from typing import Any

from torch import Tensor, nn

from noisy_student.core.errors import UserError
from noisy_student.models import networks

# These two have an auxiliary classifier, whose logits would be a second output.
TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def names(library: str) -> list[str]:
    """The names of all models of `library`, torchvision or timm."""
    from noisy_student.core import torchvision_compat

    if library == "timm":
        return torchvision_compat.timm().list_models()
    return torchvision_compat.torchvision.models.list_models(module=torchvision_compat.torchvision.models)


def torchvision_model(name: str, channels: int, classes: int) -> nn.Module:
    """The model `torchvision/<name>`, with a dropout before its classifier.

    It takes gray images, or images of as many channels as the library's model has; `UserError` is raised for others.
    """
    from noisy_student.core.torchvision_compat import torchvision

    variant = name.removeprefix("torchvision/")
    arguments = TORCHVISION_ARGUMENTS.get(variant, {})
    model = torchvision.models.get_model(variant, weights=None, num_classes=classes, **arguments)
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    if channels == 1:  # the summed weights respond to a gray image as the three did to its three copies
        first.weight = nn.Parameter(first.weight.detach().sum(1, keepdim=True))
        first.in_channels = 1
    elif channels != first.in_channels:
        raise UserError(
            f"the model {name} takes images of 1 or {first.in_channels} channels, and these have {channels}"
        )
    if not head_dropouts(model):
        path, last = [(path, layer) for path, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
        _put(model, path, nn.Sequential(nn.Dropout(0.0), last))
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.AdaptiveAvgPool2d) and layer.output_size not in (1, (1, 1)):
            _put(model, path, networks.AdaptiveMean(layer))
    return model


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, module)


def timm_model(name: str, channels: int, classes: int, dropout: float, stochastic_depth: float) -> nn.Module:
    """The model `timm/<name>` with those rates. A rate that it does not have is ignored."""
    from noisy_student.core import torchvision_compat

    variant = name.removeprefix("timm/")
    timm = torchvision_compat.timm()
    rates = {"drop_rate": dropout, "drop_path_rate": stochastic_depth}
    for known in (("drop_rate", "drop_path_rate"), ("drop_rate",), ("drop_path_rate",)):
        arguments = {"in_chans": channels, "num_classes": classes, **{rate: rates[rate] for rate in known}}
        try:
            return timm.create_model(variant, **arguments)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):  # timm's words for a rate that the model does not know
                raise
    return timm.create_model(variant, in_chans=channels, num_classes=classes)


def head_dropouts(model: nn.Module) -> list[nn.Module]:
    """The dropouts that are children of the model or part of its head. The head is the last child with weights."""
    head = [child for child in model.children() if any(True for _ in child.parameters())][-1]
    return [module for module in chain(model.children(), head.modules()) if isinstance(module, nn.Dropout)]


def torchvision_names(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Published weights of the model `torchvision/<name>` as the model names them today."""
    from noisy_student.core.torchvision_compat import torchvision

    variant = name.removeprefix("torchvision/")
    dense = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # what torchvision itself renames as it loads
    renamed = {dense.sub(r"\1\2.", key): tensor for key, tensor in tensors.items()}
    classes = {"num_classes": 1000, **TORCHVISION_ARGUMENTS.get(variant, {})}
    model = torchvision.models.get_model(variant, weights=None, **classes)
    missing = load_tensors(model, renamed, strict=False)
    return {key: tensor for key, tensor in model.state_dict().items() if key not in missing}


def timm_names(name: str, tag: str, path: str) -> dict[str, Tensor]:
    """The weights in the file at `path` of the model `timm/<name>` as the model names them today."""
    from noisy_student.core import torchvision_compat

    variant = name.removeprefix("timm/")
    whole = variant if tag == "DEFAULT" else f"{variant}.{tag}"
    return (
        torchvision_compat.timm()
        .create_model(whole, pretrained=True, pretrained_cfg_overlay={"file": path})
        .state_dict()
    )


def named_in_order(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` of the model `timm/<name>` from another implementation of it, under timm's names.

    The two list their tensors in the same order. Raises `ValueError` where one has another shape.
    """
    from noisy_student.core import torchvision_compat

    wanted = torchvision_compat.timm().create_model(name.removeprefix("timm/")).state_dict()
    renamed = dict(zip(wanted, tensors.values(), strict=True))
    for key, tensor in renamed.items():
        if tensor.shape != wanted[key].shape:
            raise ValueError(f"{key} has shape {tuple(tensor.shape)} instead of {tuple(wanted[key].shape)}")
    return renamed


def load_tensors(model: nn.Module, tensors: dict[str, Tensor], strict: bool = True) -> list[str]:
    """Like `load_state_dict`, but also for plain dicts. It adds the layers' version numbers, which some models check.

    If not `strict`, it returns the names that `tensors` lacks.
    """
    versioned = OrderedDict(tensors)
    versioned._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    return model.load_state_dict(versioned, strict=strict).missing_keys
