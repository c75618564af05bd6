"""Out-of-distribution scores: how much an image resembles the labeled images, to filter the pool.

N images, M labeled ones, K classes, F features.
"""

from functools import partial
from pathlib import Path

import numpy as np

from noisy_student.core.errors import UserError
from noisy_student.pseudo_labeling.selection import PseudoLabelParams
from noisy_student.store.pseudo_labels import by_parts, read_logits
from noisy_student.store.selection import Selection


def ood_scores(folder: Path, split: str, logits: Selection, params: PseudoLabelParams) -> np.ndarray | None:
    """The score (N,) of each image of a split, whose logits (N,K) are given; a higher one is more like labeled images.

    It is the negative energy of the logits, or with `ood_neighbors` the likeness of the features to labeled images.
    None where `params` ask for no such filter.

    Raises `UserError` when the folder holds too little.
    """
    if not params.ood_quantile:
        return None
    if not params.ood_neighbors:
        return by_parts(negative_energy, logits)
    labeled, features = (read_logits(folder, f"features-{name}") for name in ("labeled", split))
    if params.ood_neighbors > len(labeled):
        raise UserError(
            f"pseudo_labels.ood_neighbors was {params.ood_neighbors}, and there are {len(labeled)} labeled images; "
            "lower it"
        )
    return by_parts(partial(likeness, labeled=labeled[:], neighbors=params.ood_neighbors), features)


def likeness(features: np.ndarray, labeled: np.ndarray, neighbors: int) -> np.ndarray:
    """The cosine (N,) between each of `features` (N,F) and the `neighbors`-th nearest of the features `labeled` (M,F)
    (Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", arXiv 2204.06507, section 3)."""
    return np.partition(_unit(features) @ _unit(labeled).T, -neighbors, axis=1)[:, -neighbors]


def _unit(features: np.ndarray) -> np.ndarray:
    wide = features.astype(np.float32)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-12)


def negative_energy(logits: np.ndarray) -> np.ndarray:
    """The negative energy (N,) of `logits` (N,K), which is low for images unlike those of training (Liu et al. 2020,
    "Energy-based Out-of-distribution Detection", arXiv 2010.03759, section 3.1, at temperature 1)."""
    return np.logaddexp.reduce(logits.astype(np.float64), axis=1)
