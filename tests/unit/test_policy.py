"""The draw of a batch and its application: what each option changes, and that chance comes from the generator alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from noisy_student.core.config import overlay, validated
from noisy_student.core.errors import UserError
from noisy_student.core.torchvision_compat import torchvision
from noisy_student.training.augmentation.operations import OPERATIONS
from noisy_student.training.augmentation.policy import (
    NoiseParams,
    apply,
    augment,
    draw,
    draw_boxes,
    scales,
    strengths,
)

STUDIES = Path(__file__).parents[2] / "benchmarks" / "studies"
OTHERS = ("fill", "mix", "mix_alpha", "dropout", "stochastic_depth")
OPTIONS = [name for name in NoiseParams.model_fields if name not in OTHERS]  # those that change single images
HIGHEST = {
    name: limit.le for name in OPTIONS for limit in NoiseParams.model_fields[name].metadata if hasattr(limit, "le")
}
STRONG = {name: highest / 3 for name, highest in HIGHEST.items()}
STRONG |= {"operations": 2, "magnitude": 27.0, "crop": 2, "flip": True, "cutout": 0.4, "fill": 128}
DRAWN = {  # the arrays of a draw that an option changes; other options change the one of their name
    "operations": {"operation", "strength"},
    "magnitude": {"strength"},
    "crop": {"shift"},
    "resized_crop": {"box"},
    "flip": {"mirrored"},
    "cutout": set(),
}
TORCHVISION = {
    name: "".join(word.capitalize() for word in name.split("_")) for name in OPERATIONS if name != "autocontrast"
}


def make(**values) -> NoiseParams:
    return overlay(NoiseParams.none(), values, "noise")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def images(digits) -> torch.Tensor:
    """240 real digits, uint8 (240,1,8,8)."""
    return torch.from_numpy(digits[0][:240]).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("size", [(32, 32), (28, 96)])
def test_strengths_at_every_magnitude_are_those_of_torchvisions_randaugment(size):
    space = torchvision.transforms.v2.RandAugment._AUGMENTATION_SPACE
    for magnitude in range(31):
        found = dict(zip(OPERATIONS, strengths(float(magnitude), size), strict=True))
        for name, theirs in TORCHVISION.items():
            if theirs not in space:  # an operation that torchvision does not have
                continue
            values, signed = space[theirs]
            if (values := values(31, *size)) is None:  # identity and equalize have no strength
                continue
            value = float(values[magnitude])
            if name.startswith("translate"):
                value = int(value)  # as torchvision does when it applies it
            if name == "solarize":
                value *= 256  # theirs is a fraction of the range
            rest = 1 if name in ("color", "contrast", "brightness", "sharpness") else 0
            expected = [rest - value, rest + value] if signed else [value, value]
            assert found[name] == pytest.approx(expected, abs=1e-4), (name, magnitude)


def test_magnitude_zero_changes_only_what_has_no_strength(images):
    params = make(operations=1, magnitude=0.0)
    drawn = draw(params, len(images), (8, 8), rng())
    out = apply(images, drawn, params)
    has_strength = ~np.isin(
        drawn.operation[0],
        [at for at, name in enumerate(OPERATIONS) if name not in scales(8, 8) and name != "identity"],
    )
    assert torch.equal(out[has_strength], images[has_strength])


def test_all_off_returns_the_images_unchanged(images):
    assert torch.equal(augment(images, NoiseParams.none(), rng()), images)


@pytest.mark.parametrize("option", [name for name in OPTIONS if name != "magnitude"])
def test_each_option_alone_changes_most_images(images, option):
    alone = make(**{option: STRONG[option]}, magnitude=9.0, fill=128)
    assert (augment(images, alone, rng()) != images).flatten(1).any(1).float().mean() > 0.4


@pytest.mark.parametrize("option", OPTIONS)
def test_switching_one_option_off_changes_the_result_and_no_other_option_s_draw(images, option):
    with_it, without = make(**STRONG), make(**{**STRONG, option: getattr(NoiseParams.none(), option)})
    assert not torch.equal(augment(images, with_it, rng()), augment(images, without, rng()))
    one, other = draw(with_it, 50, (8, 8), rng()), draw(without, 50, (8, 8), rng())
    same = {name: np.array_equal(getattr(one, name), getattr(other, name)) for name in vars(one)}
    assert {name for name, equal in same.items() if not equal} == DRAWN.get(option, {option})


def test_model_noise_leaves_the_images_alone(images):
    params = make(**STRONG)
    silent = make(**STRONG, dropout=0.5, stochastic_depth=0.2)
    assert torch.equal(augment(images, params, rng()), augment(images, silent, rng()))


def test_same_generator_state_gives_the_same_bytes_and_another_seed_others(images):
    params, before = make(**STRONG), images.clone()
    first = augment(images, params, rng(1))
    assert torch.equal(first, augment(images, params, rng(1)))
    assert not torch.equal(first, augment(images, params, rng(2)))
    assert torch.equal(images, before)


def test_global_generators_of_torch_and_numpy_play_no_part(images):
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        results.append(augment(images, make(**STRONG), rng()))
    assert torch.equal(*results)


def test_copies_of_one_image_become_different_images(images):
    copies = images[:1].expand(200, -1, -1, -1)
    distinct = {image.numpy().tobytes() for image in augment(copies, make(**STRONG), rng())}
    assert len(distinct) > 190


def test_operations_are_drawn_evenly_and_apart_in_every_slot():
    drawn = draw(make(operations=3, magnitude=9.0), 500 * len(OPERATIONS), (8, 8), rng())
    for slot in drawn.operation:
        assert np.abs(np.bincount(slot, minlength=len(OPERATIONS)) - 500).max() < 5 * np.sqrt(500)
    assert (drawn.operation[0] == drawn.operation[1]).mean() == pytest.approx(1 / len(OPERATIONS), abs=0.02)
    rotations = drawn.strength[drawn.operation == OPERATIONS.index("rotate")]
    assert (rotations > 0).mean() == pytest.approx(0.5, abs=0.06)
    assert set(np.abs(rotations)) == {9.0}


def test_crop_flip_and_cutout_are_drawn_over_their_whole_range():
    drawn = draw(make(**STRONG), 5000, (8, 5), rng())
    assert np.unique(drawn.shift).tolist() == [-2, -1, 0, 1, 2]
    assert drawn.mirrored.mean() == pytest.approx(0.5, abs=0.04)
    assert drawn.center.min(0).tolist() == [0, 0]
    assert drawn.center.max(0).tolist() == [7, 4]


@pytest.mark.parametrize("rows", [slice(0, 1), slice(17, 90), np.array([200, 3, 3])])
def test_result_of_an_image_depends_on_its_own_row_alone(images, rows):
    params = make(**STRONG)
    drawn = draw(params, len(images), (8, 8), rng())
    index = torch.arange(len(images))[rows]
    assert torch.equal(apply(images[index], drawn.rows(rows), params), apply(images, drawn, params)[index])


def test_large_batch_is_worked_off_in_parts_with_the_same_result(images, monkeypatch):
    params = make(**STRONG)
    whole = augment(images, params, rng())
    monkeypatch.setattr(
        "noisy_student.training.augmentation.policy.CPU_VALUES", 7 * 64 + 5
    )  # seven images at once, the last part smaller
    assert torch.equal(augment(images, params, rng()), whole)


def test_memory_layout_of_the_images_plays_no_part(images):
    color = images.expand(-1, 3, -1, -1)
    last = color.contiguous(memory_format=torch.channels_last)
    params = make(**STRONG)
    assert torch.equal(augment(last, params, rng()), augment(color.contiguous(), params, rng()))


@pytest.mark.parametrize("channels", [1, 3])
def test_apply_never_reads_back_from_the_device(channels):
    """On torch's meta device, which knows shapes and no values, whatever depends on a value would raise."""
    params = make(**STRONG | {"operations": 5})
    shape = (400, channels, 9, 8)
    drawn = draw(params, 400, (9, 8), rng())
    assert set(drawn.operation.flatten()) == set(range(len(OPERATIONS)))
    out = apply(torch.empty(shape, dtype=torch.uint8, device="meta"), drawn, params)
    assert (out.dtype, tuple(out.shape), out.device.type) == (torch.uint8, shape, "meta")


