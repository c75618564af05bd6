"""Each guard finds the fault that was planted for it, and none finds a fault in a sound teacher."""

import numpy as np
import pytest

from noisy_student.core.errors import UserError
from noisy_student.core.metrics import one_hot, softmax
from noisy_student.pseudo_labeling.guards import GuardParams, faults, warnings
from noisy_student.store.pseudo_labels import PseudoLabels

CLASSES = ["cat", "dog", "eel", "fox"]
LABELS = np.arange(200) % 4
LEAST = 0.25
GUARDS = GuardParams(
    collapsed="stop",
    useless="stop",
    imprecise="stop",
    least_precision=LEAST,
    untested="warn",
    swallowing="warn",
    empty_class="warn",
    miscalibrated="off",
)


def kept(predicted: np.ndarray) -> PseudoLabels:
    count = len(predicted)
    return PseudoLabels(np.arange(count), predicted, np.ones(count), np.ones(count, int))


def found(predicted: np.ndarray, sharpness: float = 3.0, pool: np.ndarray | None = None) -> dict[str, str]:
    """The faults of a teacher that predicts those classes for the calibration images, and `pool` for the pool."""
    pool = predicted if pool is None else pool
    held_out = softmax(sharpness * one_hot(predicted, 4))
    return faults(pool, kept(pool), held_out, LABELS, 0.0, CLASSES, LEAST)


def mostly_right(wrong: int = 30) -> np.ndarray:
    return np.where(np.arange(200) < wrong, (LABELS + 1) % 4, LABELS)


def test_a_sound_teacher_has_no_fault():
    assert found(mostly_right()) == {}


def test_a_collapsed_teacher_is_found():
    said = found(np.full(200, 1), pool=np.full(500, 1))
    assert said["collapsed"].startswith("the teacher calls 100.0 % of the pool dog")
    assert "cat, eel, fox" in said["empty_class"]


def test_a_pool_of_one_class_is_no_fault_of_a_teacher_that_knows_the_others():
    assert found(mostly_right(), pool=np.full(500, 1)).keys() == {"empty_class"}


def test_shuffled_labels_are_found():
    """By chance a shuffled teacher is right a little more or less often than by chance; here less."""
    shuffled = np.random.default_rng(2).permutation(LABELS)
    assert (shuffled == LABELS).mean() < 0.25
    assert "by chance in 25 %" in found(shuffled)["useless"]


@pytest.mark.parametrize("false_alarms", [0, 12])
def test_a_teacher_that_finds_the_rare_class_is_of_use(false_alarms):
    labels = (np.arange(200) >= 190).astype(int)
    predicted = np.where(np.arange(200) < false_alarms, 1, labels)
    held_out = softmax(3.0 * one_hot(predicted, 2))
    assert "useless" not in faults(predicted, kept(predicted), held_out, labels, 0.0, CLASSES[:2], LEAST)


def test_calibration_images_of_one_class_tell_nothing():
    held_out = softmax(9.0 * one_hot(np.zeros(50, int), 4))
    assert "useless" not in faults(LABELS, kept(LABELS), held_out, np.zeros(50, int), 0.0, CLASSES, LEAST)


def test_labels_below_the_threshold_do_not_count():
    sharpness = np.where(np.arange(200) < 180, 1.0, 9.0)[:, None]  # unsure of 180 images, all of which are wrong
    held_out = softmax(sharpness * one_hot(mostly_right(180), 4))
    said = [faults(LABELS, kept(LABELS), held_out, LABELS, threshold, CLASSES, LEAST) for threshold in (0.0, 0.9)]
    assert "useless" in said[0]
    assert "useless" not in said[1]


def test_confident_labels_that_are_seldom_right_are_found():
    """Nine of a hundred right, of which 3 % are so by chance: of some use, but not enough."""
    labels = np.arange(200) % 32
    predicted = np.where(np.arange(200) < 18, labels, (labels + 1 + np.arange(200) // 32) % 32)
    held_out, classes = softmax(9.0 * one_hot(predicted, 32)), [f"class {number}" for number in range(32)]
    pool = PseudoLabels(np.arange(32), np.arange(32), np.ones(32), np.ones(32, int))
    said = faults(np.arange(32), pool, held_out, labels, 0.0, classes, LEAST)
    assert "it is right in 9 % of 200 calibration images, less than 25 %" in said["imprecise"]
    assert "useless" not in said
    few = np.r_[0:3, 18:35]  # three of twenty right: perhaps a quarter of all
    assert "imprecise" not in faults(np.arange(32), pool, held_out[few], labels[few], 0.0, classes, LEAST)


@pytest.mark.parametrize(("images", "threshold"), [(9, 0.0), (200, 0.99)])
def test_too_few_confident_calibration_images_are_found(images, threshold):
    held_out = softmax(3.0 * one_hot(mostly_right()[:images], 4))
    said = faults(LABELS, kept(LABELS), held_out, LABELS[:images], threshold, CLASSES, LEAST)
    assert said["untested"].endswith(
        f"reach the threshold {threshold:.3g}, too few to tell how many pseudo-labels are right; raise data.calibration"
    )
    assert said.keys() <= {"untested", "miscalibrated"}


def test_a_class_that_swallows_others_is_found():
    said = found(np.where(LABELS == 3, 3, 2))["swallowing"]
    assert said.startswith(
        "150 calibration images are called eel, and 50 of them are it; label more images of cat, dog"
    )


def test_a_class_without_pseudo_labels_is_found():
    assert found(mostly_right(), pool=LABELS[LABELS != 2])["empty_class"].startswith("no pool image is kept as eel;")


def test_a_teacher_that_is_as_right_as_it_says_is_not_called_miscalibrated():
    random, said = np.random.default_rng(0), 0
    for _ in range(200):
        held_out = random.dirichlet(np.ones(4), size=20)
        labels = np.array([random.choice(4, p=each) for each in held_out])
        said += "miscalibrated" in faults(LABELS, kept(LABELS), held_out, labels, 0.0, CLASSES, LEAST)
    assert said < 10


def test_confidence_that_is_far_from_the_truth_is_found():
    assert "pseudo_labels.calibrate" in found(mostly_right(80), sharpness=30)["miscalibrated"]


@pytest.mark.parametrize("images", [1, 9])
def test_a_few_images_prove_nothing(images):
    wrong = (LABELS[:images] + 1) % 4
    held_out = softmax(9.0 * one_hot(wrong, 4))
    said = faults(wrong, kept(wrong), held_out, LABELS[:images], 0.0, CLASSES, LEAST)
    assert said.keys() <= {"empty_class", "untested"}


def test_a_guard_stops_warns_or_does_nothing():
    said = {"swallowing": "one", "miscalibrated": "two", "empty_class": "three"}
    assert warnings(said, GUARDS, "iter1") == ["one", "three"]
    with pytest.raises(UserError, match=r"pseudo-labels of iter1 look wrong: four, or set guards\.useless to warn"):
        warnings({**said, "useless": "four"}, GUARDS, "iter1")
