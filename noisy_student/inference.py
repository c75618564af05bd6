"""A classifier and its noiseless logits. Nothing here knows of noise, so a teacher cannot label with it.

B images in a batch, N in all, C channels, H x W pixels, K classes.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from noisy_student.checkpoint import load_model
from noisy_student.config import Section
from noisy_student.errors import Refusal
from noisy_student.files import REMEDY
from noisy_student.images import Split
from noisy_student.libraries import load_tensors
from noisy_student.models import build, heads
from noisy_student.networks import Ensemble
from noisy_student.progress import Meter, meter
from noisy_student.runtime import RuntimeParams, autocast, explained, memory_format

BATCH = 512  # images in a forward pass; the logits do not depend on it


class LabelingParams(Section):
    """How a teacher looks at the pool and at the calibration split."""

    views: Literal["one", "shifts", "mirrored"]  # of each image, whose logits are averaged; see VIEWS
    features: bool = False  # keep what the last layer sees of labeled and pool images, too: 2 bytes a number


def _shifted(images: Tensor, down: int, right: int) -> Tensor:
    """The images moved by at most one pixel, the line that comes in a copy of the outermost one."""
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(images.dtype)
    height, width = images.shape[2:]
    return padded[..., 1 - down : 1 - down + height, 1 - right : 1 - right + width]


# Test-time augmentation: what is made of images (B,C,H,W) before their logits are averaged (Krizhevsky et al. 2012,
# section 4.1). Fixed views, no draws: nothing here is noise.
VIEWS: dict[str, list[Callable[[Tensor], Tensor]]] = {
    "one": [lambda images: images],
    "shifts": [partial(_shifted, down=y, right=x) for y, x in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))],
    "mirrored": [lambda images: images, lambda images: images.flip(3)],
}


PLAIN = LabelingParams(views="one")


class Classifier(nn.Module):
    """A network with the normalisation that it was trained with: uint8 images in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor):
        super().__init__()
        self.network = network
        self.memory_format = torch.contiguous_format
        self.register_buffer("mean", mean.reshape(1, -1, 1, 1))  # (1,C,1,1), of pixels scaled to 0..1
        self.register_buffer("std", std.reshape(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B,K) of uint8 `images` (B,C,H,W); grey ones are given to each channel of a network for colour."""
        pixels = (images.float() / 255 - self.mean) / self.std
        return self.network(pixels.contiguous(memory_format=self.memory_format))

    def laid_out(self, memory_format: torch.memory_format) -> "Classifier":
        """Itself, with pixels and the weights of convolutions in that memory format from now on."""
        self.memory_format = memory_format
        return self.to(memory_format=memory_format)  # type: ignore[call-overload]


def new_classifier(name: str, labeled: Split, dropout: float = 0.0, stochastic_depth: float = 0.0) -> Classifier:
    """An untrained classifier for the classes of `labeled`, normalised by its images' mean and deviation a channel.

    Its initial weights come from torch's own generator.
    """
    network = build(name, labeled.channels, len(labeled.classes), labeled.image_size, dropout, stochastic_depth)
    pixels = torch.from_numpy(labeled.images()).reshape(-1, labeled.channels).double() / 255  # (N*H*W,C)
    return Classifier(network, pixels.mean(0).float(), pixels.std(0).clamp_min(1 / 255).float())


def load_classifier(
    folder: Path, device: torch.device, rates: tuple[float, float] = (0.0, 0.0)
) -> tuple[Classifier, dict[str, Any]]:
    """The classifier in `folder`, in eval mode on `device`, and its description; `rates` are those of `build`, for one
    that is to be trained on.

    Raises `Refusal` when the folder holds no model or another model than it says.
    """
    tensors, description = load_model(folder)
    try:
        model, channels, classes = description["model"], description["input_channels"], len(description["classes"])
        sizes = tuple(description["image_size"]), tuple(description["input_size"])
        networks = [
            build(model, channels, classes, sizes[0], *rates, sizes[1]) for _ in range(description.get("members", 1))
        ]
        network = networks[0] if len(networks) == 1 else Ensemble(networks)
        classifier = Classifier(network, torch.zeros(channels), torch.ones(channels))
        load_tensors(classifier, tensors)
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise Refusal(f"the weights in {folder} do not fit its description ({reason}); {REMEDY}") from None
    with explained("take a smaller model"):
        return classifier.eval().to(device), description


def ensemble(members: Sequence[Classifier]) -> Classifier:
    """Classifiers with the same normalisation as one."""
    first = members[0]
    whole = Classifier(Ensemble([member.network for member in members]), first.mean, first.std)
    return whole.laid_out(first.memory_format).eval()


class Seen(NamedTuple):
    """What a classifier makes of N images."""

    logits: np.ndarray  # float32 (N,K)
    features: np.ndarray | None  # float16 (N,F), what its last layer is given, where that was asked for


def predict(classifier: Classifier, images: np.ndarray, runtime: RuntimeParams) -> np.ndarray:
    """Noiseless logits float32 (N,K), in eval mode, of uint8 `images` (N,H,W,C), which may be memory-mapped."""
    return see(classifier, images, runtime).logits


@torch.inference_mode()
def see(
    classifier: Classifier,
    images: np.ndarray,
    runtime: RuntimeParams,
    progress: Meter | None = None,
    labeling: LabelingParams = PLAIN,
) -> Seen:
    """As `predict`, and features if `labeling` asks for them; with several views the means of theirs."""
    classifier.eval().laid_out(memory_format(runtime))
    device = classifier.mean.device
    logits: list[Tensor] = []
    features: list[Tensor] = []
    with _caught(classifier if labeling.features else None) as caught:
        for start in range(0, len(images), BATCH):
            batch = torch.from_numpy(np.array(images[start : start + BATCH])).to(device)  # copied off the disk
            first = batch.permute(0, 3, 1, 2)  # (B,H,W,C) -> (B,C,H,W)
            with autocast(runtime, device):
                logits.append(torch.stack([classifier(view(first)).float() for view in VIEWS[labeling.views]]).mean(0))
            if caught:
                features.append(_mean_features(caught, len(VIEWS[labeling.views])))
                caught.clear()
            if progress:
                progress.advance(len(batch))
    return Seen(torch.cat(logits).cpu().numpy(), torch.cat(features).cpu().numpy() if features else None)


@contextmanager
def _caught(classifier: Classifier | None) -> Iterator[list[Tensor]]:
    """What the last layer of each member is given, (B,F) each, one view after another, while the block runs."""
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
    done: Container[int] = (),
    labeling: LabelingParams = PLAIN,
) -> Iterator[tuple[int, Seen]]:
    """What is seen of `split`: the number of each shard that is not `done` yet, and its logits and features."""
    todo = [(number, shard) for number, shard in enumerate(split.shards) if number not in done]
    with meter(title, len(split)) as progress, explained("take a smaller model"):
        if len(todo) < len(split.shards):
            found = len(split.shards) - len(todo)
            before = len(split) - sum(len(shard) for _, shard in todo)
            progress.resume(before, f"goes on with {found:,} of {len(split.shards):,} shards done")
        for number, shard in todo:
            yield number, see(classifier, shard, runtime, progress, labeling)
