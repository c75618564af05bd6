"""A project whose model was not trained, for tests of what is done with a model."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
import yaml

from noisy_student.models.checkpoint import save_model
from noisy_student.models.classifier import new_classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.store.splits import Split, pixel_hash, write_split

PREPARATION = {"image_size": 8, "resize": "crop", "background": 0, "max_megapixels": 1.0}


def description(model: str, split: Split, **more) -> dict:
    """The model.json of a model for images of 8 by 8 gray pixels."""
    found = {"name": "iter1", "model": model, "classes": split.classes, "image_size": [8, 8], "channels": 1}
    found |= {"preparation": PREPARATION, "input_size": [8, 8], "input_channels": 1, "parameters": 10}
    return {**found, "labels": {"training": 30, "validation": 20}, **more}


def make_untrained(
    folder: Path, split: Split, runtime: RuntimeParams, model: str = "mlp_8", splits: Iterable[str] = ("pool",)
) -> None:
    """Write models/iter1, params.yaml, and `splits` of the images of `split` below data/; a pool has no labels."""
    torch.manual_seed(0)
    save_model(folder / "models/iter1", new_classifier(model, split).state_dict(), description(model, split))
    (folder / "params.yaml").write_text(yaml.safe_dump({"current": "iter1", "runtime": runtime.model_dump()}))
    index = pd.DataFrame({"id": split.ids, "sha256": pixel_hash(split.images())})
    for name in splits:
        own = index if name == "pool" else index.assign(label=split.labels)
        write_split(folder / "data" / name, split.images(), own, split.classes, PREPARATION, 10_000)
