"""Every operation against Pillow's or torchvision's on real images, alone and side by side in one batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from noisy_student.core.torchvision_compat import torchvision
from noisy_student.training.augmentation.operations import (
    OPERATIONS,
    affine,
    crop_and_flip,
    cutout,
    jitter,
    randaugment,
    resized_crop,
)

FILL = 77
FACTORS = [0.0, 0.1, 0.55, 0.97, 1.0, 1.3, 1.9]
SIGNED_PIXELS = [-14, -3, 0, 5, 12]
PILLOW = {
    "identity": lambda image, _: image,
    "autocontrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "solarize": ImageOps.solarize,
    "posterize": lambda image, bits: ImageOps.posterize(image, int(bits)),
    "color": lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    "contrast": lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    "brightness": lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    "sharpness": lambda image, factor: ImageEnhance.Sharpness(image).enhance(factor),
}
STRENGTHS = {
    "identity": [0.0],
    "autocontrast": [0.0],
    "equalize": [0.0],
    "solarize": [0.0, 51.2, 128.0, 179.2, 256.0],
    "posterize": [4.0, 5.0, 6.0, 7.0, 8.0],
    "color": FACTORS,
    "contrast": FACTORS,
    "brightness": FACTORS,
    "sharpness": FACTORS,
    "rotate": [-30.0, -7.3, 0.0, 12.0, 27.0],
    "shear_x": [-0.3, -0.11, 0.0, 0.27],
    "shear_y": [-0.3, -0.11, 0.0, 0.27],
    "translate_x": SIGNED_PIXELS,
    "translate_y": SIGNED_PIXELS,
}


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """24 crops of scikit-learn's two photographs, resized to uint8 (24,3,32,30): not square, so no axis is mistaken."""
    crops = []
    for name in ("flower.jpg", "china.jpg"):
        whole = Image.fromarray(load_sample_image(name))
        for left in range(0, 600, 150):
            for top in range(0, 390, 130):
                crops.append(np.asarray(whole.crop((left, top, left + 140, top + 130)).resize((30, 32))))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="module", params=["color", "gray"])
def images(request, photographs, digits) -> torch.Tensor:
    """Photographs of three channels, or digits of one at 28x28."""
    if request.param == "color":
        return photographs
    large = [np.asarray(Image.fromarray(digit[..., 0]).resize((28, 28))) for digit in digits[0][:24]]
    return torch.from_numpy(np.stack(large))[:, None]


def operate(name: str, images: torch.Tensor, strength: float, fill: int = FILL) -> torch.Tensor:
    shape = (1, len(images))
    return randaugment(images, np.full(shape, OPERATIONS.index(name)), np.full(shape, float(strength)), fill)


def pillow(name: str, image: torch.Tensor, strength: float) -> torch.Tensor:
    array = image.permute(1, 2, 0).numpy()
    result = np.asarray(PILLOW[name](Image.fromarray(array[..., 0] if array.shape[2] == 1 else array), strength))
    return torch.from_numpy(result.reshape(array.shape).copy()).permute(2, 0, 1)


def on_a_plane(name: str, images: torch.Tensor, strength: float, fill: int) -> torch.Tensor:
    """torchvision's operation, the images lying on a plane of `fill` large enough that no edge of it comes in sight.

    On the bare image torchvision weighs the pixels of the outermost line by their coverage twice (the sample is already
    weighted when it is blended with the fill), which darkens or brightens a seam; away from edges that makes no
    difference.
    """
    functional = torchvision.transforms.v2.functional
    bilinear, margin = torchvision.transforms.InterpolationMode.BILINEAR, 40
    plane = torch.nn.functional.pad(images, (margin,) * 4, value=fill)
    if name == "rotate":
        moved = functional.rotate(plane, strength, bilinear, fill=fill)
    else:  # the center is the image's top left corner, as in torchvision's RandAugment
        slope = np.degrees(np.arctan(strength))
        shear = {"shear_x": [slope, 0.0], "shear_y": [0.0, slope]}.get(name, [0.0, 0.0])
        translate = {"translate_x": [int(strength), 0], "translate_y": [0, int(strength)]}.get(name, [0, 0])
        moved = functional.affine(plane, 0.0, translate, 1.0, shear, bilinear, fill=fill, center=[margin, margin])
    return moved[..., margin:-margin, margin:-margin]


