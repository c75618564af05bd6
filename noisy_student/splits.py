"""Who goes where: disjoint splits of labeled images, and no image in two of them. Pure.

N images, K classes. A row is an image's position among all: the source's own test split if it has one, its training
images, and what it has of unlabeled ones, in that order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from noisy_student.config import Section
from noisy_student.errors import Refusal
from noisy_student.randomness import generator

MOST = 10**9  # images
STRATIFIED = ("calibration", "validation")


class SplitParams(Section):
    """How many images each split takes."""

    test_seed: int = Field(ge=0, lt=2**32)  # of the test split alone
    test: int | None = Field(ge=2, le=MOST)  # images, for one has no interval; None: all that the source has
    labeled_per_class: int = Field(ge=1, le=MOST)  # training labels for each class
    calibration: int = Field(ge=1, le=MOST)  # held-out labels
    validation: int = Field(ge=1, le=MOST)  # held-out labels
    pool: int | None = Field(ge=1, le=MOST)  # images without labels; None: all that are left


@dataclass(frozen=True, eq=False)
class Splits:
    """Which rows are where, and what was left out as a copy of another image."""

    rows: dict[str, np.ndarray]  # int64: of labeled, calibration, validation and test, rising; of the pool, shuffled
    duplicates: int  # images dropped because an identical one is kept
    conflicting: int  # those of them whose label is another than that of the one kept


def plan(
    params: SplitParams, training: np.ndarray, own_test: np.ndarray | None, unlabeled: int
) -> dict[str, np.ndarray]:
    """How many images of each class, int64 (K,), go to test, labeled, calibration and validation.

    `training` (K,) and `own_test` (K,) count the source's images by class; `own_test` is None for a source that has
    no test split of its own, whose test images then are taken off its training images.
    Raises `Refusal` naming the first key that asks for more than is left.
    """
    left = training.copy()
    if own_test is None and params.test is None:
        raise Refusal("params.yaml: data.test was null and this source has no test split; set it to a number of images")
    source = left if own_test is None else own_test
    wanted = int(source.sum()) if params.test is None else params.test
    planned = {"test": _allocated("test", wanted, source)}
    if own_test is None:
        left = left - planned["test"]
    _refuse_more("labeled_per_class", params.labeled_per_class, int(left.min()), "images of the smallest class")
    planned["labeled"] = np.full_like(left, params.labeled_per_class)
    left = left - planned["labeled"]
    for name in STRATIFIED:
        planned[name] = _allocated(name, getattr(params, name), left)
        left = left - planned[name]
    pool = int(left.sum()) + unlabeled
    if not pool:
        raise Refusal("params.yaml: data leaves no image for the pool; lower data.labeled_per_class")
    _refuse_more("pool", params.pool or 1, pool, "images")
    return planned


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """`total` shared among classes in proportion to `counts` int64 (K,), by largest remainder; sums to `total`.

    No class gets more than it has, as long as `total` is not more than there are.
    """
    shares, remainders = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainders, kind="stable")[: total - shares.sum()]
    shares[largest] += 1
    return shares


def draw(params: SplitParams, seed: int, labels: np.ndarray, hashes: list[str], own_test: int, classes: int) -> Splits:
    """Disjoint splits of N images, of which one for each of the `hashes` (N,) takes part: the first.

    `labels` int64 (N,) are -1 where unknown; the first `own_test` rows are the source's own test split, 0 if it has
    none. The test split depends on `params.test_seed` and not on `seed`.
    Raises `Refusal` when `params` ask for more images than there are.
    """
    first, representative = np.unique(np.array(hashes), return_index=True, return_inverse=True)[1:]
    kept, representative = np.sort(first), first[representative]
    training = kept[(kept >= own_test) & (labels[kept] >= 0)]
    unlabeled = kept[(kept >= own_test) & (labels[kept] < 0)]
    test = kept[kept < own_test] if own_test else training

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(labels[rows], minlength=classes)

    planned = plan(params, count(training), count(test) if own_test else None, len(unlabeled))
    rows = {"test": _first_of_each(test, labels, planned["test"], generator(params.test_seed, "test split"))}
    left = np.setdiff1d(training, rows["test"])
    for name in ("labeled", *STRATIFIED):
        rows[name] = _first_of_each(left, labels, planned[name], generator(seed, f"{name} split"))
        left = np.setdiff1d(left, rows[name])
    pool = np.union1d(left, unlabeled)
    rows["pool"] = generator(seed, "pool split").permutation(pool)[: params.pool]  # so that no position tells a class
    dropped = np.setdiff1d(np.arange(len(labels)), kept)
    pairs = labels[dropped], labels[representative[dropped]]
    conflicting = (pairs[0] != pairs[1]) & (np.minimum(*pairs) >= 0)
    return Splits(rows, len(dropped), int(conflicting.sum()))


def report(splits: Splits, labels: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """What a person wants to know of the splits; `labels` (N,) as in `draw`."""
    known = {name: labels[rows][labels[rows] >= 0] for name, rows in splits.rows.items()}
    by_class = {name: np.bincount(found, minlength=len(classes)).tolist() for name, found in known.items()}
    sizes = {name: len(rows) for name, rows in splits.rows.items()}
    return {
        "classes": classes,
        "training_labels": sizes["labeled"],
        "held_out_labels": sizes["calibration"] + sizes["validation"],
        "images": sizes,
        "images_by_class": {name: dict(zip(classes, counts, strict=True)) for name, counts in by_class.items()},
        "pool_images_of_unknown_class": sizes["pool"] - len(known["pool"]),
        "duplicates_dropped": splits.duplicates,
        "duplicates_with_conflicting_labels": splits.conflicting,
    }


def _first_of_each(
    rows: np.ndarray, labels: np.ndarray, counts: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """`counts[k]` of the `rows` of each class k, drawn at random; rising."""
    order = generator.permutation(rows)
    return np.sort(np.concatenate([order[labels[order] == k][:count] for k, count in enumerate(counts)]))


def _allocated(name: str, wanted: int, counts: np.ndarray) -> np.ndarray:
    _refuse_more(name, wanted, int(counts.sum()), "labeled images")
    return allocate(counts, wanted)


def _refuse_more(key: str, wanted: int, left: int, what: str) -> None:
    if wanted > left:
        raise Refusal(f"params.yaml: data.{key} was {wanted:,}; only {left:,} {what} are left for it; lower it")
