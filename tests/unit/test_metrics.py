import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import log_softmax
from sklearn.metrics import accuracy_score, f1_score, log_loss, recall_score

from noisy_student.core.metrics import (
    TEMPERATURES,
    accuracy,
    accuracy_by_class,
    accuracy_interval,
    bootstrap_interval,
    ece,
    ece_by_chance,
    fit_temperature,
    macro_f1,
    mean_interval,
    nll,
    paired_gain,
    reliability,
    softmax,
)

LOGITS = arrays(np.float32, (7, 4), elements=st.floats(-1e4, 1e4, width=32))
RNG = np.random.default_rng(0)
LABELS = RNG.integers(4, size=200)
PROBABILITIES = RNG.dirichlet(np.ones(4), size=200)
PREDICTED = PROBABILITIES.argmax(axis=1)


@given(logits=LOGITS, temperature=st.floats(0.05, 20))
def test_probabilities_sum_to_one_and_keep_the_order_of_the_logits(logits, temperature):
    probabilities = softmax(logits, temperature)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (np.diff(np.take_along_axis(probabilities, logits.argsort(axis=1), axis=1), axis=1) >= 0).all()


@given(logits=LOGITS)
def test_a_higher_temperature_never_raises_the_confidence(logits):
    cold, warm = softmax(logits, 1.0), softmax(logits, 2.0)
    assert (warm.max(axis=1) <= cold.max(axis=1) + 1e-12).all()


def test_accuracy_and_nll_are_those_of_scikit_learn():
    assert accuracy(PREDICTED, LABELS) == pytest.approx(accuracy_score(LABELS, PREDICTED))
    assert nll(PROBABILITIES, LABELS) == pytest.approx(log_loss(LABELS, PROBABILITIES))


def test_a_certain_mistake_costs_much_and_not_infinitely_much():
    assert 20 < nll(np.array([[1.0, 0.0]]), np.array([1])) < math.inf


def test_accuracy_by_class_is_the_recall_and_nothing_for_a_class_without_images():
    by_class = accuracy_by_class(PREDICTED, LABELS, 5)
    assert by_class[:4] == pytest.approx(recall_score(LABELS, PREDICTED, average=None))
    assert by_class[4] is None


@pytest.mark.parametrize("confidence", [0.55, 0.75, 1.0])
def test_ece_is_zero_where_confidence_is_what_comes_true(confidence):
    correct = np.arange(100) < round(100 * confidence)
    assert ece(np.full(100, confidence), correct) == pytest.approx(0)


def test_ece_is_the_gap_where_the_model_is_too_sure_of_itself_or_not_sure_enough():
    correct = np.arange(100) < 60
    assert ece(np.full(100, 1.0), correct) == pytest.approx(0.4)
    assert ece(np.full(100, 0.51), correct) == pytest.approx(0.09)


def test_ece_weighs_each_bin_by_its_images():
    confidence = np.repeat([1.0, 0.6], [30, 70])
    correct = np.repeat([False, True, False], [30, 42, 28])  # the others are right as often as they say
    assert ece(confidence, correct) == pytest.approx(0.3)


def test_a_calibrated_model_has_the_ece_of_chance():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.3, 1, size=500)
    found = [ece(confidence, random.random(500) < confidence) for _ in range(50)]
    assert ece_by_chance(confidence, np.random.default_rng(1)) == pytest.approx(np.mean(found), abs=0.005)
    assert np.mean(found) > 0.02  # though nothing is wrong with it


@given(images=st.integers(1, 10_000), data=st.data())
def test_the_interval_of_an_accuracy_is_wilsons(images, data):
    right = data.draw(st.integers(0, images))
    low, high = accuracy_interval(right / images, images)
    expected = stats.binomtest(right, images).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low < high <= 1
    assert low - 1e-12 <= right / images <= high + 1e-12


@given(correct=arrays(bool, (50, 2)))
def test_a_paired_gain_is_the_difference_of_two_accuracies_inside_its_interval(correct):
    gain, low, high = paired_gain(correct[:, 0], correct[:, 1])
    assert gain == pytest.approx(correct[:, 0].mean() - correct[:, 1].mean())
    assert -1 <= low <= gain <= high <= 1
    assert low < high  # fifty images never show everything
    assert paired_gain(correct[:, 1], correct[:, 0]) == pytest.approx((-gain, -high, -low))


