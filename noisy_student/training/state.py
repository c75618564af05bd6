"""The state of a training. A checkpoint holds all of it, so that a resumed run equals the uninterrupted one."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from noisy_student.models.classifier import Classifier
from noisy_student.training.optim import EMA, Muon, make_optimizer
from noisy_student.training.params import TrainingParams
from noisy_student.training.replica import Replica


@dataclass
class TrainState:
    """After `step` optimizer steps."""

    replica: Replica
    optimizer: torch.optim.Optimizer | Muon
    ema: EMA
    losses: Tensor  # float32 (steps,), on the device; zeros from `step` on
    curve: list[dict[str, float]] = field(default_factory=list)
    step: int = 0

    @classmethod
    def start(cls, classifier: Classifier, params: TrainingParams, fused: bool) -> "TrainState":
        """The state before the first step; `fused` says whether the optimizer is fused."""
        losses = torch.zeros(params.steps, device=classifier.mean.device)
        replica = Replica(classifier)
        return cls(replica, make_optimizer(classifier, params, fused), EMA(classifier), losses)

    @property
    def classifier(self) -> Classifier:
        """The classifier in training."""
        return self.replica.classifier

    def dump(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The state as tensors by name, and the rest of it, which JSON can hold."""
        tensors = {
            **{f"classifier.{name}": tensor for name, tensor in self.classifier.state_dict().items()},
            **{f"ema.{name}": tensor for name, tensor in self.ema.classifier.state_dict().items()},
            **{
                f"optimizer.{number}.{name}": tensor
                for number, parameter in enumerate(self._parameters())
                for name, tensor in self.optimizer.state[parameter].items()
            },
            "losses": self.losses,
        }
        return tensors, {"step": self.step, "curve": self.curve}

    def restore(self, tensors: dict[str, Tensor], rest: dict[str, Any]) -> None:
        """Restore what `dump` returned. Tensors are filled in place, so they keep their device and memory format."""
        self.classifier.load_state_dict(_below("classifier", tensors))
        self.ema.classifier.load_state_dict(_below("ema", tensors))
        for number, parameter in enumerate(self._parameters()):
            for name, tensor in _below(f"optimizer.{number}", tensors).items():
                like = self._count_of_steps(parameter) if name == "step" else torch.empty_like(parameter)
                self.optimizer.state[parameter][name] = like.copy_(tensor).detach()
        self.losses.copy_(tensors["losses"])
        self.step, self.curve = rest["step"], rest["curve"]

    def _count_of_steps(self, parameter: Tensor) -> Tensor:
        """An empty tensor for the count of steps: on the parameter's device for fused optimizers, on the CPU for
        others."""
        return torch.empty((), device=parameter.device if self.optimizer.defaults["fused"] else "cpu")

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name begins with `prefix` and a dot, by what follows it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
