"""Computes the features of a split's images by each pretrained network; see features.py for the folder that they are
in."""

from pathlib import Path

import torch

from noisy_student.core import ranks
from noisy_student.core.files import write_json
from noisy_student.core.workspace import Work
from noisy_student.models.checkpoint import folder_of
from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.features import ONE_VIEW
from noisy_student.models.init import from_pretrained
from noisy_student.models.prediction import predict_split
from noisy_student.store.splits import Split, read_split


def extract_features(
    job: Work, models: list[str], pretrained: Path, images: Path, runtime: RuntimeParams, device: torch.device
) -> None:
    """Make the features of the split in the folder `images` by each of the `models`, whose weights are in the folder
    `pretrained`."""
    if ranks.is_first():
        write_json(job.part / "features.json", {"models": models})
    split = read_split(images)
    for model in models:
        body = from_pretrained(model, split, 0.0, 0.0, folder_of(pretrained, model), device)
        title = f"{model}, features of the {images.name} split"
        extract(job, body, split, folder_of(Path(), model), runtime, title)


def extract(job: Work, body: Classifier, split: Split, folder: Path, runtime: RuntimeParams, title: str) -> None:
    """Make the file in `folder` of each shard of `split` that has none yet."""

    paths = [str(folder / f"{number:05}.npy") for number in range(len(split.shards))]

    def has(number: int) -> bool:
        return job.has(paths[number])

    for number, predictions in predict_split(body, split, runtime, title, has, ONE_VIEW):
        if predictions.features is not None:
            job.add(paths[number], predictions.features)
