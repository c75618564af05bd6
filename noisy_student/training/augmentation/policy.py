"""Noise of a training: which operations at which strength (Xie et al. 2019, section 2). Teachers label without it.

All random numbers of a batch are drawn first, on the CPU, from one generator: a few numbers for each image. Then they
are applied to the whole batch on its device. So the same draw gives the same images again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from noisy_student.core.config import ParamsModel
from noisy_student.core.errors import UserError
from noisy_student.training.augmentation.mixing import MASKS
from noisy_student.training.augmentation.operations import (
    OPERATIONS,
    affine,
    crop_and_flip,
    cutout,
    jitter,
    randaugment,
    resized_crop,
)

JITTER_REACH = 0.9  # the most that a factor differs from 1, at magnitude 30; as in RandAugment's color
TRIES = 10  # at a part of an image that lies inside it
PER_SLOT = ("operation", "strength")  # arrays of a draw that have a row for each of RandAugment's slots
CPU_VALUES = 2**21  # uint8 values processed at once; with more, a CPU spends its time on allocating memory


Magnitude = Annotated[float, Field(ge=0, le=30)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class NoiseParams(ParamsModel):
    """Input noise, in the order in which it is applied, and the rates of model noise.

    An option that is not named is off.
    """

    operations: int = Field(default=0, ge=0, le=16)  # RandAugment: operations an image goes through, one after another
    magnitude: Magnitude = 0.0  # RandAugment: strength, from 0 (none) to 30
    affine: Magnitude = 0.0  # rotate, shear, scale and shift each image in one step, by up to
    # the amounts of RandAugment's operations at this magnitude (0: off)
    jitter: Magnitude = 0.0  # every image's brightness, contrast and color, in the same way
    crop: int = Field(default=0, ge=0, le=1024)  # random crop after padding by so many pixels on each side (0: off)
    resized_crop: float = Field(default=0.0, ge=0, le=1)  # a random part of the image, enlarged to the whole: its least
    # share of the area, such as 0.25 (0: off); its sides' ratio is from 3/4 to 4/3 (Szegedy et al. 2015, section 6)
    flip: bool = False  # mirror left-right with probability 1/2
    cutout: float = Field(default=0.0, ge=0, le=1)  # side of the erased square, a fraction of the image's shorter one
    fill: int = Field(default=0, ge=0, le=255)  # gray value of what a move or a cutout uncovers
    mix: str = "none"  # how two images of a batch become one, see mixing.py
    mix_alpha: float = Field(default=1.0, gt=0, le=100)  # of Beta(alpha, alpha), from which an image's share is drawn
    dropout: Rate = 0.0  # fraction of the features before the classifier dropped in training
    stochastic_depth: Rate = 0.0  # rate at which the deepest residual branch is skipped, linear decay

    @field_validator("mix")
    @classmethod
    def _known_mix(cls, mix: str) -> str:
        known = ("none", *MASKS)
        if mix not in known:
            raise ValueError(f"must be one of {', '.join(known)}")
        return mix

    @classmethod
    def none(cls) -> "NoiseParams":
        """Everything off, as for a control without noise."""
        return cls()

    def weak(self) -> "NoiseParams":
        """Crops and flip alone, the weak noise of consistency objectives (Sohn et al. 2020, section 2.2)."""
        kept = ("crop", "resized_crop", "flip", "fill")
        return NoiseParams.none().model_copy(update={name: getattr(self, name) for name in kept})


class Scale(NamedTuple):
    """An operation's strength: `rest` at magnitude 0, `reach` away from it at magnitude 30, linear between them."""

    rest: float
    reach: float
    signed: bool = True  # whether the strength goes to either side of `rest`, at random
    whole: Callable[[float], float] = float  # how a strength is rounded if it must be an integer


