"""A model's folder: its tensors as safetensors, and JSON that a person can read. No pickle anywhere."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from noisy_student.errors import Refusal
from noisy_student.files import REMEDY, read_json, write_bytes, write_json

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"


def save_model(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write `tensors` and `description` into `folder`; the same values give the same bytes."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    write_bytes(folder / WEIGHTS, save(contiguous))
    write_json(folder / DESCRIPTION, description)


def load_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that `save_model` wrote.

    Raises `Refusal` when the folder holds no model that can be read.
    """
    try:
        return load_file(folder / WEIGHTS), read_json(folder / DESCRIPTION)
    except (OSError, SafetensorError) as error:
        raise Refusal(f"{folder} holds no readable model ({error}); {REMEDY}") from None
