"""How a stage runs: device, threads, determinism, and torch's own generators."""

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from noisy_student.core import ranks
from noisy_student.core.config import ParamsModel
from noisy_student.core.errors import UserError
from noisy_student.core.randomness import generator

LIBRARIES = (  # another version may give other bytes
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "safetensors",
    "scikit-learn",  # solves heads, with SciPy
    "scipy",
    "pillow",  # decodes streamed pools, with pillow-heif
    "pillow-heif",
)
NOT_DETERMINISTIC = "does not have a deterministic implementation"  # torch's words, as the following are
COMPILERS = ("torch._dynamo", "torch._inductor")  # where the errors of torch.compile are defined
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LARGEST_INT = -1, -3, 2**31 - 1  # of glibc's malloc.h
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
BFLOAT16 = ("amx_bf16", "avx512_bf16")  # instructions for it, as Linux names them
Precision = Literal["float32", "bfloat16"]


class RuntimeParams(ParamsModel):
    """Settings of the machine that enter the result."""

    device: Literal["auto", "cpu", "cuda"]  # auto: a GPU if there is one
    precision: Literal["auto", Precision]  # of the forward and backward pass, see precision.py; weights stay float32
    threads: int = Field(ge=1, le=1024)  # CPU threads of a stage; another number gives other bytes
    channels_last: bool = True  # keep the channels of a pixel side by side, where convolutions are fastest
    fused: bool = True  # take an optimizer step in one operation for all weights, instead of one for each of its terms
    compile: bool = False  # torch.compile the network before training: half a minute, then a faster step or not
    deterministic: bool  # refuse operations whose result differs from run to run on a GPU


def machine(device: torch.device, count: int = 1) -> dict[str, Any]:
    """What decides the bytes of a result beside code, parameters and inputs; the `count` of ranks, where it does."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {"device": device.type, "kind": kind, "ranks": count, **{name: _version(name) for name in LIBRARIES}}


def to_device(values: np.ndarray, device: torch.device) -> torch.Tensor:
    """`values` as a tensor on the `device`; the copy to a GPU goes on while Python does. On a CPU it is the same
    memory."""
    there = torch.from_numpy(values)
    return there.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else there


def processor() -> str:
    """The processor's name and the instructions of it that torch uses."""
    name = _of_processor("model name") or platform.machine()
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *bfloat16_instructions()])


def bfloat16_instructions() -> list[str]:
    """The processor's instructions for bfloat16, of BFLOAT16."""
    flags = _of_processor("flags").split()
    return [name for name in BFLOAT16 if name in flags]


@cache
def _of_processor(key: str) -> str:
    """What Linux says of the first core; nothing where it does not say it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key), "")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def setup(params: RuntimeParams) -> torch.device:
    """Set threads and determinism for this process and return the device to run on (see `pick_device`).

    Each rank of a machine takes a GPU of its own. Raises `UserError` for more ranks than GPUs.
    """
    torch.set_num_threads(params.threads)
    keep_freed_memory()
    if params.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it in deterministic mode
        # use_deterministic_algorithms(True) says the same, and takes two seconds to import torch's compiler.
        torch.set_deterministic_debug_mode("error")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # what is read was written
    device = pick_device(params)
    if device.type == "cuda" and ranks.world_size() > 1:
        if ranks.local_rank() >= torch.cuda.device_count():
            raise UserError(f"there are more ranks than the {torch.cuda.device_count()} GPU(s); start fewer")
        torch.cuda.set_device(ranks.local_rank())
    return device


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones.

    By default it returns large blocks to the system at once, so that each step of a training on photographs asks for
    them again, page by page: half of its time. Where the C library is not glibc, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, LARGEST_INT)
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)


def pick_device(params: RuntimeParams) -> torch.device:
    """The device that `params` ask for. Raises `UserError` when that is a GPU and there is none."""
    has_gpu = torch.cuda.is_available()
    if params.device == "cuda" and not has_gpu:
        raise UserError("runtime.device is cuda, but torch finds no GPU; set it to auto or cpu")
    return torch.device("cuda" if has_gpu and params.device != "cpu" else "cpu")


@contextmanager
def translate_torch_errors(remedy: str) -> Iterator[None]:
    """Within the block, turn three errors of torch into a `UserError`.

    These are too little memory, for which `remedy` is given, a network that torch.compile cannot compile, and an
    operation that has no deterministic form on a GPU.
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            raise UserError(f"the device has too little memory; {remedy}") from None
        if type(error).__module__.startswith(COMPILERS):
            reason = str(error).splitlines()[0]
            raise UserError(f"torch.compile failed ({reason}); set runtime.compile to false") from None
        if NOT_DETERMINISTIC not in str(error):
            raise
        operation = str(error).split()[0]
        raise UserError(
            f"{operation} has no deterministic form on a GPU; take another model or set runtime.deterministic to false"
        ) from None


def memory_format(params: RuntimeParams) -> torch.memory_format:
    """How the pixels and weights of convolutions are laid out."""
    return torch.channels_last if params.channels_last else torch.contiguous_format


def reseed_torch(seed: int, purpose: str, step: int = 0) -> None:
    """Seed torch's own generators (initial weights, dropout, stochastic depth) for one step of one purpose."""
    number = int(generator(seed, purpose, step).integers(2**63))
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes a hundred times as long
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(number)