def scales(height: int, width: int) -> dict[str, Scale]:
    """The scale of each operation that has a strength, for images of `height` and `width` pixels.

    All are from torchvision.transforms.v2.RandAugment (`_AUGMENTATION_SPACE`, whose bins 0 to 30 are the magnitudes).
    The paper's own code (google-research/noisystudent, randaugment.py) differs. It reaches the same rotation, shear and
    factors at level 10 and exceeds them at higher levels. It shifts by a fixed number of pixels. At high levels, it
    never lowers a factor. Its solarize and posterize become weaker as the level rises.
    """
    return {
        "rotate": Scale(0, 30),  # degrees
        "shear_x": Scale(0, 0.3),  # tangent
        "shear_y": Scale(0, 0.3),
        "translate_x": Scale(0, 150 / 331 * width, whole=math.trunc),  # pixels
        "translate_y": Scale(0, 150 / 331 * height, whole=math.trunc),
        "color": Scale(1, 0.9),  # factor
        "contrast": Scale(1, 0.9),
        "brightness": Scale(1, 0.9),
        "sharpness": Scale(1, 0.9),
        "posterize": Scale(8, -4, signed=False, whole=round),  # bits kept
        "solarize": Scale(256, -256, signed=False),  # the first level that is inverted
    }


def affine_reach(size: tuple[int, int]) -> np.ndarray:
    """The largest of each of the six amounts of `operations.affine`, (6,), at magnitude 30.

    It is that of RandAugment's operation of the same kind; for the scale, which has none, it is e to the 0.3.
    """
    table = scales(*size)
    kinds = ("rotate", "shear_x", "shear_y", None, "translate_x", "translate_y")
    return np.array([table[kind].reach if kind else 0.3 for kind in kinds])


def strengths(magnitude: float, size: tuple[int, int]) -> np.ndarray:
    """The two strengths that each of OPERATIONS may have at `magnitude`, (len(OPERATIONS),2); `size` is (H,W)."""
    table, share = scales(*size), magnitude / 30
    pairs = []
    for name in OPERATIONS:
        rest, reach, signed, whole = table.get(name, Scale(0, 0))
        pairs.append([whole(rest + (-reach if signed else reach) * share), whole(rest + reach * share)])
    return np.array(pairs, dtype=np.float64)


@dataclass(frozen=True)
class Draw:
    """All random numbers for N images, as numpy arrays, whose first dimension is N; of those in PER_SLOT the second."""

    operation: np.ndarray  # int64 (slots,N): index into OPERATIONS
    strength: np.ndarray  # float64 (slots,N): in the operation's own unit, with its sign (see operations.randaugment)
    shift: np.ndarray  # int64 (N,2): pixels down and right, each within plus or minus the crop
    mirrored: np.ndarray  # bool (N,)
    center: np.ndarray  # int64 (N,2): row and column of the erased square's center
    affine: np.ndarray  # float64 (N,6): see operations.affine
    jitter: np.ndarray  # float64 (N,3): see operations.jitter
    box: np.ndarray  # int64 (N,4): top, left, height, width of the resized crop

    def rows(self, index: slice | np.ndarray) -> "Draw":
        """The draw of the images at `index`."""
        arrays = {each.name: getattr(self, each.name) for each in fields(self)}
        taken = {name: array[:, index] if name in PER_SLOT else array[index] for name, array in arrays.items()}
        return Draw(**taken)

    @classmethod
    def combined(cls, draws: Sequence["Draw"]) -> "Draw":
        """The draw of the images of all `draws`, in their order."""
        arrays = {name: [getattr(each, name) for each in draws] for name in (field.name for field in fields(cls))}
        return cls(**{name: np.concatenate(parts, axis=int(name in PER_SLOT)) for name, parts in arrays.items()})


def check_crop(params: NoiseParams, size: tuple[int, int]) -> None:
    """Raise `UserError` when the crop could leave nothing of an image of `size` (height, width)."""
    if params.crop >= min(size):
        raise UserError(
            f"noise.crop was {params.crop} for images of {size[0]}x{size[1]} pixels; set it below their side"
        )


