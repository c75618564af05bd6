"""Operations on whole batches, each image at a strength of its own, on the device of the images.

These are the fourteen operations of RandAugment (Cubuk et al. 2019, arXiv 1909.13719, section 3) and of Noisy Student.
They agree with Pillow level for level, and the five that move pixels with torchvision's bilinear ones. The strengths
are drawn on the CPU beforehand, so nothing here loops over images or waits for the device.

N images, C channels (1 or 3), H height, W width. Images are uint8 (N,C,H,W) throughout.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "rotate",
    "solarize",
    "color",
    "posterize",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)


def randaugment(images: Tensor, operation: np.ndarray, strength: np.ndarray, fill: int) -> Tensor:
    """`images` after one operation per slot, one slot after another; the input is not changed.

    operation: (slots, N) indices into OPERATIONS. strength: (slots, N), in the operation's own unit: degrees
    counterclockwise (rotate), tangent, left or up (shear), pixels right or down (translate), first level to be inverted
    (solarize), bits kept (posterize), factor with 1 for no change (color, contrast, brightness, sharpness).
    fill: the gray value, 0..255, of what comes in from outside the image.
    """
    place = np.arange(len(images))  # where each image is; in each slot, images with the same operation are adjacent
    for chosen, strengths in zip(operation, strength, strict=True):
        order = np.argsort(_RANK[chosen], kind="stable")
        images = images.index_select(0, _on(images.device, place[order]))
        place = np.argsort(order)
        _operate(images, chosen[order], strengths[order], fill)
    return images.index_select(0, _on(images.device, place))


def affine(images: Tensor, amount: np.ndarray, fill: int) -> Tensor:
    """Rotate, shear, scale and move each image at once.

    amount: (N,6) degrees counterclockwise, tangents of the shear left and up, the logarithm of the scale, pixels right
    and down.
    """
    turned = _rotate(np.deg2rad(amount[:, 0]))
    sheared = _taken(1, amount[:, 1], 0, amount[:, 2], 1, 0)[..., :2]
    square = turned[..., :2] @ sheared / np.exp(amount[:, 3])[:, None, None]
    return _whole(_sample(images, np.concatenate([square, -amount[:, 4:, None]], axis=2), fill))


def jitter(images: Tensor, factor: np.ndarray) -> Tensor:
    """Multiply brightness, contrast and, of images with three channels, color of each image by `factor` (N,3).

    They are applied one after another, as Pillow's ImageEnhance does; a factor of 1 changes nothing.
    """
    brightness, contrast, color = _on(images.device, factor.astype(np.float32).T)[..., None, None, None]
    changed = images.float().mul_(brightness).clamp_(0, 255)
    _blend_(_mean_level(changed)[:, None, None, None], changed, contrast)
    if images.shape[1] == 3:
        _blend_(_gray(changed)[:, None], changed, color)
    return _whole(changed)


def resized_crop(images: Tensor, box: np.ndarray, mirrored: np.ndarray) -> Tensor:
    """The part of each image in its `box`, enlarged to the whole by bilinear interpolation, and mirrored left-right
    where `mirrored`.

    box: int64 (N,4), top, left, height and width in pixels, inside the image. mirrored: bool (N,).
    """
    h, w = images.shape[2:]
    top, left, height, width = _on(images.device, box.astype(np.float32)).T[..., None]  # (N,1) each
    ys = _places(h, top, height, images.device)  # (N,H)
    xs = _places(w, left, width, images.device)
    xs = torch.where(_on(images.device, mirrored)[:, None], xs.flip(1), xs)
    grid = torch.stack(torch.broadcast_tensors(xs[:, None, :], ys[:, :, None]), dim=3)  # (N,H,W,2)
    return _whole(F.grid_sample(images.float(), grid, "bilinear", "border", align_corners=False).add_(0.5))


def _places(side: int, start: Tensor, length: Tensor, device: torch.device) -> Tensor:
    """Where `side` pixels are taken that show the `length` pixels from `start` on: (N,side), as grid_sample counts.

    start, length: (N,1). Nothing outside those pixels is taken: the outermost ones are repeated.
    """
    centers = (torch.arange(side, device=device) + 0.5) * (length / side)  # (N,side), in pixels
    inside = torch.minimum(centers.clamp(min=0.5), length - 0.5)
    return (start + inside) * (2 / side) - 1


def crop_and_flip(images: Tensor, shift: np.ndarray, mirrored: np.ndarray, fill: int) -> Tensor:
    """Crop each image `shift` (N,2) pixels down and right of its corner, then mirror it left-right where `mirrored`.

    mirrored: bool (N,). What lies outside the image is of the gray value `fill`.
    """
    n, c, h, w = images.shape
    padded = F.pad(images, (1, 1, 1, 1), value=fill)  # one pixel is enough: all positions outside are clamped to it
    start = _on(images.device, shift + 1)
    ys = (torch.arange(h, device=images.device) + start[:, :1]).clamp_(0, h + 1)  # (N,H)
    across = torch.arange(w, device=images.device)
    across = torch.where(_on(images.device, mirrored)[:, None], w - 1 - across, across)
    xs = (across + start[:, 1:]).clamp_(0, w + 1)  # (N,W)
    lines = torch.arange(n * c, device=images.device).view(n, c, 1) * (h + 2) + ys[:, None]  # (N,C,H)
    chosen = padded.view(-1, w + 2).index_select(0, lines.flatten()).view(n, c, h, w + 2)
    return chosen.gather(3, xs[:, None, None].expand(n, c, h, w))


def cutout(images: Tensor, center: np.ndarray, side: int, fill: int) -> Tensor:
    """Fill a square of `side` pixels around `center` (N,2: row, column) with the gray value `fill`.

    The part of the square outside the image is lost (DeVries and Taylor 2017, arXiv 1708.04552).
    """
    start = _on(images.device, center - side // 2)
    inside = []
    for axis, length in enumerate(images.shape[2:]):
        from_start = torch.arange(length, device=images.device) - start[:, axis, None]
        inside.append(((from_start >= 0) & (from_start < side)).view(torch.uint8))  # (N,H) and (N,W)
    erased = inside[0][:, None, :, None] * inside[1][:, None, None, :]  # (N,1,H,W)
    return (images * (1 - erased)).add_(erased * fill)  # a CPU takes many times as long for masked_fill


def _on(device: torch.device, values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device, non_blocking=True)


def _whole(levels: Tensor) -> Tensor:
    """Float levels 0 to 255 as uint8 without their fraction; the way over int16 takes a CPU a quarter of the time."""
    return levels.short().to(torch.uint8)


def _operate(images: Tensor, operation: np.ndarray, strength: np.ndarray, fill: int) -> None:
    """One slot, in place. Images come sorted by rank, so each operation's are a slice, and each kind's as well."""
    ends = np.cumsum(np.bincount(_RANK[operation], minlength=len(OPERATIONS))).tolist()
    span = {name: slice(start, end) for name, start, end in zip(_RANKED, [0, *ends], ends, strict=False)}
    on_device = _on(images.device, strength.astype(np.float32))

    def present(kind: Iterable[str]) -> list[str]:
        return [name for name in kind if span[name].start < span[name].stop]

    if names := present(_TABLES):
        tables = [_TABLES[name](images[span[name]], on_device[span[name]]) for name in names]
        looked_up = images[span[names[0]].start : span[names[-1]].stop]
        pixels = looked_up.view(*looked_up.shape[:2], -1)
        torch.gather(_whole(torch.cat(tables)), 2, pixels.long(), out=pixels)
    for name in present(_BLENDS):
        images[span[name]] = _whole(_BLENDS[name](images[span[name]], on_device[span[name]]))
    if names := present(_MAPS):
        taken = [_MAPS[name](strength[span[name]], *images.shape[2:]) for name in names]
        moved = images[span[names[0]].start : span[names[-1]].stop]
        moved.copy_(_whole(_sample(moved, np.concatenate(taken), fill)))


# Tables: an operation that takes a level to a level is a table of 256 for each image and channel, (n,C,256). Tables
# and blends are float32 from 0 to 255, whose fraction is dropped when they are turned to uint8.


def _levels(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(256, dtype=dtype, device=images.device).expand(*images.shape[:2], 256)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low, high = (extreme(images.flatten(2), 2).double()[..., None] for extreme in (torch.amin, torch.amax))
    levels = _levels(images, torch.float64)  # as in Pillow: single precision would round some levels the other way
    scale = torch.full_like(low, 255) / (high - low).clamp(min=1)  # 255 / tensor is 255 times a rounded reciprocal
    stretched = (levels * scale).add_(-low * scale).clamp_(0, 255).floor_()
    return torch.where(high > low, stretched, levels).float()


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    pixels = images.flatten(2).long()
    histogram = torch.zeros(*images.shape[:2], 256, dtype=torch.int32, device=images.device)
    histogram.scatter_add_(2, pixels, torch.ones_like(histogram[..., :1]).expand_as(pixels))
    brightest = histogram.gather(2, images.flatten(2).amax(2, keepdim=True).long())
    step = torch.div(pixels.shape[2] - brightest, 255, rounding_mode="floor")
    darker = histogram.cumsum(2) - histogram
    even = (darker + torch.div(step, 2, rounding_mode="floor")).double().div_(step.clamp(min=1)).floor_()
    return torch.where(step > 0, even.clamp_(max=255).float(), _levels(images))


def _solarize(images: Tensor, threshold: Tensor) -> Tensor:
    levels = _levels(images)
    return torch.where(levels < threshold[:, None, None], levels, 255 - levels)


def _posterize(images: Tensor, bits: Tensor) -> Tensor:
    width = (1 << (8 - bits).int()).float()[:, None, None]  # of a band of levels that become the same level
    return (_levels(images) / width).floor_().mul_(width)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend_(_mean_level(images.float())[:, None, None], _levels(images).clone(), factor[:, None, None])


def _brightness(images: Tensor, factor: Tensor) -> Tensor:
    return (_levels(images) * factor[:, None, None]).clamp_(0, 255)


# Blends: between the image and a degraded version of it; a factor above 1 extrapolates beyond the image.


def _blend_(poorer: Tensor, image: Tensor, factor: Tensor) -> Tensor:
    """Pillow's Image.blend, in single precision as there, in place of `image`."""
    return image.sub_(poorer).mul_(factor).add_(poorer).clamp_(0, 255)


