import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from noisy_student.models.classifier import Classifier
from noisy_student.training.optim import EMA, make_optimizer, set_learning_rate


def rates(training) -> list[float]:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}], lr=99.0)
    found = []
    for step in range(training.steps):
        set_learning_rate(optimizer, training, step)
        assert len({group["lr"] for group in optimizer.param_groups}) == 1
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_learning_rate_rises_in_a_line_to_the_highest_and_falls_in_a_cosine_towards_zero(make_recipe):
    found = rates(make_recipe(steps=100, warmup=0.1, learning_rate=0.5).training)
    assert found[10] == max(found) == 0.5
    assert np.allclose(np.diff(found[:11]), 0.5 / 11)
    assert found[55] == pytest.approx(0.25)
    assert (np.diff(found[10:]) < 0).all()
    assert 0 < found[-1] < 0.5 * 0.001


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 0.9), (3, 0.5), (7, 0.0)])
def test_every_step_of_a_short_run_has_a_rate(make_recipe, steps, warmup):
    found = rates(make_recipe(steps=steps, warmup=warmup, learning_rate=0.5).training)
    assert all(0 < rate <= 0.5 for rate in found)
    assert warmup or found[0] == 0.5


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_only_weights_decay_and_every_parameter_is_trained(make_recipe, optimizer):
    layers = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Linear(2, 3))
    classifier = Classifier(layers, torch.zeros(1), torch.ones(1))
    training = make_recipe(optimizer=optimizer, weight_decay=0.1).training
    decayed, kept = make_optimizer(classifier, training, fused=True).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0)
    assert {parameter.ndim for parameter in decayed["params"]} == {2, 4}
    assert {parameter.ndim for parameter in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(classifier.parameters()))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_muon_steps_hidden_weights_equally_far_in_every_direction_and_all_else_as_adamw(make_recipe, layout):
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(8, 3)]
    training = make_recipe(learning_rate=0.1, weight_decay=0, momentum=0.9).training
    models = [Classifier(torch.nn.Sequential(*copy.deepcopy(layers)), torch.zeros(3), torch.ones(3)) for _ in range(2)]
    images = torch.randint(0, 256, (16, 3, 3, 3), dtype=torch.uint8)
    for model, name in zip(models, ("muon", "adamw"), strict=True):
        options = training.model_copy(update={"optimizer": name})
        optimizer = make_optimizer(model.to_memory_format(layout), options, fused=True)
        F.cross_entropy(model(images), torch.arange(16) % 3).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert all(weight.grad is None for weight in model.parameters())
    moved = (models[0].network[0].weight - layers[0].weight).detach().reshape(8, 27)
    lengths = torch.linalg.svdvals(moved) / 0.1 / (0.2 * 27**0.5)
    assert ((lengths > 0.5) & (lengths < 1.5)).all()
    for number in (1, 3):
        assert torch.equal(models[0].network[number].weight, models[1].network[number].weight)


def averaged(decay: float, weights: list[float]) -> float:
    layer = torch.nn.Linear(1, 1, bias=False)
    classifier = Classifier(layer, torch.zeros(1), torch.ones(1))
    layer.weight.data.fill_(weights[0])
    average = EMA(classifier)
    for step, weight in enumerate(weights[1:]):
        layer.weight.data.fill_(weight)
        average.update(decay, step)
    assert layer.weight.item() == weights[-1]  # the trained weights are left alone
    return average.classifier.network.weight.item()


def test_averaged_weights_without_decay_are_the_last_weights():
    assert averaged(0.0, [1.0, 5.0, -0.25]) == -0.25


def test_averaged_weights_move_by_one_minus_decay_and_by_more_at_the_start():
    assert averaged(0.05, [1.0, 2.0]) == pytest.approx(1.95)
    assert averaged(0.999, [1.0, 2.0]) == pytest.approx(1.9)
    steady = averaged(0.5, [0.0, *[0.0] * 50, 1.0])
    assert steady == pytest.approx(0.5)