@pytest.mark.parametrize("name", PILLOW)
def test_operation_is_level_for_level_pillows(name, images):
    for strength in STRENGTHS[name]:
        expected = torch.stack([pillow(name, image, strength) for image in images])
        assert torch.equal(operate(name, images, strength), expected), strength


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in PILLOW])
@pytest.mark.parametrize("fill", [0, FILL, 255])
def test_movement_is_torchvisions(name, images, fill):
    """Within one level on every pixel and the same on most: a round tangent such as 0.3 leads to many exact halves,
    which torchvision rounds to the even level and we round up, and single precision tips halves either way.
    """
    for strength in STRENGTHS[name]:
        expected = on_a_plane(name, images, strength, fill)
        difference = operate(name, images, strength, fill).int() - expected.int()
        assert difference.abs().max() <= 1, strength
        assert (difference == 0).float().mean() > 0.95, strength


@pytest.mark.parametrize("name", ["translate_x", "translate_y"])
def test_translation_by_whole_pixels_leaves_them_unchanged(name, images):
    axis = 3 if name == "translate_x" else 2
    moved = operate(name, images, 4)
    kept = images.shape[axis] - 4
    assert torch.equal(moved.narrow(axis, 4, kept), images.narrow(axis, 0, kept))
    assert (moved.narrow(axis, 0, 4) == FILL).all()


def test_every_image_goes_through_its_own_operations_whatever_its_neighbors_do(images):
    rng = np.random.default_rng(0)
    operation = rng.integers(len(OPERATIONS), size=(3, len(images)))
    strength = np.vectorize(lambda index: rng.choice(STRENGTHS[OPERATIONS[index]]))(operation)
    before = images.clone()
    together = randaugment(images, operation, strength, FILL)
    for i in range(len(images)):
        alone = images[i : i + 1]
        for index, value in zip(operation[:, i], strength[:, i], strict=True):
            alone = operate(OPERATIONS[index], alone, value)
        assert torch.equal(together[i : i + 1], alone)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["autocontrast", "equalize", "contrast", "sharpness", "color"])
@pytest.mark.parametrize("level", [0, 100, 255])
def test_flat_image_stays_as_it_is(name, level):
    flat = torch.full((2, 3, 5, 7), level, dtype=torch.uint8)
    assert torch.equal(operate(name, flat, 1.9), flat)


@given(
    name=st.sampled_from(list(PILLOW)),
    image=arrays(np.uint8, st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40))),
    which=st.integers(0, 6),
)
@settings(max_examples=100, deadline=None)
def test_any_image_comes_out_as_from_pillow(name, image, which):
    strength = STRENGTHS[name][which % len(STRENGTHS[name])]
    image = torch.from_numpy(image)
    assert torch.equal(operate(name, image[None], strength)[0], pillow(name, image, strength))


def amounts(count: int, which: int, value: float) -> np.ndarray:
    found = np.zeros((count, 6))
    found[:, which] = value
    return found


def test_affine_of_one_kind_is_the_operation_of_that_kind(images):
    assert torch.equal(affine(images, np.zeros((24, 6)), FILL), images)
    assert torch.equal(affine(images, amounts(24, 0, 12.0), FILL), operate("rotate", images, 12.0))
    assert torch.equal(affine(images, amounts(24, 4, 5), FILL), operate("translate_x", images, 5))
    assert torch.equal(affine(images, amounts(24, 5, -3), FILL), operate("translate_y", images, -3))