@given(
    shape=st.tuples(st.integers(0, 5), st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
    operations=st.integers(0, 16),
    magnitude=st.floats(0, 30),
    crop=st.integers(0, 40),
    flip=st.booleans(),
    cutout=st.floats(0, 1),
    affine=st.floats(0, 30),
    jitter=st.floats(0, 30),
    fill=st.integers(0, 255),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_noise_on_any_images_gives_images(
    shape, operations, magnitude, crop, flip, cutout, affine, jitter, fill, seed, data
):
    images = torch.from_numpy(data.draw(arrays(np.uint8, shape)))
    crop = min(crop, min(shape[2:]) - 1)
    options = {"crop": crop, "flip": flip, "cutout": cutout, "affine": affine, "jitter": jitter, "fill": fill}
    params = make(operations=operations, magnitude=magnitude, **options)
    out = augment(images, params, rng(seed))
    assert (out.dtype, tuple(out.shape), out.device) == (torch.uint8, shape, images.device)
    assert np.isfinite(draw(params, 5, shape[2:], rng(seed)).strength).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("magnitude", 31.0),
        ("operations", 17),
        ("operations", 1.5),
        ("cutout", 1.1),
        ("fill", 256),
        ("dropout", 1.0),
        ("stochastic_depth", -0.1),
        ("crop", -1),
        ("flip", "yes"),
        ("mixup", 0.2),
    ],
)
def test_value_out_of_range_is_refused_by_its_key(key, value):
    with pytest.raises(UserError, match=rf"noise\.{key}"):
        validated(NoiseParams, {**NoiseParams.none().model_dump(), key: value}, "noise")


