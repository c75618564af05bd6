import pytest
import torch
from torch import nn

from noisy_student.models.classifier import Classifier
from noisy_student.training.state import TrainState


class Scaled(nn.Module):
    """Convolution, normalization and a parameter without dimensions, as some of timm's models have."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.gain = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Parameter(torch.tensor(0.5))
        self.classifier = nn.Linear(4, 4)

    def forward(self, pixels):
        return self.classifier((self.gain * self.norm(self.conv(pixels))).mean(dim=(2, 3)))


def fresh(recipe, fused=True) -> TrainState:
    torch.manual_seed(0)
    return TrainState.start(Classifier(Scaled(), torch.zeros(1), torch.ones(1)).train(), recipe.training, fused)


def advance(state: TrainState, steps: int) -> None:
    for _ in range(steps):
        images = torch.randint(0, 256, (8, 1, 6, 6), generator=torch.Generator().manual_seed(state.step))
        loss = state.classifier(images).square().sum()
        loss.backward()
        state.losses[state.step] = loss.detach()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.ema.update(0.9, state.step)
        state.step += 1


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_a_restored_state_goes_on_as_the_one_that_was_dumped(make_recipe, optimizer, fused):
    recipe = make_recipe(optimizer=optimizer, steps=9, learning_rate=0.01)
    whole, first, second = (fresh(recipe, fused) for _ in range(3))
    advance(whole, 9)
    advance(first, 4)
    tensors, rest = first.dump()
    second.restore({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, rest)
    assert second.step == 4
    advance(second, 5)
    expected, found = whole.dump()[0], second.dump()[0]
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_restored_tensors_keep_the_memory_format_of_the_weights(make_recipe):
    first, second = fresh(make_recipe()), fresh(make_recipe())
    for state in (first, second):
        state.classifier.to_memory_format(torch.channels_last)
    advance(first, 1)
    second.restore(*first.dump())
    weight = second.classifier.network.conv.weight
    assert second.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