def test_affine_scales_about_the_center_and_shears_lines_apart():
    square = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    square[..., 5:15, 5:15] = 255
    larger, smaller = (affine(square, amounts(1, 3, value), 0).float() for value in (0.3, -0.3))
    area = square.float().mean()
    assert larger.mean() == pytest.approx(float(area) * np.exp(0.6), rel=0.05)
    assert smaller.mean() == pytest.approx(float(area) * np.exp(-0.6), rel=0.05)
    assert torch.allclose(larger, larger.flip(2).flip(3), atol=2)
    for axis, which in ((3, 1), (2, 2)):
        sheared = affine(square, amounts(1, which, 0.3), 0).float()
        assert sheared.mean() == pytest.approx(float(area), rel=0.02)
        along = torch.arange(20.0).view([-1 if dim == axis else 1 for dim in range(4)])
        centers = (sheared * along).sum(axis) / sheared.sum(axis).clamp(min=1)
        ends = centers.flatten()[[6, 13]]
        assert (ends[0] - ends[1]).abs() == pytest.approx(0.3 * 7, abs=0.3)


@pytest.mark.parametrize("factor", [0.1, 0.7, 1.0, 1.6])
@pytest.mark.parametrize(("place", "name"), [(0, "brightness"), (1, "contrast"), (2, "color")])
def test_jitter_in_one_way_is_the_operation_of_that_name(images, place, name, factor):
    factors = np.ones((24, 3))
    factors[:, place] = factor
    difference = jitter(images, factors).int() - operate(name, images, factor).int()
    assert difference.abs().max() <= 1


def test_each_image_goes_through_affine_and_jitter_by_its_own_amount(images):
    rng = np.random.default_rng(0)
    amount, factor = rng.uniform(-1, 1, (24, 6)) * [30, 0.3, 0.3, 0.3, 9, 9], rng.uniform(0.2, 1.8, (24, 3))
    for each in (lambda i: affine(images[i], amount[i], FILL), lambda i: jitter(images[i], factor[i])):
        alone = torch.cat([each(slice(k, k + 1)) for k in range(24)])
        assert torch.equal(each(slice(0, 24)), alone)


def test_a_crop_cuts_each_padded_image_at_its_own_place(images):
    rng = np.random.default_rng(1)
    shift = rng.integers(-6, 7, size=(len(images), 2))
    mirrored = rng.random(len(images)) < 0.5
    h, w = images.shape[2:]
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (6, 6), (6, 6)), constant_values=FILL)
    for i, result in enumerate(crop_and_flip(images, shift, mirrored, FILL).numpy()):
        top, left = shift[i] + 6
        cut = padded[i, :, top : top + h, left : left + w]
        assert np.array_equal(result, cut[..., ::-1] if mirrored[i] else cut)


@pytest.mark.parametrize("side", [1, 8, 40])
def test_a_cutout_fills_a_square_around_its_center_and_nothing_else(images, side):
    center = np.random.default_rng(2).integers((0, 0), images.shape[2:], size=(len(images), 2))
    for i, result in enumerate(cutout(images, center, side, FILL).numpy()):
        expected = images[i].numpy().copy()
        top, left = center[i] - side // 2
        expected[:, max(0, top) : top + side, max(0, left) : left + side] = FILL
        assert np.array_equal(result, expected)
        assert (result[:, center[i, 0], center[i, 1]] == FILL).all()


def test_a_resized_crop_is_torchvisions(images):
    height, width = images.shape[2:]
    box = np.array([[0, 0, height, width], [5, 3, 20, 24], [height - 7, width - 9, 7, 9], [4, 0, 1, 1]] * 6)
    crop = torchvision.transforms.v2.functional.resized_crop
    expected = torch.stack(
        [crop(image, *each.tolist(), [height, width]) for image, each in zip(images, box, strict=True)]
    )
    plain = np.zeros(len(images), bool)
    difference = (resized_crop(images, box, plain).int() - expected.int()).abs()
    assert difference.max() <= 1
    assert torch.equal(resized_crop(images, box, plain)[0], images[0])
    mirrored = resized_crop(images, box, ~plain)
    assert torch.equal(mirrored, resized_crop(images, box, plain).flip(3))
