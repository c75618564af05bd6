"""Corruptions of images in the style of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich 2019, arXiv 1903.12261).

The 15 common corruptions and the 4 extra ones, in five severities, by the constants that the authors published: those
of CIFAR-10-C for small images, those of ImageNet-C for others, whose lengths go by the side, of 224 pixels there. The
operations are written anew for whole batches, so figures are not those of the published images. Two differ in kind:
frost is drawn and not photographed, and spatter has no edges of light.

A corruption maps float images (B,C,H,W) in [0, 1] to such. Each image has a generator of its own, so that what happens
to it depends on no other.
"""

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

Generators = Sequence[np.random.Generator]
Corruption = Callable[[Tensor, Generators, Any, float], Tensor]  # images, generators, constants, length of a pixel
SMALL = 64  # pixels: images with a shorter side have the constants of CIFAR-10-C
OF_LARGE = 224  # pixels a side of the images that ImageNet-C's constants are for
MUD, WATER = (63 / 255, 42 / 255, 20 / 255), (175 / 255, 238 / 255, 238 / 255)  # color of spatter
ICE = (0.85, 0.92, 1.0)  # color of frost


def corrupted(images: Tensor, generators: Generators, name: str, severity: int) -> Tensor:
    """`images`, uint8 (B,C,H,W), with the corruption `name` at `severity`, 1 to 5: uint8 like them."""
    kind = CORRUPTIONS[name]
    side = min(images.shape[2:])
    small = side < SMALL
    constants = (kind.small if small else kind.large)[severity - 1]
    found = kind.apply(images.float() / 255, generators, constants, 1.0 if small else side / OF_LARGE)
    return found.clamp(0, 1).mul(255).to(torch.uint8)


def fits(name: str, channels: int) -> bool:
    """Whether the corruption `name` changes images of so many channels: gray ones have no colors to saturate."""
    return name != "saturate" or channels == 3


def _normal(like: Tensor, generators: Generators, loc: float = 0, scale: float = 1) -> Tensor:
    """Normal numbers of the shape of `like` (B,…)."""
    return _drawn(like, [each.normal(loc, scale, like.shape[1:]) for each in generators])


def _uniform(like: Tensor, generators: Generators, low: float, high: float) -> Tensor:
    return _drawn(like, [each.uniform(low, high, like.shape[1:]) for each in generators])


def _drawn(like: Tensor, numbers: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack(numbers).astype(np.float32)).to(like.device)


def gaussian_noise(images: Tensor, generators: Generators, scale: float, pixel: float) -> Tensor:
    return images + _normal(images, generators, scale=scale)


def shot_noise(images: Tensor, generators: Generators, photons: float, pixel: float) -> Tensor:
    rates = (images * photons).cpu().numpy()
    return _drawn(images, [each.poisson(rate) for each, rate in zip(generators, rates, strict=True)]) / photons


def impulse_noise(images: Tensor, generators: Generators, amount: float, pixel: float) -> Tensor:
    chance = _uniform(images, generators, 0, 1)
    salted = torch.where(chance < amount / 2, torch.ones_like(images), images)
    return torch.where(chance > 1 - amount / 2, torch.zeros_like(images), salted)


def speckle_noise(images: Tensor, generators: Generators, scale: float, pixel: float) -> Tensor:
    return images + images * _normal(images, generators, scale=scale)


def gaussian_blur(images: Tensor, generators: Generators, sigma: float, pixel: float) -> Tensor:
    return blurred(images, sigma * pixel)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """`images` (B,C,H,W) convolved with a Gaussian, cut at four sigma; the border is repeated."""
    radius = int(4 * sigma + 0.5)
    if radius < 1:
        return images
    steps = torch.arange(-radius, radius + 1, device=images.device)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    weights = weights / weights.sum()
    channels = images.shape[1]
    for shape, padding in (((1, 1, 1, -1), (radius, radius, 0, 0)), ((1, 1, -1, 1), (0, 0, radius, radius))):
        kernel = weights.reshape(shape).expand(channels, 1, *weights.reshape(shape).shape[2:])
        images = F.conv2d(F.pad(images, padding, mode="replicate"), kernel, groups=channels)
    return images


