"""The precision of forward and backward passes, and which one is the fastest: `runtime.precision: auto`."""

from typing import Literal

import torch
from torch import nn

from noisy_student.models.device import Precision, RuntimeParams, bfloat16_instructions

Work = Literal["training", "labeling"]
# Networks, by how their convolutions are, and the work for which bfloat16 is faster than float32 on a processor with
# instructions for it: see benchmarks/speed.json for avx512_bf16, and docs/speed.md for amx_bf16. Without them, it is
# eight times slower.
FASTER: set[tuple[str, Work]] = {("plain", "training"), ("plain", "labeling"), ("grouped", "labeling")}


def settled(params: RuntimeParams, network: nn.Module, device: torch.device, work: Work) -> RuntimeParams:
    """`params` with the precision that they have for this `work` of the `network` on the `device`, in place of auto."""
    if params.precision != "auto":
        return params
    return params.model_copy(update={"precision": fastest(network, device, work)})


def fastest(network: nn.Module, device: torch.device, work: Work) -> Precision:
    """The precision for this `work` of the `network` on the `device`: by FASTER on a CPU; bfloat16 on a GPU whose
    hardware has it."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if bfloat16_instructions() and (kind_of(network), work) in FASTER else "float32"


def kind_of(network: nn.Module) -> str:
    """grouped for a network with grouped convolutions, else plain."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return "grouped" if any(convolution.groups > 1 for convolution in convolutions) else "plain"


def autocast(params: RuntimeParams, device: torch.device) -> torch.autocast:
    """A context in which the forward pass runs at the precision of `params`, which must be `settled`."""
    if params.precision == "auto":
        raise ValueError("the precision must be settled for a network first")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=params.precision == "bfloat16")
