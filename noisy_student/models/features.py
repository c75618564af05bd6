"""Features: the inputs of a network's last layer, without noise.

Those of the pretrained networks are kept for every image, so that a model with such a body needs no other pass of it. A
folder has those of a split:

    features.json              the models
    <model>/00000.npy          float16 (n,F), for each shard of the split

N images, n of them in a shard, F features, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY, read_array
from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.prediction import LabelingParams, predict
from noisy_student.models.registry import heads
from noisy_student.store.selection import Selection

ONE_VIEW = LabelingParams(tta="one", features=True)
ROWS_AT_ONCE = 2**16  # images whose logits are computed at once


def read_features(folder: Path | None) -> Selection | None:
    """The features float16 (N,F) in the folder of a model, which are read when they are indexed; None for no folder.

    Raises `UserError` when it holds none.
    """
    if folder is None:
        return None
    shards = sorted(folder.glob("*.npy"))
    if not shards:
        raise UserError(f"{folder} holds no features; {REMEDY}")
    arrays = [read_array(shard) for shard in shards]
    return Selection(arrays, np.arange(sum(map(len, arrays))))


def features_of(classifier: Classifier, images: Selection | np.ndarray, runtime: RuntimeParams) -> np.ndarray:
    """The features float16 (N,F) of uint8 `images` (N,H,W,C)."""
    return logits_and_features(classifier, images, runtime)[1]


def logits_and_features(
    classifier: Classifier, images: Selection | np.ndarray, runtime: RuntimeParams
) -> tuple[np.ndarray, np.ndarray]:
    """The logits float32 (N,K) and the features float16 (N,F) of uint8 `images` (N,H,W,C)."""
    logits, features = predict(classifier, images, runtime, labeling=ONE_VIEW)
    if features is None:
        raise ValueError("the features were asked for and are missing")
    return logits, features


def pretrained_body(description: dict[str, Any]) -> str | None:
    """The name of the pretrained network that is the body of a described model, where no step of a training has changed
    it; None for another model."""
    training = description.get("training", {})
    unchanged = training.get("initial") == "pretrained" and training.get("steps") == 0
    return str(description["model"]) if unchanged and description.get("ensemble_size", 1) == 1 else None


@torch.inference_mode()
def logits_of(classifier: Classifier, features: Selection | np.ndarray) -> np.ndarray:
    """The logits float32 (N,K) of images whose `features` (N,F) are known, on the classifier's device."""
    (head,) = heads(classifier.network)
    parts = []
    for start in range(0, len(features), ROWS_AT_ONCE):
        part = torch.from_numpy(features[start : start + ROWS_AT_ONCE].astype(np.float32))
        parts.append(head(part.to(head.weight.device)).cpu().numpy())
    return np.concatenate(parts)
