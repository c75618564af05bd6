"""The test images that a model is wrong on, with their pictures. N images, K classes."""

import numpy as np
import pandas as pd

from noisy_student.store.pictures import picture
from noisy_student.store.splits import Split

MISTAKES_PER_CELL = 6  # of a confusion matrix, at most
MAX_MISTAKES = 240  # first one of each cell, then a second one
MISTAKE_COLUMNS = ["id", "actual", "predicted", "confidence", "picture"]


def mistakes(split: Split, probabilities: np.ndarray) -> pd.DataFrame:
    """Columns MISTAKE_COLUMNS of images that `probabilities` (N,K) are wrong on, the surest mistakes first.

    Of each pair of an actual and a predicted class these are the surest ones. `picture` is a WebP file, and classes are
    called by name.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != split.labels)
    table = pd.DataFrame({"row": wrong, "label": split.labels[wrong], "class": predicted[wrong]})
    table["confidence"] = confidence[wrong].round(4)
    table = table.sort_values("confidence", ascending=False, kind="stable")
    turn = table.groupby(["label", "class"]).cumcount()
    chosen = turn[turn < MISTAKES_PER_CELL].sort_values(kind="stable").index[:MAX_MISTAKES]
    table = table[table.index.isin(chosen)]
    rows, names = table["row"].to_numpy(np.int64), np.array(split.classes)
    return pd.DataFrame(
        {
            "id": split.ids[rows],
            "actual": names[table["label"]],
            "predicted": names[table["class"]],
            "confidence": table["confidence"].to_numpy(),
            "picture": [picture(image) for image in split.images(rows)],
        }
    )
