"""Predictions in eval mode. Nothing here can import noise, so a teacher always labels without it.

B images in a batch, N in all, C channels, H x W pixels, F features, K classes.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisy_student.core import ranks
from noisy_student.core.ahead import ahead
from noisy_student.core.config import ParamsModel
from noisy_student.core.files import release
from noisy_student.core.progress import Meter, meter
from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams, memory_format, to_device, translate_torch_errors
from noisy_student.models.precision import autocast, settled
from noisy_student.models.registry import heads, input_size
from noisy_student.store.selection import Selection
from noisy_student.store.splits import Split

BATCH_SIZE = 512  # images in a forward pass, at most; the logits do not depend on it
BATCH_PIXELS = (
    2**20
)  # pixels of them in the network, at most, so that photographs take no more memory than small images


class LabelingParams(ParamsModel):
    """How a teacher predicts the pool, the calibration and the labeled split."""

    tta: Literal["one", "shifts", "mirrored"]  # views of each image, whose logits are averaged; see TTA
    features: bool = False  # also keep the last layer's inputs for labeled and pool images, at 2 bytes a number


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """The images moved by at most one pixel; the line that comes in is a copy of the outermost one."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(images.dtype)
    height, width = images.shape[2:]
    return padded[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]


# Test-time augmentation: what is made of images (B,C,H,W) before their logits are averaged (Krizhevsky et al. 2012,
# section 4.1). Fixed views, no draws: nothing here is noise.
TTA: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "one": [lambda images: images],
    "shifts": [partial(_shifted, down=y, right=x) for y, x in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))],
    "mirrored": [lambda images: images, lambda images: images.flip(3)],
}


PLAIN = LabelingParams(tta="one")


class Predictions(NamedTuple):
    """Predictions for N images."""

    logits: np.ndarray  # float32 (N,K)
    features: np.ndarray | None  # float16 (N,F), the inputs of the last layer; None unless requested


def predict_logits(classifier: Classifier, images: np.ndarray, runtime: RuntimeParams) -> np.ndarray:
    """Noiseless logits float32 (N,K), in eval mode, of uint8 `images` (N,H,W,C), which may be memory-mapped."""
    return predict(classifier, images, runtime).logits


@torch.inference_mode()
def predict(
    classifier: Classifier,
    images: Selection | np.ndarray,
    runtime: RuntimeParams,
    progress: Meter | None = None,
    labeling: LabelingParams = PLAIN,
) -> Predictions:
    """Noiseless predictions for uint8 `images` (N,H,W,C), in eval mode; with several views the mean over the views.

    Features are None unless `labeling` asks for them.
    """
    classifier.eval().to_memory_format(memory_format(runtime))
    device = classifier.mean.device
    runtime = settled(runtime, classifier.network, device, "labeling")
    logits: list[Tensor] = []
    features: list[Tensor] = []
    with _caught(classifier if labeling.features else None) as caught:
        size = _batch_size(classifier, images.shape[1:3])
        read = (np.array(images[start : start + size]) for start in range(0, len(images), size))
        for pixels in ahead(read):  # off the disk, or decoded
            batch = to_device(pixels, device)
            first = batch.permute(0, 3, 1, 2)  # (B,H,W,C) -> (B,C,H,W)
            with autocast(runtime, device):
                logits.append(torch.stack([classifier(view(first)).float() for view in TTA[labeling.tta]]).mean(0))
            if caught:
                features.append(_mean_features(caught, len(TTA[labeling.tta])))
                caught.clear()
            if progress:
                progress.advance(len(batch))
    return Predictions(torch.cat(logits).cpu().numpy(), torch.cat(features).cpu().numpy() if features else None)


def _batch_size(classifier: Classifier, image_size: tuple[int, int]) -> int:
    """How many images of `image_size` (H,W) a forward pass takes, which the network may enlarge."""
    pixels = max(math.prod(image_size), math.prod(input_size(classifier.network, image_size)))
    return max(1, min(BATCH_SIZE, BATCH_PIXELS // pixels))


@contextmanager
def _caught(classifier: Classifier | None) -> Iterator[list[Tensor]]:
    """Within the block, collect the inputs (B,F) of each member's last layer, one view after another."""
    given: list[Tensor] = []

    def catch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        given.append(inputs[0].flatten(1).float())

    handles = [head.register_forward_pre_hook(catch) for head in (heads(classifier.network) if classifier else [])]
    try:
        yield given
    finally:
        for handle in handles:
            handle.remove()


def _mean_features(caught: list[Tensor], views: int) -> Tensor:
    """The mean over the views, float16 (B,F), the members' features one after another."""
    members = len(caught) // views
    return torch.stack([torch.cat(caught[view * members :][:members], 1) for view in range(views)]).mean(0).half()


def predict_split(
    classifier: Classifier,
    split: Split,
    runtime: RuntimeParams,
    title: str,
    is_done: Callable[[int], bool] = lambda number: False,
    labeling: LabelingParams = PLAIN,
) -> Iterator[tuple[int, Predictions]]:
    """Predictions for `split`: the number of each shard that is not done yet, and its predictions. Of several ranks,
    each yields its share of the missing shards; the first one's `is_done` counts."""
    shards = range(len(split.shards))
    done = ranks.from_first(lambda: set(filter(is_done, shards)))
    with meter(title, len(split), ranks.Counter()) as progress, translate_torch_errors("take a smaller model"):
        if done and ranks.is_first():
            before = sum(len(split.shards[number]) for number in done)
            progress.resume(before, f"goes on with {len(done):,} of {len(shards):,} shards done")
        missing = [number for number in shards if number not in done]
        for number in (missing[place] for place in ranks.share_of(len(missing))):
            yield number, predict(classifier, split.shards[number], runtime, progress, labeling)
            release(split.shards[number])