def test_a_paired_gain_of_many_images_has_nearly_the_normal_interval():
    correct = RNG.random((2, 5000)) < np.array([[0.9], [0.8]])
    _, low, high = paired_gain(*correct)
    difference = correct[0].astype(int) - correct[1].astype(int)
    assert (low, high) == pytest.approx(stats.norm.interval(0.95, difference.mean(), stats.sem(difference)), abs=0.001)


@pytest.mark.parametrize("images", [5, 20, 60])
def test_of_two_equally_good_models_hardly_one_in_forty_is_taken_for_the_better_one(images):
    wins = RNG.random((4000, 2, images)) < 0.15  # on which only one of both is right
    found = [paired_gain(first & ~second, second & ~first)[1] > 0 for first, second in wins]
    assert np.mean(found) < 0.035


def test_a_paired_gain_is_surer_than_two_accuracies_apart():
    before = np.arange(1000) < 900
    after = np.arange(1000) < 920  # the same images right, and twenty more
    gain, low, high = paired_gain(after, before)
    assert 0 < low < gain < high
    assert accuracy_interval(0.90, 1000)[1] > accuracy_interval(0.92, 1000)[0]


@pytest.mark.parametrize("runs", [2, 3, 5, 30])
def test_the_interval_of_a_mean_is_students(runs):
    values = RNG.random(runs)
    mean, half = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (mean - half, mean + half) == pytest.approx((expected.low, expected.high))


def test_a_single_run_shows_nothing_and_equal_runs_are_sure():
    assert mean_interval(np.array([0.97])) == (0.97, math.inf)
    assert mean_interval(np.array([0.97] * 3)) == pytest.approx((0.97, 0))


@pytest.mark.parametrize("planted", [0.25, 1.0, 3.0])
def test_a_planted_temperature_is_found(planted):
    honest = np.random.default_rng(0).normal(scale=2, size=(4000, 5))
    labels = (honest + np.random.default_rng(1).gumbel(size=honest.shape)).argmax(axis=1)  # drawn from softmax(honest)
    assert fit_temperature(honest * planted, labels) == pytest.approx(planted, rel=0.1)


@given(scale=st.floats(0.01, 300), count=st.integers(2, 40))
def test_the_temperature_is_the_best_of_the_grid(scale, count):
    random = np.random.default_rng(count)
    logits, labels = scale * random.normal(size=(count, 3)), random.integers(3, size=count)
    doubt = 1 / (count + 2)
    targets = (1 - doubt - doubt / 2) * np.eye(3)[labels] + doubt / 2

    def loss(temperature):
        return -(targets * log_softmax(logits / temperature, axis=1)).sum(axis=1).mean()

    best = min(map(loss, TEMPERATURES))
    assert loss(fit_temperature(logits, labels)) == pytest.approx(best, rel=1e-9)


def test_a_teacher_that_has_all_labels_right_is_not_given_boundless_confidence():
    labels = np.arange(100) % 10
    temperature = fit_temperature(3.0 * np.eye(10)[labels], labels)
    assert TEMPERATURES[0] < temperature < 1
    confidence = softmax(3.0 * np.eye(10)[:1], temperature).max()
    assert confidence == pytest.approx(101 / 102, abs=0.001)


def test_macro_f1_is_that_of_scikit_learn_and_a_class_that_never_occurs_does_not_count():
    assert macro_f1(PREDICTED, LABELS, 4) == pytest.approx(f1_score(LABELS, PREDICTED, average="macro"))
    assert macro_f1(PREDICTED, LABELS, 9) == macro_f1(PREDICTED, LABELS, 4)


def test_bins_of_confidence_hold_every_image_once():
    bins = reliability(PROBABILITIES.max(axis=1), PREDICTED == LABELS)
    assert sum(images for images, _, _ in bins) == len(LABELS)
    assert sum(images * right for images, _, right in bins) == pytest.approx((PREDICTED == LABELS).sum())
    assert [sure for _, sure, _ in bins] == sorted(sure for _, sure, _ in bins)


def test_a_bootstrap_interval_of_an_accuracy_is_about_the_binomial_one():
    right = PREDICTED == LABELS
    low, high = bootstrap_interval(lambda rows: float(right[rows].mean()), len(right), np.random.default_rng(0))
    assert (low, high) == pytest.approx(accuracy_interval(float(right.mean()), len(right)), abs=0.015)