def test_crop_as_large_as_the_image_is_refused(images):
    with pytest.raises(UserError, match=r"noise\.crop was 8 for images of 8x8"):
        augment(images, make(crop=8), rng())


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 1, 8, 8), torch.float32), ((2, 2, 8, 8), torch.uint8), ((2, 8, 8), torch.uint8)]
)
def test_images_of_another_type_are_refused(shape, dtype):
    wrong = torch.zeros(shape, dtype=dtype)
    drawn = draw(NoiseParams.none(), 2, (8, 8), rng())
    with pytest.raises(ValueError, match="takes uint8 images"):
        apply(wrong, drawn, NoiseParams.none())


def test_draw_for_another_number_of_images_is_refused(images):
    with pytest.raises(ValueError, match="drawn for 3 images and given 240"):
        apply(images, draw(NoiseParams.none(), 3, (8, 8), rng()), NoiseParams.none())


def test_weak_noise_is_crops_and_flip_alone():
    weak = make(**STRONG, mix="mixup", dropout=0.5, stochastic_depth=0.5).weak()
    assert weak == NoiseParams.none().model_copy(
        update={key: STRONG[key] for key in ("crop", "resized_crop", "flip", "fill")}
    )


@pytest.mark.parametrize("size", [(224, 224), (28, 28)])
def test_parts_of_an_image_lie_inside_it_and_have_the_share_and_ratio_of_torchvisions(size):
    boxes = draw_boxes(0.25, 5000, size, rng())
    top, left, height, width = boxes.T
    assert (boxes[:, :2] >= 0).all()
    assert (top + height <= size[0]).all()
    assert (left + width <= size[1]).all()
    crop = torchvision.transforms.v2.RandomResizedCrop(8, scale=(0.25, 1.0))
    torch.manual_seed(0)
    theirs = [crop.make_params([torch.zeros(1, *size)]) for _ in range(2000)]
    for mine, name in ((height, "height"), (width, "width"), (top, "top"), (left, "left")):
        reference = np.array([each[name] for each in theirs])
        assert abs(mine.mean() - reference.mean()) < 4 * reference.std() / np.sqrt(2000) + 1
        assert np.allclose(
            np.quantile(mine, [0.1, 0.5, 0.9]), np.quantile(reference, [0.1, 0.5, 0.9]), atol=0.06 * max(size)
        )
