"""The head of a pretrained model, solved on the features of the images that it is trained on: a linear probe.

Fine-tuning that starts from it keeps the pretrained features where a random head would distort them (Kumar et al. 2022,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", arXiv 2202.10054, LP-FT).

Features are the inputs of the last layer, see models/features.py.

N labeled images, M pool images, F features, K classes.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from noisy_student.models.classifier import Classifier
from noisy_student.models.registry import heads
from noisy_student.store.selection import Selection
from noisy_student.training.labeled_images import LabeledImages

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse strengths C of the L2 penalty, of which one is chosen
FOLDS = 5  # of the cross-validation that chooses it
MAX_CHOOSING = 2000  # labeled images that choose it; more would take minutes and choose the same
MAX_POOL = 20_000  # pool images that a head is solved on; more would take minutes and gigabytes
LEAST_TARGET = 0.01  # share of a class in a soft target below which it is left out


class PoolFeatures(NamedTuple):
    """Pool images that a head is solved on."""

    features: np.ndarray  # float32 (M,F)
    targets: np.ndarray  # float32 (M,K), rows sum to 1
    weights: np.ndarray  # float (M,), beside the weight 1 of a labeled image


def solve_head(
    classifier: Classifier,
    labels: np.ndarray,
    features: Selection | np.ndarray,
    pool: LabeledImages | None = None,
    pool_weight: float = 1.0,
) -> None:
    """Set the head of `classifier`, one network, to the logistic regression of `labels` int64 (N,) on `features` (N,F),
    and of the targets of the `pool` on its features. All of the pool weighs `pool_weight` times as much as all labeled
    images, as in training.
    """
    of_pool = None
    if pool:
        some = pool.thinned(MAX_POOL)
        if some.features is None:
            raise ValueError("a head is solved on the features of the pool, which are missing")
        copies = np.ones(len(some)) if some.copies is None else some.copies
        weights = copies * pool_weight * len(labels) / copies.sum()
        of_pool = PoolFeatures(some.features[:].astype(np.float32), some.targets[:], weights)
    weight, bias = linear_probe(features[:].astype(np.float32), labels, of_pool)
    (head,) = heads(classifier.network)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


def linear_probe(
    features: np.ndarray, labels: np.ndarray, pool: PoolFeatures | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression of `labels` int64 (N,) on `features` float32 (N,F): weights float32 (K,F), biases (K,).

    Features are standardized before the penalty applies. The penalty is the one with the least log loss in a
    cross-validation over the labeled images. The loss is convex and the solver draws nothing, so each run gives the
    same result.
    """
    every = np.concatenate([features, pool.features]) if pool else features  # (N+M,F)
    mean, deviation = every.mean(axis=0), np.maximum(every.std(axis=0), 1e-6)
    standardized = (every - mean) / deviation
    penalty = choose_penalty(standardized[: len(labels)], labels)
    coordinates, axes = in_few_dimensions(standardized)
    rows, row_labels, row_weights = np.arange(len(labels)), labels, np.ones(len(labels))
    if pool:
        taken, classes = np.nonzero(pool.targets >= LEAST_TARGET)
        rows, row_labels = np.append(rows, len(labels) + taken), np.append(labels, classes)
        row_weights = np.append(row_weights, pool.weights[taken] * pool.targets[taken, classes])
    solved = _solved(coordinates[rows], row_labels, penalty, row_weights)
    weight, bias = solved.coef_ @ axes, solved.intercept_
    if len(weight) == 1:  # of two classes it has the difference of the logits alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / deviation
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def in_few_dimensions(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`features` (N,F) as coordinates (N,D) along orthogonal axes (D,F), D at most N and F.

    The optimum of a penalized regression lies in the space that the images span, and a rotation does not change it.
    """
    if len(features) >= features.shape[1]:
        return features, np.eye(features.shape[1], dtype=features.dtype)
    images, strengths, axes = np.linalg.svd(features, full_matrices=False)
    return images * strengths, axes


def choose_penalty(features: np.ndarray, labels: np.ndarray) -> float:
    """The inverse strength among PENALTIES whose regressions predict left-out images best.

    A class of one image cannot be left out and does not choose. Where fewer than two classes choose, it is the middle
    one.
    """
    every = -(-len(labels) // MAX_CHOOSING)
    features, labels = features[::every], labels[::every]
    counts = np.bincount(labels)
    choosing = counts[labels] > 1
    if np.count_nonzero(counts > 1) < 2:
        return float(PENALTIES[len(PENALTIES) // 2])
    features, labels = in_few_dimensions(features[choosing])[0], labels[choosing]
    folds = min(FOLDS, int(counts[counts > 1].min()))
    splits = list(StratifiedKFold(folds).split(features, labels))
    losses = [
        sum(_left_out_loss(features, labels, train, left_out, penalty) for train, left_out in splits)
        for penalty in PENALTIES
    ]
    return float(PENALTIES[int(np.argmin(losses))])


def _left_out_loss(
    features: np.ndarray, labels: np.ndarray, train: np.ndarray, left_out: np.ndarray, penalty: float
) -> float:
    """The summed log loss on the images `left_out` of a regression on those in `train`."""
    solved = _solved(features[train], labels[train], penalty)
    predicted = solved.predict_proba(features[left_out])
    return float(log_loss(labels[left_out], predicted, labels=solved.classes_, normalize=False))


def _solved(
    features: np.ndarray, labels: np.ndarray, penalty: float, weights: np.ndarray | None = None
) -> LogisticRegression:
    with warnings.catch_warnings():  # near the optimum is near enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=penalty, tol=1e-6, max_iter=1000).fit(features, labels, weights)