def _mean_level(images: Tensor) -> Tensor:
    """The mean gray level, rounded, of each of float32 images (n,C,H,W), whatever else is in the batch: (n,)."""
    mean = _gray(images).flatten(1).sum(1, dtype=torch.float64) / (images.shape[2] * images.shape[3])
    return (mean + 0.5).floor().float()


def _gray(images: Tensor) -> Tensor:
    """Luma (ITU-R 601-2) of float32 (n,C,H,W) as whole levels (n,H,W): Pillow's convert("L").

    Its weights are 16-bit fractions, so every sum is below 2^24 and exact in float32.
    """
    if images.shape[1] == 1:
        return images[:, 0]
    red, green, blue = images.unbind(1)
    weighted = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471)
    return weighted.add_(0x8000).div_(0x10000).floor_()


def _color(images: Tensor, factor: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    images = images.float()
    return _blend_(_gray(images)[:, None], images, factor[:, None, None, None])


def _sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Against Pillow's ImageFilter.SMOOTH: ones around a five, over thirteen; the outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    whole = images.short()
    column = (whole[..., :-2, :] + whole[..., 1:-1, :]).add_(whole[..., 2:, :])
    square = (column[..., :-2] + column[..., 1:-1]).add_(column[..., 2:]).add_(whole[..., 1:-1, 1:-1], alpha=4)
    images = images.float()
    smooth = images.clone()
    smooth[..., 1:-1, 1:-1] = square.float().div_(13).add_(0.5).floor_()
    return _blend_(smooth, images, factor[:, None, None, None])


# Maps: from where in the image a pixel of the result is taken, (n,2,3), in pixels from the image's center: x then y.


def _taken(*entries: float | np.ndarray) -> np.ndarray:
    """The maps of six entries, row by row, of which some are numbers and some (n,)."""
    return np.stack(np.broadcast_arrays(*entries), axis=-1).reshape(-1, 2, 3)


def _rotate(radians: np.ndarray) -> np.ndarray:
    cosine, sine = np.cos(radians), np.sin(radians)
    return _taken(cosine, -sine, 0, sine, cosine, 0)


def _sample(images: Tensor, taken: np.ndarray, fill: int) -> Tensor:
    """The images through the maps `taken`, bilinear, as if each lay on an endless plane of the gray value `fill`."""
    h, w = images.shape[2:]
    half = np.array([w, h]) / 2  # grid_sample counts from -1 to 1 across the image
    maps = _on(images.device, (taken * np.append(half, 1) / half[:, None]).astype(np.float32))  # (n,2,3)
    x = torch.linspace(1 / w - 1, 1 - 1 / w, w, device=images.device)
    y = torch.linspace(1 / h - 1, 1 - 1 / h, h, device=images.device)
    along_x, along_y = maps[..., :1] * x, (maps[..., 1:2] * y).add_(maps[..., 2:])  # (n,2,W) and (n,2,H)
    grid = (along_x[:, :, None] + along_y[..., None]).permute(0, 2, 3, 1)  # (n,H,W,2)
    above_fill = images.float().sub_(fill)  # outside the image grid_sample reads zero
    return F.grid_sample(above_fill, grid, "bilinear", "zeros", align_corners=False).add_(fill + 0.5)


_TABLES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "autocontrast": _autocontrast,
    "equalize": _equalize,
    "solarize": _solarize,
    "posterize": _posterize,
    "contrast": _contrast,
    "brightness": _brightness,
}
_BLENDS = {"color": _color, "sharpness": _sharpness}
_MAPS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "rotate": lambda degrees, h, w: _rotate(np.deg2rad(degrees)),
    "shear_x": lambda tangent, h, w: _taken(1, tangent, tangent * h / 2, 0, 1, 0),  # the top left corner stays
    "shear_y": lambda tangent, h, w: _taken(1, 0, 0, tangent, 1, tangent * w / 2),
    "translate_x": lambda pixels, h, w: _taken(1, 0, -pixels, 0, 1, 0),
    "translate_y": lambda pixels, h, w: _taken(1, 0, 0, 0, 1, -pixels),
}
_RANKED = ("identity", *_TABLES, *_BLENDS, *_MAPS)  # the order in which the images of a slot are laid out
_RANK = np.array([_RANKED.index(name) for name in OPERATIONS])