def glass_blur(images: Tensor, generators: Generators, constants: tuple[float, int, int], pixel: float) -> Tensor:
    sigma, reach, rounds = constants
    reach = max(1, round(reach * pixel))
    mixed = blurred(images, sigma * pixel).contiguous()
    height, width = images.shape[2:]
    rows = torch.arange(len(images), device=images.device)
    steps = np.stack([each.integers(-reach, reach, (rounds, height, width, 2)) for each in generators])
    moves = torch.from_numpy(steps).to(images.device)
    for turn in range(rounds):
        # One pixel after another, in all images at once. The published code means to exchange two pixels, but numpy's
        # views make it a copy; so it is one here.
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                down, right = moves[:, turn, y, x].T
                mixed[:, :, y, x] = mixed[rows, :, y + down, x + right]
    return blurred(mixed, sigma * pixel)


def defocus_blur(images: Tensor, generators: Generators, constants: tuple[float, float], pixel: float) -> Tensor:
    radius, softness = constants[0] * pixel, constants[1]
    reach = math.ceil(max(radius, 1)) + 2
    steps = torch.arange(-reach, reach + 1, device=images.device)
    disk = ((steps[:, None] ** 2 + steps**2) <= radius**2).float()
    kernel = blurred(disk[None, None] / disk.sum(), softness)
    channels = images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(padded, kernel.expand(channels, 1, -1, -1), groups=channels)


def motion_blur(images: Tensor, generators: Generators, constants: tuple[float, float], pixel: float) -> Tensor:
    angles = [each.uniform(-45, 45) for each in generators]
    return _moved(images, angles, constants[0] * pixel, constants[1] * pixel)


def _moved(images: Tensor, angles: Sequence[float], radius: float, sigma: float) -> Tensor:
    """`images` (B,C,H,W) smeared in one direction, that of their own of `angles` in degrees, with falling weights."""
    height, width = images.shape[2:]
    steps = np.arange(2 * math.ceil(radius) + 1)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    turns = np.deg2rad(np.asarray(angles))
    rows = torch.arange(len(images), device=images.device)[:, None, None]
    smeared = torch.zeros_like(images)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        down, right = (torch.from_numpy(np.round(step * of(turns)).astype(np.int64)) for of in (np.sin, np.cos))
        y = (torch.arange(height)[None, :, None] + down[:, None, None]).clamp(0, height - 1).to(images.device)
        x = (torch.arange(width)[None, None, :] + right[:, None, None]).clamp(0, width - 1).to(images.device)
        smeared += float(weight) * images.permute(0, 2, 3, 1)[rows, y, x].permute(0, 3, 1, 2)
    return smeared


def zoom_blur(images: Tensor, generators: Generators, constants: tuple[float, float], pixel: float) -> Tensor:
    most, step = constants
    factors = np.arange(1, most, step)
    return (images + sum(zoomed(images, float(factor)) for factor in factors)) / (len(factors) + 1)


def zoomed(images: Tensor, factor: float) -> Tensor:
    """The middle of `images` (B,C,H,W), enlarged by `factor` to their size."""
    identity = torch.tensor([[1 / factor, 0, 0], [0, 1 / factor, 0]], device=images.device)
    grid = F.affine_grid(identity.expand(len(images), 2, 3), list(images.shape), align_corners=True)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=True)


def snow(images: Tensor, generators: Generators, constants: tuple[float, ...], pixel: float) -> Tensor:
    loc, scale, zoom, least, radius, sigma, kept = constants
    flakes = zoomed(_normal(_canvas(images, pixel), generators, loc, scale), zoom)
    flakes = torch.where(flakes < least, torch.zeros_like(flakes), flakes).clamp(0, 1)
    angles = [each.uniform(-135, -45) for each in generators]
    flakes = _resized(_moved(flakes, angles, radius, sigma), images)
    whitened = torch.maximum(images, gray(images) * 1.5 + 0.5)
    return kept * images + (1 - kept) * whitened + flakes + flakes.rot90(2, (2, 3))


