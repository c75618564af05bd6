"""Built-in networks for small images: mlp_W, cnn_W and wrn_D_K. Each has features (N,F), dropout, a linear classifier.

Dropout and stochastic depth have rate 0 until `registry` sets them. All backward passes are deterministic on a GPU. For
example, the global mean is a plain mean, not an adaptive pooling.

N images, C channels, H and W their size, F features, K classes.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from noisy_student.core.errors import UserError

RESIDUAL = ("cnn", "wrn")  # families with residual branches, which are the places of stochastic depth
DEFAULTS = {"mlp": (256,), "cnn": (16,)}  # what a bare name stands for: mlp is mlp_256
BOUNDS = {  # of each number in a name; a number outside them is a typo, not a model for small images
    "mlp": ((1, 8192),),  # width of both hidden layers
    "cnn": ((1, 1024),),  # channels of the first convolution
    "wrn": ((10, 100), (1, 20)),  # depth and width factor
}
FORMS = "models are " + ", ".join(
    [
        "mlp_W (width W from {} to {})".format(*BOUNDS["mlp"][0]),
        "cnn_W (W from {} to {})".format(*BOUNDS["cnn"][0]),
        "wrn_D_K (depth D = 6n + 4 from {} to {}, factor K from {} to {})".format(*BOUNDS["wrn"][0], *BOUNDS["wrn"][1]),
        "torchvision/<name> and timm/<name>",
    ]
)
EXAMPLES = [
    *DEFAULTS,
    *(f"mlp_{width}" for width in (64, 128, 256, 512, 1024)),
    *(f"cnn_{width}" for width in (8, 12, 16, 24, 32, 48, 64, 128)),
    *(f"wrn_{depth}_{factor}" for depth in range(10, 41, 6) for factor in (1, 2, 4, 8, 10)),
]


class StochasticDepth(nn.Module):
    """Drops the residual branch of each image on its own with probability `p`; in eval mode it does nothing.

    Huang et al. 2016, "Deep Networks with Stochastic Depth", https://arxiv.org/abs/1603.09382. Branches that survive
    are scaled by 1 / (1 - p), so that eval mode needs no scaling. Draws from torch's generator of the branch's device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.p = 0.0

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return branch
        survives = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(1 - self.p)
        return branch * (survives / (1 - self.p))


class Resizing(nn.Module):
    """Resizes images before `network`, by bilinear interpolation, and smooths them if they shrink.

    Images of `image_size`, (height, width), become `size`. Images of other sizes are resized in proportion.

    `smallest_image_size` is the side of the smallest square image that the network takes, in pixels.
    """

    def __init__(
        self, network: nn.Module, image_size: tuple[int, int], size: tuple[int, int], smallest_image_size: int
    ) -> None:
        super().__init__()
        self.network = network
        self.image_size, self.size = image_size, size
        self.smallest_image_size = smallest_image_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        given = images.shape[-2:]
        size = [round(side * to / of) for side, to, of in zip(given, self.size, self.image_size, strict=True)]
        if size != list(given):
            smooth = min(size) < min(given)
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=smooth)
        return self.network(images)


class AdaptiveMean(nn.Module):
    """Adaptive average pooling to (height, width) as a product with two matrices.

    torch's own has no deterministic backward pass on a GPU.
    """

    def __init__(self, pool: nn.AdaptiveAvgPool2d) -> None:
        super().__init__()
        self.size: Any = pool.output_size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, columns = (
            F.adaptive_avg_pool1d(torch.eye(side, device=x.device, dtype=x.dtype), out)  # (side, out): the weights
            for side, out in zip(x.shape[-2:], self.size, strict=True)
        )
        return torch.einsum("nchw,hi,wj->ncij", x, rows, columns)