def draw(params: NoiseParams, count: int, size: tuple[int, int], generator: np.random.Generator) -> Draw:
    """Draw all random numbers for `count` images of `size` (height, width).

    Every option draws its numbers whether it is on or off, so switching one does not change the draws of the others;
    resized_crop, which has a stream of its own, draws only where it is on.
    Raises `UserError` when a crop could miss the image.
    """
    check_crop(params, size)
    mirrored = generator.random(count) < 0.5
    shift = np.floor(generator.random((count, 2)) * (2 * params.crop + 1)).astype(np.int64) - params.crop
    center = np.floor(generator.random((count, 2)) * size).astype(np.int64)
    amounts = generator.uniform(-1, 1, (count, 6)) * params.affine / 30 * affine_reach(size)
    factors = 1 + generator.uniform(-1, 1, (count, 3)) * params.jitter / 30 * JITTER_REACH
    operation = generator.integers(len(OPERATIONS), size=(params.operations, count))
    side = generator.integers(2, size=operation.shape)
    strength = strengths(params.magnitude, size)[operation, side]
    own_stream = generator.spawn(1)[0]
    whole = np.tile((0, 0, *size), (count, 1))
    box = draw_boxes(params.resized_crop, count, size, own_stream) if params.resized_crop else whole
    return Draw(
        operation=operation,
        strength=strength,
        shift=shift,
        mirrored=mirrored & params.flip,
        center=center,
        affine=amounts,
        jitter=factors,
        box=box,
    )


def draw_boxes(least: float, count: int, size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """Random parts of images of `size` (H,W): top, left, height and width, int64 (count,4).

    A part has from `least` to 1 of the area and a ratio of its sides from 3/4 to 4/3, as torchvision's
    RandomResizedCrop draws it. The first of TRIES that lies inside the image is taken. If none does,
    as happens for images that are no squares, it is the whole image.
    """
    area = size[0] * size[1] * generator.uniform(least, 1, (count, TRIES))
    ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3), (count, TRIES)))
    sides = np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=2).round().astype(np.int64)  # (count,TRIES,2)
    inside: Any = ((sides >= 1) & (sides <= size)).all(axis=2)  # bool (count,TRIES)
    first = sides[np.arange(count), inside.argmax(axis=1)]
    kept = np.where(inside.any(axis=1)[:, None], first, size)
    corner = np.floor(generator.random((count, 2)) * (np.array(size) - kept + 1)).astype(np.int64)
    return np.concatenate([corner, kept], axis=1)


def apply(images: Tensor, drawn: Draw, params: NoiseParams) -> Tensor:
    """Apply the noise of `params`, by the numbers `drawn`, to `images` uint8 (N,C,H,W), C 1 or 3, on any device.

    Returns a tensor of the same shape and device; `images` itself when all input noise is off. An image's noise depends
    on its own row of the draw alone. Raises `ValueError` for images of another type or number.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"noise takes uint8 images (N, 1 or 3, H, W), was given {images.dtype} {tuple(images.shape)}")
    if len(images) != (count := len(drawn.mirrored)):
        raise ValueError(f"noise was drawn for {count} images and given {len(images)}")
    if len(images) == 0:
        return images
    at_once = max(1, CPU_VALUES // images[0].numel()) if images.device.type == "cpu" else len(images)
    if len(images) <= at_once:
        return _apply(images, drawn, params)
    parts = [slice(start, start + at_once) for start in range(0, len(images), at_once)]
    return torch.cat([_apply(images[part], drawn.rows(part), params) for part in parts])


def _apply(images: Tensor, drawn: Draw, params: NoiseParams) -> Tensor:
    if len(drawn.operation):
        images = randaugment(images, drawn.operation, drawn.strength, params.fill)
    if params.affine:
        images = affine(images, drawn.affine, params.fill)
    if params.jitter:
        images = jitter(images, drawn.jitter)
    if params.resized_crop:  # which can mirror on the way, where no crop comes between
        images = resized_crop(images, drawn.box, drawn.mirrored & (params.crop == 0))
    if params.crop or (params.flip and not params.resized_crop):
        images = crop_and_flip(images, drawn.shift, drawn.mirrored, params.fill)
    if params.cutout:
        side = max(1, round(params.cutout * min(images.shape[2:])))
        images = cutout(images, drawn.center, side, params.fill)
    return images


def augment(images: Tensor, params: NoiseParams, generator: np.random.Generator) -> Tensor:
    """`images` uint8 (N,C,H,W) with the input noise of `params`, drawn from `generator` on the CPU (see `apply`)."""
    height, width = images.shape[-2:]
    return apply(images, draw(params, len(images), (height, width), generator), params)
