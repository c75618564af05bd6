"""Draws disjoint splits; no image is in two of them. Pure functions.

N images, K classes. A row is an image's position among all images: first those of the source's test split, if it has
one, then its training images, then its unlabeled images.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pandas as pd
from pydantic import Field, PlainValidator, model_validator

from noisy_student.core.config import ParamsModel
from noisy_student.core.errors import UserError
from noisy_student.core.metrics import accuracy_interval
from noisy_student.core.randomness import generator

MAX_IMAGES = 10**9  # images
MAX_IMBALANCE = 1000
STRATIFIED = ("calibration", "validation")
PARAM_NAMES = {"labeled": "labeled_per_class"}  # of params.yaml, where it is not the split's name
LEAST = {"test": 2, "calibration": 1, "validation": 1}  # images of a split
SHARES = {"test": 0.2, "calibration": 0.2, "validation": 0.05}  # of the labels, where params.yaml has no number
TYPICAL, TELLING = 0.9, 0.05  # an accuracy, and half of the widest interval of one that says something
MANY = 0.1  # of the images to train on, more of which are no copies by chance
MOST = 1000  # images of a split that is a share; more would narrow no interval that a person acts on


def _count_or_share(value: Any) -> Any:
    is_count = type(value) is int and 1 <= value <= MAX_IMAGES
    is_share = type(value) is float and 0 < value < 1
    if not (value is None or is_count or is_share):
        raise ValueError("must be a number of labels, 1 or more, a share of them such as 0.1, or null")
    return value


# How many labels a split holds out, or which share of the labels; None: its share in SHARES.
HeldOut = Annotated[int | float | None, PlainValidator(_count_or_share)]


class SplitParams(ParamsModel):
    """How many images each split takes."""

    test_seed: int = Field(ge=0, lt=2**32)  # of the test split alone
    # one image has no interval; None: the test split that the source comes with, or else a share of the labels
    test: int | None = Field(ge=LEAST["test"], le=MAX_IMAGES)
    labeled_per_class: int | None = Field(ge=1, le=MAX_IMAGES)  # training labels a class; None: all that are left
    calibration: HeldOut
    validation: HeldOut
    pool: int | None = Field(ge=1, le=MAX_IMAGES)  # images without labels; None: all that are left
    # To make a long tail for an experiment, see `tail`. Held-out labels have it like the training labels.
    labeled_imbalance: float = Field(default=1, ge=1 / MAX_IMBALANCE, le=MAX_IMBALANCE)
    pool_imbalance: float = Field(default=1, ge=1 / MAX_IMBALANCE, le=MAX_IMBALANCE)  # of images of known class

    @model_validator(mode="after")
    def _imbalance_has_a_size(self) -> Self:
        if self.labeled_imbalance != 1 and self.labeled_per_class is None:
            raise ValueError("must have labeled_per_class, the labels of the largest class, with labeled_imbalance")
        return self


Near = dict[int, tuple[int, float]]  # images taken out, each with the one that it is like and how far they agree


@dataclass(frozen=True, eq=False)
class Index:
    """What is known of each row before the splits are drawn."""

    labels: np.ndarray  # int64 (N,), -1 where unknown
    hashes: np.ndarray  # (N,), the same for identical images
    source_test: int  # how many of the first rows are the source's own test split, 0 if it has none
    classes: int  # K
    groups: np.ndarray | None = None  # int64 (N,), see `draw`; -1: in none
    drops: np.ndarray | None = None  # int64 (N,), rising: pool images of one drop stay together


@dataclass(frozen=True, eq=False)
class Splits:
    """The rows of each split, and those that were left out."""

    rows: dict[str, np.ndarray]  # int64: of labeled, calibration, validation and test, rising; of the pool, shuffled
    copies: np.ndarray  # int64 (D,2): a dropped image, and the identical image that is kept
    conflicting: int  # dropped images whose label differs from that of the kept image
    of_groups: np.ndarray  # int64: images left out because another one of their group stands in another split
    near: Near = field(default_factory=dict)

    def with_labels_of(self, rows: np.ndarray) -> "Splits":
        """These splits with those of `rows` that are in the pool, or in no split, moved to the labeled images."""
        elsewhere = [each for name, each in self.rows.items() if name != "pool"]
        free = np.setdiff1d(rows, np.concatenate([*elsewhere, self.copies[:, 0], self.of_groups]))
        labeled = np.union1d(self.rows["labeled"], free)
        pool = self.rows["pool"][~np.isin(self.rows["pool"], labeled)]
        if not len(pool):
            raise UserError("corrections.csv labels every image of the pool; add images without labels")
        return replace(self, rows={**self.rows, "labeled": labeled}).with_pool(pool)

    def with_pool(self, rows: np.ndarray) -> "Splits":
        """These splits with the `rows` of the pool in that order."""
        return replace(self, rows={**self.rows, "pool": rows})

    def without(self, near: Near) -> "Splits":
        """These splits without near-duplicate rows. Raises `UserError` if a split would be empty."""
        rows = {name: each[~np.isin(each, list(near))] for name, each in self.rows.items()}
        for name, left in rows.items():
            if not len(left):
                raise UserError(
                    f"every image of {name} is nearly the same as one elsewhere; raise data.near_duplicates"
                )
        return replace(self, rows=rows, near=near)


def plan(
    params: SplitParams, training: np.ndarray, source_test: np.ndarray | None, unlabeled: int
) -> dict[str, np.ndarray]:
    """How many images of each class, int64 (K,), go to test, labeled, calibration and validation.

    `training` (K,) and `source_test` (K,) count the source's images by class. `source_test` is None for a source
    without a test split, whose test images are then taken from its training images. Raises `UserError` naming the first
    key that asks for more images than are left.
    """
    left, source = training.copy(), training if source_test is None else source_test
    wanted = held_out(params, left, source_test)
    _check_held_out(
        params, left, {name: count for name, count in wanted.items() if source_test is None or name != "test"}
    )
    planned = {"test": _allocated("test", wanted["test"], source)}
    if source_test is None:
        left = left - planned["test"]
    least = params.labeled_per_class or 1  # of each class is kept for training
    if params.labeled_per_class is None and not left.min():
        raise UserError("params.yaml: data.test leaves a class without images to train on; lower it, or label more")
    planned["labeled"] = tail(np.full_like(left, least), params.labeled_imbalance)
    scarce = int((planned["labeled"] - left).argmax())  # the class that lacks most
    what = f"images of {'the smallest' if params.labeled_imbalance == 1 else 'one'} class"
    _check_enough("labeled_per_class", int(planned["labeled"][scarce]), int(left[scarce]), what)
    left = left - planned["labeled"]
    for name in STRATIFIED:
        planned[name] = _allocated(name, wanted[name], tail(left, params.labeled_imbalance))
        left = left - planned[name]
    if params.labeled_per_class is None:
        planned["labeled"], left = planned["labeled"] + left, np.zeros_like(left)
    pool = int(tail(left, params.pool_imbalance).sum()) + unlabeled
    if not pool:
        remedy = "lower data.labeled_per_class, or " if params.labeled_per_class else ""
        raise UserError(f"params.yaml: data leaves no image for the pool; {remedy}add images without labels")
    _check_enough("pool", params.pool or 1, pool, "images")
    return planned


def held_out(params: SplitParams, training: np.ndarray, source_test: np.ndarray | None) -> dict[str, int]:
    """How many images go to test, calibration and validation: as `params` say, or a share of the labels.

    `training` (K,) and `source_test` as in `plan`. All of a source's own test split is the test split.
    """
    labels = int(training.sum())
    if params.labeled_per_class:
        labels = int(tail(np.full_like(training, params.labeled_per_class), params.labeled_imbalance).sum())
    sizes = {name: getattr(params, name) for name in SHARES}
    if sizes["test"] is None and source_test is not None:
        sizes["test"] = found = int(source_test.sum())
        if found < LEAST["test"]:
            raise UserError(
                f"the test split of the images has {found}; put {LEAST['test']} or more there, or none at all"
            )
    return {name: _count(name, SHARES[name] if size is None else size, labels) for name, size in sizes.items()}


def allocate(counts: np.ndarray, total: int) -> np.ndarray:
    """Share `total` among classes in proportion to `counts` int64 (K,), by largest remainder; the sum is `total`.

    No class gets more than it has if `total` is at most the sum of `counts`.
    """
    shares, remainders = np.divmod(counts * total, counts.sum())
    largest = np.argsort(-remainders, kind="stable")[: total - shares.sum()]
    shares[largest] += 1
    return shares


def tail(counts: np.ndarray, imbalance: float) -> np.ndarray:
    """`counts` int64 (K,) cut to a long tail: the last class keeps a share of 1/`imbalance`, those before it more,
    by a geometric series (Cui et al. 2019, "Class-Balanced Loss", section 5.1). An `imbalance` below 1 cuts the first
    class most. A class that has images keeps one."""
    places = np.arange(len(counts)) / max(1, len(counts) - 1)
    shares = imbalance**-places if imbalance >= 1 else imbalance ** (1 - places)
    return np.minimum(counts, np.maximum(1, np.round(counts * shares).astype(np.int64)))


def draw(params: SplitParams, seed: int, index: Index) -> Splits:
    """Draw disjoint splits of N images. Of identical images only the first takes part.

    The test split depends on `params.test_seed` and not on `seed`. All images of a group are in test, or in
    calibration, or in validation, or in training (labeled images and the pool), so a split can be a little larger than
    `params` ask. Raises `UserError` when `params` ask for more images than there are.
    """
    first, representative = np.unique(index.hashes, return_index=True, return_inverse=True)[1:]
    kept, representative = np.sort(first), first[representative]
    in_test, known = kept < index.source_test, index.labels[kept] >= 0
    training, unlabeled = kept[~in_test & known], kept[~in_test & ~known]
    test = kept[in_test] if index.source_test else training

    def count(rows: np.ndarray) -> np.ndarray:
        return np.bincount(index.labels[rows], minlength=index.classes)

    planned = plan(params, count(training), count(test) if index.source_test else None, len(unlabeled))
    order = ("labeled", *STRATIFIED) if params.labeled_per_class else (*STRATIFIED, "labeled")
    rows: dict[str, np.ndarray] = {}
    left, of_groups = training, np.empty(0, np.int64)
    for name in ("test", *order):
        drawn = generator(params.test_seed if name == "test" else seed, f"{name} split")
        candidates = test if name == "test" else left
        all_left = name == "labeled" and params.labeled_per_class is None
        rows[name] = candidates if all_left else _take(name, candidates, planned[name], index, drawn)
        left, apart = _apart(np.setdiff1d(left, rows[name]), rows[name], index)
        of_groups = np.union1d(of_groups, apart)
    if not count(rows["labeled"]).all():
        raise UserError("params.yaml: groups leave a class without training labels; lower data.test or data.validation")
    pool = np.union1d(left, unlabeled)
    for name in ("test", *STRATIFIED):  # labeled images and the pool train together and may share a group
        pool, apart = _apart(pool, rows[name], index)
        of_groups = np.union1d(of_groups, apart)
    if not len(pool):
        raise UserError("params.yaml: groups leave no image for the pool; lower data.test or data.validation")
    pool = _with_tail(_shuffled(pool, index, seed), params.pool_imbalance, index)
    rows["pool"] = pool[: params.pool]
    dropped = np.setdiff1d(np.arange(len(index.labels)), kept)
    copies = np.stack([dropped, representative[dropped]], axis=1)
    return Splits(rows, copies, _conflicting(index.labels[copies]), of_groups)


def check_every_class_has_labels(splits: Splits, labels: np.ndarray, classes: list[str]) -> None:
    """Raise `UserError` where a class of `labels` (N,) has no image to train on."""
    counts = np.bincount(labels[splits.rows["labeled"]], minlength=len(classes))
    if not counts.all():
        raise UserError(
            f"the class {classes[int(counts.argmin())]!r} has no labeled image left to train on, after corrections "
            "and after near-duplicates of held-out images were removed; label more images of it"
        )


def left_out(splits: Splits, labels: np.ndarray, ids: pd.Series, classes: list[str]) -> pd.DataFrame:
    """The usable images in no split, as id, label, why, like (an id), like_label, agreement; "" is unknown.

    Images that no split happened to draw are not among them.
    """
    found = [(row, "identical", like, 1.0) for row, like in splits.copies.tolist()]
    found += [(row, "near", like, agreement) for row, (like, agreement) in sorted(splits.near.items())]
    found += [(row, "group", -1, np.nan) for row in splits.of_groups.tolist()]
    names = np.array([*classes, ""], dtype=object)
    table = pd.DataFrame(found, columns=["row", "why", "like", "agreement"])
    rows, like = table["row"].to_numpy(int), table["like"].to_numpy(int)
    table = table.assign(id=ids.iloc[rows].to_numpy(), label=names[labels[rows]])
    table["like_label"] = np.where(like >= 0, names[labels[like]], "")
    table["like"] = np.where(like >= 0, ids.iloc[like].to_numpy(), "")
    return table[["id", "label", "why", "like", "like_label", "agreement"]]


def near_duplicates_sentences(near: Near, rows: Mapping[str, np.ndarray], card: Path) -> Iterator[str]:
    """How many images of the training `rows` are left out as near-duplicates, and a warning where they are many."""
    count = int(np.isin(list(near), rows["labeled"]).sum())
    yield (
        f"left out as near-duplicates: {len(near):,} ({count:,} labeled, {len(near) - count:,} of the pool); "
        f"{card} shows pairs, and data.near_duplicates sets how alike they must be"
    )
    share = len(near) / (len(rows["labeled"]) + len(rows["pool"]))
    if share > MANY:
        yield (
            f"warning: that is {100 * share:.0f} % of the images to train on; if all look alike and few are the "
            "same, set data.near_duplicates to null"
        )


def sizes_sentences(sizes: Mapping[str, int]) -> Iterator[str]:
    """How many images each split has, and a warning where the test split is too small to tell much."""
    yield "images: " + ", ".join(f"{count:,} {name}" for name, count in sizes.items())
    low, high = accuracy_interval(TYPICAL, sizes["test"])
    if high - low > 2 * TELLING:
        yield (
            f"warning: {sizes['test']:,} test images tell an accuracy to within {50 * (high - low):.0f} points (95 %); "
            "label more images for it, in test/ where you have that folder, or raise data.test"
        )


def report(splits: Splits, labels: np.ndarray, classes: list[str]) -> dict[str, Any]:
    """The counts of a data report; `labels` (N,) as in `draw`."""
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
        "duplicates_dropped": len(splits.copies),
        "duplicates_with_conflicting_labels": splits.conflicting,
        "near_duplicates_taken_out": len(splits.near),
        "images_of_groups_left_out": len(splits.of_groups),
    }


def _conflicting(labels: np.ndarray) -> int:
    """How many of the pairs of `labels` int64 (P,2), -1 where unknown, differ."""
    return int(((labels[:, 0] != labels[:, 1]) & (labels >= 0).all(axis=1)).sum())


def _take(name: str, rows: np.ndarray, counts: np.ndarray, index: Index, generator: np.random.Generator) -> np.ndarray:
    """`counts[k]` of the `rows` of each class k, drawn at random, or a few more with whole groups; rising."""
    order = generator.permutation(rows)
    labels = index.labels[order]
    if index.groups is None:
        return np.sort(np.concatenate([order[labels == k][:count] for k, count in enumerate(counts)]))
    alone = np.where(index.groups[order] < 0, -1 - order, index.groups[order])  # an image in no group is one of its own
    members = pd.Series(order).groupby(alone, sort=False)
    needed, taken = counts.copy(), [np.empty(0, np.int64)]
    for _, group in members:
        if not (needed > 0).any():
            break
        if (needed[index.labels[group]] > 0).any():
            taken.append(group.to_numpy())
            np.subtract.at(needed, index.labels[group], 1)
    if (needed > 0).any():
        raise UserError(f"params.yaml: groups leave too few images for data.{PARAM_NAMES.get(name, name)}; lower it")
    return np.sort(np.concatenate(taken))


def _apart(rows: np.ndarray, taken: np.ndarray, index: Index) -> tuple[np.ndarray, np.ndarray]:
    """The `rows` whose group has no image among `taken`, and the other rows."""
    if index.groups is None:
        return rows, np.empty(0, np.int64)
    groups = index.groups[taken]
    together = np.isin(index.groups[rows], groups[groups >= 0])
    return rows[~together], rows[together]


def _with_tail(pool: np.ndarray, imbalance: float, index: Index) -> np.ndarray:
    """The first rows of each class in the shuffled `pool`, as many as `tail` leaves; unknown classes keep all."""
    if imbalance == 1:
        return pool
    labels = index.labels[pool]
    counts = tail(np.bincount(labels[labels >= 0], minlength=index.classes), imbalance)
    before = pd.Series(labels).groupby(labels).cumcount().to_numpy()  # images of the class that come earlier
    return pool[(labels < 0) | (before < counts[labels])]


def _shuffled(pool: np.ndarray, index: Index, seed: int) -> np.ndarray:
    """`pool` in random order, drop by drop, so that a new drop does not change the order of earlier ones."""
    if index.drops is None:
        return generator(seed, "pool split").permutation(pool)
    drops = [pool[index.drops[pool] == drop] for drop in np.unique(index.drops[pool])]
    return np.concatenate([generator(seed, "pool split").permutation(drop) for drop in drops])


def _count(name: str, size: int | float, labels: int) -> int:
    """How many images a split of that `size`, images or a share of the `labels`, has."""
    return size if isinstance(size, int) else min(MOST, max(LEAST[name], round(size * labels)))


def _allocated(name: str, wanted: int, counts: np.ndarray) -> np.ndarray:
    _check_enough(name, wanted, int(counts.sum()), "labeled images")
    return allocate(counts, wanted)


def _check_held_out(params: SplitParams, training: np.ndarray, wanted: dict[str, int]) -> None:
    """Raise `UserError` where the splits hold out so many (`wanted`, by split) of the `training` images (K,) that a
    class keeps none."""
    labels, classes = int(training.sum()), len(training)
    asked = sum(wanted.values())
    if asked + classes <= labels:
        return
    for_training = classes * (params.labeled_per_class or 1)
    fitting = _scaled(wanted, min(labels // 2, labels - for_training))
    if sum(fitting.values()) + for_training > labels:
        fitting = {name: LEAST[name] for name in wanted}
    lacking = sum(fitting.values()) + for_training - labels
    raise UserError(
        f"params.yaml: {_listed(wanted)} ask for {asked:,} labels, but there are only {labels:,} labeled images, and "
        f"each of {classes:,} classes needs one to train on; "
        + (f"label {lacking:,} more" if lacking > 0 else f"lower them, for example to {_listed(fitting)}")
    )


def _scaled(wanted: dict[str, int], total: int) -> dict[str, int]:
    """About `total` images, shared out in proportion to `wanted`; each split gets what it needs at least."""
    return {name: max(LEAST[name], total * count // sum(wanted.values())) for name, count in wanted.items()}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"data.{name} {count:,}" for name, count in counts.items())


def _check_enough(key: str, wanted: int, left: int, what: str) -> None:
    if wanted > left:
        raise UserError(f"params.yaml: data.{key} was {wanted:,}; only {left:,} {what} are left for it; lower it")
