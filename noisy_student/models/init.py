"""Classifiers from pretrained weights: the body is the pretrained one, and the head is new.

A folder of pretrained weights has model.safetensors and model.json, as the folder of any model. The model's name, the
size and channels of its input, and its normalization are taken from the description.

K classes.
"""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from noisy_student.core.config import ParamsModel, validated
from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY
from noisy_student.models.checkpoint import DESCRIPTION, load_model
from noisy_student.models.classifier import Classifier
from noisy_student.models.external import load_tensors
from noisy_student.models.probe import LARGEST_SIDE
from noisy_student.models.registry import bare, build, head_name
from noisy_student.store.splits import Split

COUNTER = "num_batches_tracked"  # of a batch norm; unused here, and missing in older files


class Normalization(ParamsModel):
    """The normalization of pixels scaled to 0..1: a mean and a deviation for each channel."""

    mean: list[float] = Field(min_length=1)
    std: list[Annotated[float, Field(gt=0)]] = Field(min_length=1)


class WeightsSpec(ParamsModel):
    """The images that weights are for."""

    model: str
    input_channels: int = Field(ge=1)
    input_size: list[Annotated[int, Field(ge=1, le=LARGEST_SIDE)]] = Field(min_length=2, max_length=2)
    normalization: Normalization

    @model_validator(mode="after")
    def _as_many_channels(self) -> "WeightsSpec":
        if not len(self.normalization.mean) == len(self.normalization.std) == self.input_channels:
            raise ValueError(f"must have a normalization of {self.input_channels} channels")
        return self


def from_pretrained(
    name: str, labeled: Split, dropout: float, stochastic_depth: float, folder: Path, device: torch.device
) -> Classifier:
    """A classifier for the classes of `labeled` with the body, normalization and input size of the weights in `folder`.

    Its head is drawn from torch's own generator. Weights for color images also take gray ones. Raises `UserError` when
    the weights are of another model or for fewer channels.
    """
    tensors, description = load_model(folder)
    given = weights_spec(description, folder / DESCRIPTION)
    channels, (height, width) = given.input_channels, given.input_size
    if given.model != name:
        raise UserError(f"the weights in {folder} are of {given.model} and not of {name}; {REMEDY}")
    if channels != labeled.channels and labeled.channels != 1:
        raise UserError(
            f"the weights in {folder} are of images of {channels} channels, and these have {labeled.channels}; take "
            "others, or training.initial scratch"
        )
    network = build(
        name, channels, len(labeled.classes), labeled.image_size, dropout, stochastic_depth, (height, width)
    )
    replace_body(bare(network), tensors, folder)
    mean, std = (torch.tensor(each) for each in (given.normalization.mean, given.normalization.std))
    return Classifier(network, mean, std).to(device)


def weights_spec(description: dict[str, Any], path: Path) -> WeightsSpec:
    """What the `description` at `path` says of the images that weights are for; raises `UserError` where it does
    not."""
    return validated(
        WeightsSpec, {key: description[key] for key in WeightsSpec.model_fields if key in description}, "weights", path
    )


def replace_body(network: nn.Module, tensors: dict[str, Tensor], folder: Path) -> None:
    """Load all of `tensors` but the head into `network`. Raises `UserError` for a tensor that is missing or has another
    shape."""
    found = _of_network(tensors)
    wanted = body(network)
    for name, tensor in wanted.items():
        if name in found and not torch.isfinite(found[name]).all():
            raise UserError(f"{name} of the weights in {folder} has numbers that are not finite; take others")
        if name not in found and not name.endswith(COUNTER):
            raise UserError(
                f"the weights in {folder} have no {name}, which the model has; take those of the same model"
            )
        if name in found and found[name].shape != tensor.shape:
            shapes = f"{tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
            raise UserError(
                f"{name} of the weights in {folder} has shape {shapes}; use weights of the same model, with one head"
            )
    load_tensors(network, {name: found[name] for name in wanted if name in found}, strict=False)


def body(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of `network` but those of its head."""
    head = head_name(network)
    return {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(f"{head}.")}


def _of_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network under its own names, taken from `tensors` of the network or of a classifier around
    it."""
    if not {"mean", "std"} <= tensors.keys():
        return tensors
    resizing = all(name.startswith("network.network.") for name in tensors if name not in ("mean", "std"))
    prefix = "network.network." if resizing else "network."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