def gray(images: Tensor) -> Tensor:
    """The brightness (B,1,H,W) of `images` (B,C,H,W)."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True)


def frost(images: Tensor, generators: Generators, constants: tuple[float, float], pixel: float) -> Tensor:
    kept, amount = constants
    ridges = 1 - 2 * (plasma(images, generators, 2.0) - 0.5).abs()  # veins of ice where the landscape is half high
    ice = ridges**2 * _color(ICE, images)
    return kept * images + amount * ice


def fog(images: Tensor, generators: Generators, constants: tuple[float, float], pixel: float) -> Tensor:
    amount, decay = constants
    highest = images.amax((1, 2, 3), keepdim=True)
    return (images + amount * plasma(images, generators, decay)) * highest / (highest + amount)


def plasma(images: Tensor, generators: Generators, decay: float) -> Tensor:
    """Fractal landscapes (B,1,H,W) in [0, 1]: noise on finer and finer grids, each `decay` times weaker than before."""
    height, width = images.shape[2:]
    size, weight, landscape = 2, 1.0, torch.zeros_like(images[:, :1])
    while size < 2 * max(height, width):
        coarse = _drawn(images, [each.uniform(-1, 1, (1, size, size)) for each in generators])
        landscape += weight * F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
        size, weight = 2 * size, weight / decay
    low, high = landscape.amin((1, 2, 3), keepdim=True), landscape.amax((1, 2, 3), keepdim=True)
    return (landscape - low) / (high - low).clamp(min=1e-6)


def brightness(images: Tensor, generators: Generators, amount: float, pixel: float) -> Tensor:
    """Add `amount` to the value of HSV, the largest of the three colors; hue and saturation stay."""
    value = images.amax(1, keepdim=True)
    raised = (value + amount).clamp(max=1)
    return torch.where(value > 0, images * raised / value.clamp(min=1e-6), raised.expand_as(images))


def saturate(images: Tensor, generators: Generators, constants: tuple[float, float], pixel: float) -> Tensor:
    """Multiply the saturation of HSV, then add to it; hue and value stay."""
    value, low = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    saturation = (value - low) / value.clamp(min=1e-6)
    wanted = (saturation * constants[0] + constants[1]).clamp(0, 1)
    hue = (value - images) / (value - low).clamp(min=1e-6)  # 0 where a color is the largest, 1 where it is the least
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device)[:, None, None]  # the hue of gray
    return value * (1 - wanted * torch.where(value > low, hue, red))


def contrast(images: Tensor, generators: Generators, share: float, pixel: float) -> Tensor:
    means = images.mean((2, 3), keepdim=True)
    return (images - means) * share + means


def elastic_transform(images: Tensor, generators: Generators, constants: tuple[float, ...], pixel: float) -> Tensor:
    height, width = images.shape[2:]
    amount, sigma, affine = (share * min(height, width) for share in constants)
    # three points of the middle go elsewhere, each by at most `affine` pixels, and the image with them
    center, arm = np.array([width, height]) // 2, min(height, width) // 3
    before = np.array([center + arm, [center[0] + arm, center[1] - arm], center - arm], np.float64)
    away = np.hstack([before, np.ones((3, 1))])
    maps = []
    for each in generators:
        after = np.hstack([before + each.uniform(-affine, affine, before.shape), np.ones((3, 1))])
        maps.append(np.linalg.solve(after, away)[:, :2].T)  # from where a pixel of the result comes
    across = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")[::-1], -1).float()
    at = torch.cat([across, torch.ones(height, width, 1)], -1).to(images.device)
    places = torch.einsum("hwk,bjk->bhwj", at, _drawn(images, maps))
    if amount:
        waves = _drawn(images, [each.uniform(-1, 1, (2, height, width)) for each in generators])
        places = places + amount * blurred(waves, sigma).permute(0, 2, 3, 1)
    ends = torch.tensor([width - 1, height - 1], device=images.device)
    return F.grid_sample(images, 2 * places / ends - 1, padding_mode="reflection", align_corners=True)


def pixelate(images: Tensor, generators: Generators, share: float, pixel: float) -> Tensor:
    height, width = images.shape[2:]
    coarse = max(1, int(width * share)), max(1, int(height * share))

    def made_coarse(image: Image.Image) -> Image.Image:
        return image.resize(coarse, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_pillow(images, made_coarse)


def jpeg_compression(images: Tensor, generators: Generators, quality: int, pixel: float) -> Tensor:
    def compressed(image: Image.Image) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content)

    return _by_pillow(images, compressed)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """`images` (B,C,H,W) of one or three channels, each changed by Pillow."""
    pixels = images.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    pictures = (Image.fromarray(each[..., 0] if each.shape[2] == 1 else each) for each in pixels)
    changed = np.stack([np.asarray(change(each)) for each in pictures]).reshape(pixels.shape)
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(images.device).float() / 255


def spatter(images: Tensor, generators: Generators, constants: tuple[float, ...], pixel: float) -> Tensor:
    loc, scale, sigma, least, strength, is_mud = constants
    drops = blurred(_normal(_canvas(images, pixel), generators, loc, scale), sigma)
    if is_mud:
        mask = blurred((drops > least).float(), strength)
        mask = _resized(torch.where(mask < 0.8, torch.zeros_like(mask), mask), images)
        return images * (1 - mask) + mask * _color(MUD, images)
    mask = torch.where(drops < least, torch.zeros_like(drops), drops)
    mask = _resized(mask / mask.amax((1, 2, 3), keepdim=True).clamp(min=1e-6), images)
    return images + strength * mask * _color(WATER, images)


def _canvas(images: Tensor, pixel: float) -> Tensor:
    """An empty layer (B,1,h,w) to draw on, as large as the images that the constants are for.

    What a threshold leaves of noise depends on how many pixels its blur covers.
    """
    height, width = (round(side / pixel) for side in images.shape[2:])
    return images.new_zeros(len(images), 1, height, width)


def _resized(layer: Tensor, images: Tensor) -> Tensor:
    """A `layer` (B,1,h,w) at the size of `images`."""
    if layer.shape[2:] == images.shape[2:]:
        return layer
    return F.interpolate(layer, images.shape[2:], mode="bilinear", antialias=True)


def _color(color: tuple[float, float, float], images: Tensor) -> Tensor:
    """A color for `images` of three channels; its mean for others."""
    found = torch.tensor(color, device=images.device)[:, None, None]
    return found if images.shape[1] == 3 else found.mean(0, keepdim=True)


class Kind(NamedTuple):
    """A corruption and its constants, by severity."""

    apply: Corruption
    small: Sequence[Any]  # of CIFAR-10-C
    large: Sequence[Any]  # of ImageNet-C
    extra: bool = False  # one of the four that recipes may be chosen on, which the mean leaves out


CORRUPTIONS = {
    "gaussian_noise": Kind(gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": Kind(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": Kind(impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "defocus_blur": Kind(
        defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": Kind(
        glass_blur,
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": Kind(
        motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
    ),
    "zoom_blur": Kind(
        zoom_blur,
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "snow": Kind(
        snow,
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "frost": Kind(
        frost,
        ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    "fog": Kind(
        fog,
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "brightness": Kind(brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": Kind(contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "elastic_transform": Kind(  # shares of the side; ImageNet-C's are of 244 pixels
        elastic_transform,
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        (
            (2.18, 0.762, 0.109),
            (2.18, 0.0871, 0.218),
            (0.0545, 0.0109, 0.0218),
            (0.0762, 0.0109, 0.0218),
            (0.131, 0.0109, 0.0218),
        ),
    ),
    "pixelate": Kind(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Kind(jpeg_compression, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    "speckle_noise": Kind(speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6), extra=True),
    "gaussian_blur": Kind(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6), extra=True),
    "spatter": Kind(
        spatter,
        (
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        (
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        extra=True,
    ),
    "saturate": Kind(
        saturate,
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        extra=True,
    ),
}
SEVERITIES = (1, 2, 3, 4, 5)
