from copy import deepcopy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from noisy_student.models.classifier import new_classifier
from noisy_student.models.features import features_of
from noisy_student.models.prediction import predict_logits
from noisy_student.store.selection import Selection
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.linear_probe import PENALTIES, PoolFeatures, choose_penalty, linear_probe, solve_head


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def clusters(rng):
    """Features (90,200) of three classes that overlap a little, and their labels."""
    labels = np.arange(90) % 3
    return (rng.normal(size=(90, 200)) + 0.4 * labels[:, None]).astype(np.float32), labels


def test_the_solution_is_the_logistic_regression_of_standardized_features(clusters):
    features, labels = clusters
    weight, bias = linear_probe(features, labels)
    standardized = (features - features.mean(axis=0)) / features.std(axis=0)
    expected = LogisticRegression(C=choose_penalty(standardized, labels), max_iter=1000, tol=1e-8)
    expected.fit(standardized, labels)
    np.testing.assert_allclose(features @ weight.T + bias, expected.decision_function(standardized), atol=0.05)


def test_two_classes_have_two_logits(clusters):
    labels = clusters[1] // 2
    features = clusters[0] + 2 * labels[:, None].astype(np.float32)
    weight, bias = linear_probe(features, labels)
    assert (weight.shape, bias.shape) == ((2, 200), (2,))
    assert ((features @ weight.T + bias).argmax(axis=1) == labels).mean() > 0.9


def test_pool_images_with_the_true_labels_make_a_better_head(rng):
    labels = np.arange(300) % 3
    features = (rng.normal(size=(300, 50)) + 0.35 * np.eye(3)[labels] @ rng.normal(size=(3, 50))).astype(np.float32)
    few, pool, test = slice(0, 15), slice(15, 150), slice(150, 300)
    true = PoolFeatures(features[pool], np.eye(3)[labels[pool]], np.full(135, 0.1))

    def accuracy(of_pool):
        weight, bias = linear_probe(features[few], labels[few], of_pool)
        return ((features[test] @ weight.T + bias).argmax(axis=1) == labels[test]).mean()

    assert accuracy(true) > accuracy(None) + 0.1


def test_a_pool_image_with_a_soft_target_counts_for_each_class_by_its_share(clusters):
    features, labels = clusters
    one = features[:1]
    twice = np.concatenate([one, one]), np.eye(3)[[0, 1]], np.array([0.75, 0.25])
    hard = linear_probe(features, labels, PoolFeatures(*twice))
    soft = linear_probe(features, labels, PoolFeatures(one, np.array([[0.75, 0.25, 0.0]]), np.ones(1)))
    other = linear_probe(features, labels, PoolFeatures(one, np.array([[0.0, 0.0, 1.0]]), np.ones(1)))
    logits, same, different = (features @ weight.T + bias for weight, bias in (hard, soft, other))
    np.testing.assert_allclose(same, logits, atol=0.1)
    assert np.abs(different - logits).max() > 0.3


def test_noise_gets_a_stronger_penalty_than_signal(rng):
    labels = np.arange(120) % 3
    noise = rng.normal(size=(120, 40))
    signal = noise.copy()
    signal[np.arange(120), labels] += 20
    assert choose_penalty(noise, labels) == min(PENALTIES)
    assert choose_penalty(signal, labels) > min(PENALTIES)


def test_a_class_of_one_image_leaves_nothing_out(rng):
    assert choose_penalty(rng.normal(size=(5, 4)), np.array([0, 0, 0, 0, 1])) in PENALTIES


def test_a_class_of_one_image_does_not_choose(rng):
    labels = np.append(np.arange(120) % 3, 3)
    noise = rng.normal(size=(121, 40))
    assert choose_penalty(noise, labels) == choose_penalty(noise[:120], labels[:120]) == min(PENALTIES)


def test_a_solved_head_predicts_the_labels_and_leaves_the_body_as_it_is(make_split, runtime):
    digits = make_split(0, 90)
    classifier = new_classifier("cnn_8", digits)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    solve_head(classifier, digits.labels, features_of(deepcopy(classifier), digits.selection(), runtime))
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in classifier.parameters())
    changed = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"network.classifier.weight", "network.classifier.bias"}
    logits = predict_logits(classifier, digits.images(), runtime)
    assert (logits.argmax(axis=1) == digits.labels).mean() > 0.95


def test_the_whole_pool_weighs_as_much_as_it_is_told(make_split, runtime, monkeypatch):
    digits, found = make_split(0, 90), []
    classifier = new_classifier("cnn_8", digits)

    def caught(features, labels, pool):
        found.append(pool)
        return np.zeros((3, features.shape[1]), np.float32), np.zeros(3, np.float32)

    monkeypatch.setattr("noisy_student.training.linear_probe.linear_probe", caught)
    monkeypatch.setattr("noisy_student.training.linear_probe.MAX_POOL", 25)
    split = make_split(400, 450)
    seen, in_pool = (features_of(classifier, each.selection(), runtime) for each in (digits, split))
    chosen = Selection([in_pool], np.arange(50))
    pool = LabeledImages(split.selection(), np.eye(3)[split.labels], np.arange(50) % 3 + 1, features=chosen)
    solve_head(classifier, digits.labels, seen, pool, pool_weight=2.0)
    assert np.array_equal(found[0].features, in_pool[::2].astype(np.float32))
    assert len(found[0].targets) == 25
    assert found[0].weights.sum() == pytest.approx(2 * len(digits))
    assert found[0].weights[1] / found[0].weights[0] == 3  # images 2 and 0 of the pool
