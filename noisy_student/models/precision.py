"""The precision of forward and backward passes, and which one is the fastest: `runtime.precision: auto`."""

import torch
from torch import nn

from noisy_student.models.device import Precision, RuntimeParams, bfloat16_instructions

# By a processor's instructions: the faster precision for networks whose convolutions are plain, and for those with
# grouped ones, such as EfficientNet's. Without such instructions bfloat16 is eight times slower. The row of avx512_bf16
# is that of benchmarks/speed.json. With amx_bf16, EfficientNet-Lite0 trained 39 images/s in bfloat16 and 49 in float32,
# and a WRN-28-2 409 and 157.
FASTEST: dict[str, dict[str, Precision]] = {
    "amx_bf16": {"plain": "bfloat16", "grouped": "float32"},
    "avx512_bf16": {"plain": "bfloat16", "grouped": "bfloat16"},
}


def settled(params: RuntimeParams, network: nn.Module, device: torch.device) -> RuntimeParams:
    """`params` with the precision that they have for this `network` on this `device`, in place of auto."""
    if params.precision != "auto":
        return params
    return params.model_copy(update={"precision": fastest(network, device)})


def fastest(network: nn.Module, device: torch.device) -> Precision:
    """The precision for the `network` on the `device`: by FASTEST on a CPU; bfloat16 on a GPU whose hardware has it."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    known = [name for name in FASTEST if name in bfloat16_instructions()]
    return FASTEST[known[0]][kind_of(network)] if known else "float32"


def kind_of(network: nn.Module) -> str:
    """grouped for a network with grouped convolutions, else plain."""
    convolutions = (module for module in network.modules() if isinstance(module, nn.Conv2d))
    return "grouped" if any(convolution.groups > 1 for convolution in convolutions) else "plain"


def autocast(params: RuntimeParams, device: torch.device) -> torch.autocast:
    """A context in which the forward pass runs at the precision of `params`, which must be `settled`."""
    if params.precision == "auto":
        raise ValueError("the precision must be settled for a network first")
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=params.precision == "bfloat16")
