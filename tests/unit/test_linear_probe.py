import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from noisy_student.models.classifier import new_classifier
from noisy_student.models.prediction import predict_logits
from noisy_student.training.linear_probe import PENALTIES, choose_penalty, linear_probe, solve_head


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


def test_noise_gets_a_stronger_penalty_than_signal(rng):
    labels = np.arange(120) % 3
    noise = rng.normal(size=(120, 40))
    signal = noise.copy()
    signal[np.arange(120), labels] += 20
    assert choose_penalty(noise, labels) == min(PENALTIES)
    assert choose_penalty(signal, labels) > min(PENALTIES)


def test_a_class_of_one_image_leaves_nothing_out(rng):
    assert choose_penalty(rng.normal(size=(5, 4)), np.array([0, 0, 0, 0, 1])) in PENALTIES


def test_a_solved_head_predicts_the_labels_and_leaves_the_body_as_it_is(make_split, runtime):
    digits = make_split(0, 90)
    classifier = new_classifier("cnn_8", digits)
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    solve_head(classifier, digits, runtime)
    changed = {name for name, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {"network.classifier.weight", "network.classifier.bias"}
    logits = predict_logits(classifier, digits.images(), runtime)
    assert (logits.argmax(axis=1) == digits.labels).mean() > 0.95
    assert all(parameter.requires_grad and not parameter.is_inference() for parameter in classifier.parameters())
