from dataclasses import replace

import numpy as np
import pytest

from noisy_student.core.metrics import softmax
from noisy_student.evaluation.audit import (
    PER_GROUP,
    Labeling,
    groups,
    pool_figures,
    student_figures,
    threshold_curve,
)
from noisy_student.evaluation.feature_map import feature_map
from noisy_student.store.pseudo_labels import PseudoLabels

CLASSES = ["cat", "dog", "eel"]
CALIBRATION = np.arange(100) % 2  # what the teacher calls those images


@pytest.fixture
def found() -> Labeling:
    """200 images, of which those with a confidence of 0.7 are kept; every tenth truth is unknown."""
    random = np.random.default_rng(0)
    truth = random.integers(3, size=200)
    logits = 2 * np.eye(3)[truth] + random.normal(size=(200, 3))
    truth[::10] = -1
    probabilities = softmax(logits, 0.8)
    rows = np.flatnonzero(probabilities.max(axis=1) >= 0.7)
    labels = probabilities.argmax(axis=1)[rows]
    kept = PseudoLabels(rows, labels, probabilities.max(axis=1)[rows], np.full(len(rows), 2))
    return Labeling(probabilities.argmax(axis=1), probabilities.max(axis=1), kept, truth)


def test_figures_count_each_image_once_and_only_what_is_known(found):
    figures = pool_figures(found, CLASSES, CALIBRATION)
    kept = len(found.kept.rows)
    assert (figures["pool_images"], figures["unique_images"], figures["images_with_copies"]) == (200, kept, 2 * kept)
    assert figures["known_kept"] == sum(found.truth[row] >= 0 for row in found.kept.rows) < kept
    assert sum(figures["confidence"]["all"]) == 200
    assert sum(figures["confidence"]["kept"]) == sum(row["unique"] for row in figures["by_class"]) == kept
    wrong = [row for row in found.kept.rows if 0 <= found.truth[row] != found.predicted[row]]
    assert figures["wrong_kept"] == len(wrong) > 0
    assert sum(row["known"] - row["right"] for row in figures["by_class"]) == len(wrong)


def test_drift_is_the_share_of_the_pool_that_would_have_to_change_class(found):
    alike = replace(found, predicted=np.arange(200) % 2)
    assert pool_figures(alike, CLASSES, CALIBRATION)["drift"] == 0
    swallowed = replace(found, predicted=np.full(200, 2))
    assert pool_figures(swallowed, CLASSES, CALIBRATION)["drift"] == 1


def test_a_sample_alone_drifts_by_chance(found):
    shares, random = np.array([0.6, 0.3, 0.1]), np.random.default_rng(0)
    pool = replace(found, predicted=np.repeat([0, 1, 2], [120, 60, 20]))
    figures = [pool_figures(pool, CLASSES, random.choice(3, 100, p=shares)) for _ in range(200)]
    assert figures[0]["drift_by_chance"] == pytest.approx(np.mean([each["drift"] for each in figures]), rel=0.1)


def test_where_the_truth_is_unknown_there_is_no_precision(found):
    unknown = replace(found, truth=np.full(200, -1))
    assert pool_figures(unknown, CLASSES, CALIBRATION)["known_kept"] == 0
    curve = threshold_curve(unknown, np.eye(3), np.arange(3), 0.7)
    assert {row["precision"] for row in curve} == {row["calibration_precision"] for row in curve} == {None}


def test_fewer_reach_a_higher_threshold_and_is_right_more_often(found):
    curve = threshold_curve(found, np.eye(3)[np.arange(30) % 3], np.zeros(30, int), 0.777)
    assert curve[0]["reached"] == 1
    reached = [row["reached"] for row in curve]
    assert reached == sorted(reached, reverse=True)
    at = {row["threshold"]: row for row in curve}
    assert at[0.9]["precision"] > at[0.0]["precision"]
    assert at[0.777]["calibration_precision"] == pytest.approx(1 / 3)


def test_a_student_mends_and_spoils_labels_of_its_teacher():
    truth = np.array([0, 1, 2, -1, 0])
    teacher = Labeling(np.array([0, 0, 0, 0, 0]), np.ones(5), None, truth)
    figures = student_figures(teacher, np.arange(5), np.array([1, 1, 1, 1, 0]))
    # the first is spoiled, the second mended, the third wrong both times, the fourth unknown
    assert figures == {"sample": 5, "changed": 4, "known": 4, "mended": 1, "spoiled": 1}


def test_groups_show_what_they_say(found):
    rows = np.arange(0, 200, 2)
    predicted, confidence = (found.predicted[rows] + (rows % 3 == 0)) % 3, np.linspace(0.5, 1, 100)
    table = groups(found, rows, predicted, confidence)
    by_group = {name: each for name, each in table.groupby("group")}
    assert all(len(each) <= PER_GROUP for each in by_group.values())
    for name in ("surest", "least sure", "wrong"):
        assert found.is_kept[by_group[name]["row"]].all()
        assert (by_group[name]["predicted"] == found.predicted[by_group[name]["row"]]).all()
    assert by_group["surest"]["confidence"].min() > by_group["least sure"]["confidence"].max()
    assert by_group["surest"]["predicted"].value_counts().tolist() == [8, 8, 8]
    assert found.is_wrong[by_group["wrong"]["row"]].all()
    assert (by_group["changed"]["before"] != by_group["changed"]["predicted"]).all()
    assert by_group["changed"]["confidence"].is_monotonic_decreasing


def test_a_map_is_the_same_each_time_and_puts_like_to_like():
    random = np.random.default_rng(0)
    kind = np.arange(60) % 3
    features = (8 * np.eye(3)[kind] + random.normal(size=(60, 3))).astype(np.float16)
    places = feature_map(features)
    assert (places == feature_map(features)).all()
    assert (places.min(axis=0) == 0).all() & (places.max(axis=0) == 1).all()
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (kind[distances.argmin(axis=1)] == kind).all()


@pytest.mark.parametrize(
    "features",
    [np.zeros((40, 8)), np.ones((40, 1)), np.arange(40.0)[:, None], np.full((40, 2), np.inf)],
    ids=["zeros", "ones", "one", "infinite"],
)
def test_features_that_say_nothing_have_a_map(features):
    places = feature_map(features.astype(np.float16))
    assert ((places >= 0) & (places <= 1)).all()


@pytest.mark.parametrize("images", [4, 5])
def test_a_map_of_few_images_is_drawn(images):
    assert feature_map(np.eye(8, dtype=np.float16)[:images]).shape == (images, 2)