class GlobalMean(nn.Module):
    """(N,F,H,W) -> (N,F)"""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class Ensemble(nn.Module):
    """Several networks for the same images, whose logits are averaged (Hansen and Salamon 1990; Xie et al. 2019 let one
    label the pool)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.smallest_image_size: Any = members[0].smallest_image_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(images).float() for member in self.members]).mean(dim=0)


class Network(nn.Module):
    """`features` of shape (N,width) from images of at least `smallest_image_size` pixels a side, dropout, and one
    linear layer to the logits (N,K)."""

    def __init__(self, features: nn.Module, width: int, classes: int, smallest_image_size: int) -> None:
        super().__init__()
        self.features = features
        self.dropout = nn.Dropout(0.0)
        self.classifier = nn.Linear(width, classes)
        self.smallest_image_size = smallest_image_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.dropout(self.features(images)))


def mlp(width: int, channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Two hidden layers of `width` units; it takes images of that size only."""
    pixels = channels * image_size[0] * image_size[1]
    hidden = [nn.Linear(pixels, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True)]
    return Network(nn.Sequential(nn.Flatten(), *hidden), width, classes, min(image_size))


def cnn(width: int, channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Three halvings, the last two each followed by a residual block: quick on a CPU, for it pools before it
    normalizes, and its stages have few channels while the image is still large.
    """
    stages = [_halving(channels, width)]
    for before in (width, 2 * width):
        stages += [_halving(before, 2 * before), ResidualBlock(2 * before)]
    return Network(nn.Sequential(*stages, GlobalMean()), 4 * width, classes, smallest_image_size=8)


def _halving(before: int, after: int) -> nn.Module:
    return nn.Sequential(_conv3x3(before, after), nn.MaxPool2d(2), nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """x + f(x), where f is a convolution, a batch norm and a ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv3x3(width, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.stochastic_depth = StochasticDepth()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.stochastic_depth(self.branch(x))


def wrn(depth: int, factor: int, channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """Wide residual network, pre-activation, `depth` = 6n + 4 layers, 16, 32 and 64 channels times `factor`.

    Zagoruyko & Komodakis 2016, "Wide Residual Networks", https://arxiv.org/abs/1605.07146, without the dropout inside
    its blocks: here dropout stands before the classifier (Xie et al. 2019, section 3.1).
    """
    widths = [16, 16 * factor, 32 * factor, 64 * factor]
    blocks = []
    for before, after, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True):
        blocks.append(WideBlock(before, after, stride))
        blocks += [WideBlock(after, after, 1) for _ in range((depth - 4) // 6 - 1)]
    ending = [nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True), GlobalMean()]
    features = nn.Sequential(_conv3x3(channels, 16), *blocks, *ending)
    network = Network(features, widths[-1], classes, smallest_image_size=1)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


class WideBlock(nn.Module):
    """The paper's B(3,3); where the shape changes, the shortcut is a 1x1 convolution of the activated input."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(inplace=True))
        self.branch = nn.Sequential(
            _conv3x3(before, after, stride), nn.BatchNorm2d(after), nn.ReLU(inplace=True), _conv3x3(after, after)
        )
        same = before == after and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride, bias=False)
        self.stochastic_depth = StochasticDepth()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        activated = self.activation(x)
        kept = x if self.shortcut is None else self.shortcut(activated)
        return kept + self.stochastic_depth(self.branch(activated))


def _conv3x3(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)


BUILDERS: dict[str, Callable[..., nn.Module]] = {"mlp": mlp, "cnn": cnn, "wrn": wrn}


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """The family and the numbers of a network's `name`: `wrn_16_2` -> ("wrn", (16, 2)).

    Raises `UserError` naming what may have been meant when no network has that name.
    """
    family, *parts = name.split("_")
    numbers = tuple(int(part) for part in parts if re.fullmatch("[1-9][0-9]{0,5}", part))
    if not parts:
        numbers = DEFAULTS.get(family, ())
    bounds = BOUNDS.get(family, ())
    fits = len(numbers) == len(parts or numbers) == len(bounds) > 0
    fits = fits and all(low <= number <= high for number, (low, high) in zip(numbers, bounds, strict=True))
    if fits and not (family == "wrn" and (numbers[0] - 4) % 6):
        return family, numbers
    close = difflib.get_close_matches(name, EXAMPLES, n=2)
    meant = f" (did you mean {' or '.join(close)}?)" if close else ""
    raise UserError(f"the model {name[:60]!r} is unknown{meant}; {FORMS}")


def build(name: str, channels: int, classes: int, image_size: tuple[int, int]) -> nn.Module:
    """The network of that `name` with dropout and stochastic depth at rate 0; raises `UserError` for an unknown
    name."""
    family, numbers = parse(name)
    return BUILDERS[family](*numbers, channels, classes, image_size)
