import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from noisy_student.training.augmentation.mixing import MASKS, mix


def batch(count: int, channels: int = 1, side: int = 8) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(256, size=(count, channels, side, side), dtype=np.uint8))
    targets = torch.from_numpy(rng.dirichlet([1, 1, 1], count)).float()
    return images, targets, torch.from_numpy(rng.dirichlet([1] * count)).float()


@given(
    kind=st.sampled_from(sorted(MASKS)), seed=st.integers(0, 50), height=st.integers(3, 20), width=st.integers(3, 20)
)
def test_a_mask_keeps_about_the_share_that_was_drawn(kind, seed, height, width):
    share = np.random.default_rng(seed).random(40)
    mask = np.broadcast_to(MASKS[kind](np.random.default_rng(seed), share, height, width), (40, height, width))
    assert mask.min() >= 0
    assert mask.max() <= 1
    kept = mask.mean(axis=(1, 2))
    if kind == "cutmix":  # the rectangle may stand over the edge, and its sides are whole pixels
        assert (kept >= share - (height + width + 1) / (height * width)).all()
    else:
        assert np.allclose(kept, share, atol=0.51 / (height * width))


@pytest.mark.parametrize("kind", MASKS)
def test_the_loss_of_a_mixture_is_the_mixture_of_the_losses(kind):
    images, targets, weights = batch(16)
    mixed, new_targets, new_weights = mix(images, targets, weights, kind, 1.0, np.random.default_rng(3))
    draw = np.random.default_rng(3)
    partner, share = draw.permutation(16), draw.beta(1, 1, size=16)
    stays = np.broadcast_to(MASKS[kind](draw, share, 8, 8), (16, 8, 8)).mean(axis=(1, 2))
    logits = F.log_softmax(torch.randn(16, 3, generator=torch.manual_seed(0)), dim=1)
    kept, other = torch.from_numpy(stays).float() * weights, torch.from_numpy(1 - stays).float() * weights[partner]
    expected = -(kept * (targets * logits).sum(1) + other * (targets[partner] * logits).sum(1)).sum()
    assert torch.allclose(-(new_weights * (new_targets * logits).sum(1)).sum(), expected, rtol=1e-4)
    assert torch.allclose(new_targets.sum(dim=1), torch.ones(16))
    assert mixed.shape == images.shape
    assert not torch.equal(mixed, images)


@pytest.mark.parametrize("kind", ["cutmix", "fmix"])
def test_each_pixel_is_one_of_the_two_images(kind):
    images, targets, weights = batch(16, 3)
    mixed, _, _ = mix(images, targets, weights, kind, 1.0, np.random.default_rng(1))
    partner = np.random.default_rng(1).permutation(16)
    assert ((mixed == images) | (mixed == images[partner])).all()
    same = (mixed == images).all(dim=1)  # all channels of a pixel go together
    assert torch.equal(same, (mixed[:, 0] == images[:, 0]) & same)


def test_an_image_of_which_all_stays_is_itself():
    for mask in MASKS.values():
        assert np.all(mask(np.random.default_rng(0), np.ones(4), 8, 8) == 1)


def test_images_meet_where_alpha_is_large_and_stay_alone_where_it_is_small():
    images, targets, weights = batch(64)
    _, half, _ = mix(images, targets, weights, "mixup", 100.0, np.random.default_rng(0))
    _, alone, _ = mix(images, targets, weights, "mixup", 0.01, np.random.default_rng(0))
    distances = [min((a - b).abs().sum() for b in targets) for a in alone]
    assert np.median(distances) < 0.05
    assert (half - targets).abs().sum() > 5
