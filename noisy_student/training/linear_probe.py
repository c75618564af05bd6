"""The head of a pretrained model, solved on the features of the labeled images: a linear probe.

Fine-tuning that starts from it keeps the pretrained features where a random head would distort them (Kumar et al. 2022,
"Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution", arXiv 2202.10054, LP-FT).

N images, F features, K classes.
"""

import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold

from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams, memory_format
from noisy_student.models.prediction import LabelingParams, predict
from noisy_student.models.registry import heads
from noisy_student.store.splits import Split

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # inverse strengths C of the L2 penalty, of which one is chosen
FOLDS = 5  # of the cross-validation that chooses it
MAX_CHOOSING = 2000  # labeled images that choose it; more would take minutes and choose the same
FEATURES = LabelingParams(tta="one", features=True)


def solve_head(classifier: Classifier, labeled: Split, runtime: RuntimeParams) -> None:
    """Set the head of `classifier`, one network, to the logistic regression of `labeled` on its features, without
    noise."""
    classifier.to_memory_format(memory_format(runtime))  # before `predict`, whose tensors cannot be trained
    features = predict(classifier, labeled.images(), runtime, labeling=FEATURES).features
    if features is None:
        raise ValueError("the features were asked for and are missing")
    weight, bias = linear_probe(features.astype(np.float32), labeled.labels)
    (head,) = heads(classifier.network)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias))


def linear_probe(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression of `labels` int64 (N,) on `features` float32 (N,F): weights float32 (K,F), biases (K,).

    Features are standardized before the penalty applies. The penalty is the one with the least log loss in a
    cross-validation over the images. It is convex, so the result is the same on every run.
    """
    mean, deviation = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    standardized = (features - mean) / deviation
    images, strengths, axes = np.linalg.svd(standardized, full_matrices=False)
    coordinates = images * strengths  # (N,min(N,F)): the optimum lies among the images, whose space may be smaller
    solved = _solved(coordinates, labels, choose_penalty(coordinates, labels))
    weight, bias = solved.coef_ @ axes, solved.intercept_
    if len(weight) == 1:  # of two classes it has the difference of the logits alone
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / deviation
    return weight.astype(np.float32), (bias - weight @ mean).astype(np.float32)


def choose_penalty(features: np.ndarray, labels: np.ndarray) -> float:
    """The inverse strength among PENALTIES whose regressions predict left-out images best.

    A class of one image cannot be left out; then it is the middle one.
    """
    every = -(-len(labels) // MAX_CHOOSING)
    features, labels = features[::every], labels[::every]
    counts = np.bincount(labels)
    folds = min(FOLDS, int(counts[counts > 0].min()))
    if folds < 2:
        return float(PENALTIES[len(PENALTIES) // 2])
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


def _solved(features: np.ndarray, labels: np.ndarray, penalty: float) -> LogisticRegression:
    with warnings.catch_warnings():  # near the optimum is near enough
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=penalty, tol=1e-6, max_iter=1000).fit(features, labels)
