"""Tensors on the disk as safetensors: a model's folder, and the checkpoints of a training run. No pickle anywhere."""

import hashlib
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, read_json, write_bytes, write_json
from noisy_student.core.workspace import checkpoint_seconds

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
KEPT = 2  # checkpoints: the last may be damaged by whatever killed the run
SHARE = 0.02  # the most of a run's time that its checkpoints take


def folder_of(parent: Path, model: str) -> Path:
    """The folder of the model called `model` inside a folder of several models."""
    return parent / model.replace("/", "-")


def save_model(folder: Path, tensors: dict[str, Tensor], description: dict[str, Any]) -> None:
    """Write `tensors` and `description` into `folder`; the same values give the same bytes."""
    write_bytes(folder / WEIGHTS, save(_plain(tensors)))
    write_json(folder / DESCRIPTION, description)


def load_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the description that `save_model` wrote.

    Raises `UserError` when the folder holds no model that can be read.
    """
    try:
        return load_file(folder / WEIGHTS), read_json(folder / DESCRIPTION)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder} holds no readable model ({error}); {REMEDY}") from None


Found = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and the rest of a checkpoint


class Glance(NamedTuple):
    """What a checkpoint tells without being taken up."""

    rest: dict[str, Any]
    losses: list[float]  # of the steps so far
    steps: int  # of the whole run


def glance(folder: Path) -> Glance | None:
    """The last checkpoint in `folder`, while its run goes on; None without one that can be read."""
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt") as opened:
                rest = json.loads(opened.metadata()["rest"])
                losses = opened.get_tensor("losses").tolist()
                return Glance(rest, losses[: rest["step"]], len(losses))
        except (OSError, SafetensorError):  # removed meanwhile, or damaged
            continue
    return None


class Checkpoints:
    """The last checkpoints of one training run: step-<step>-<start of the file's sha256>.safetensors, `KEPT` of them.

    A checkpoint is tensors and, in the file's metadata, `rest`: JSON of whatever else the run needs to go on, and the
    run's `name`.
    """

    def __init__(self, folder: Path, name: str = ""):
        self.folder, self.name = folder, name
        self.seconds = checkpoint_seconds()
        self.last, self.cost = time.monotonic(), 0.0  # when the last one was written, and how long that took

    def due(self) -> bool:
        """Whether it is time for another checkpoint, so that all together cost little time."""
        return time.monotonic() - self.last >= max(self.seconds, self.cost / SHARE)

    def save(self, step: int, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Write a checkpoint of `step` and remove those before the last `KEPT`."""
        started = time.monotonic()
        named = {"name": self.name, **rest} if self.name else rest
        content = save(_plain(tensors), metadata={"rest": json.dumps(named, allow_nan=False)})
        name = f"step-{step:09}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        write_bytes(self.folder / name, content)
        for old in _files(self.folder)[KEPT:]:
            old.unlink()
        self.last = time.monotonic()
        self.cost = self.last - started

    def latest(self) -> Found | None:
        """The tensors and the rest of the last undamaged checkpoint; None without one."""
        for half in self.folder.glob("*.tmp"):
            half.unlink()
        for file in _files(self.folder):
            if _intact(file):
                with safe_open(file, framework="pt") as opened:
                    rest = json.loads(opened.metadata()["rest"])
                    return {name: opened.get_tensor(name) for name in opened.keys()}, rest  # noqa: SIM118 no mapping
            print(f"the checkpoint {file} is damaged and is left out", flush=True)
            file.unlink()
        return None


def _files(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, the last one first."""
    return sorted(folder.glob("step-*.safetensors"), reverse=True)


def _intact(file: Path) -> bool:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16] == file.stem.rpartition("-")[2]


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
