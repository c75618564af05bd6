"""Models by name: shapes, rates, weights and refusals; images and weights are random, a batch is two images."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from noisy_student.core.errors import UserError
from noisy_student.models import networks, registry

OWN = ["mlp", "mlp_32", "cnn", "cnn_8", "wrn_10_1", "wrn_16_2"]
LIBRARIES = ["torchvision/alexnet", "torchvision/vgg11", "torchvision/resnet18", "torchvision/efficientnet_b0"]
LIBRARIES += ["timm/resnet18", "timm/efficientnet_b0"]
DIGITS = (1, (28, 28))
COLOUR = (3, (32, 32))


def build(name, channels=1, image_size=(28, 28), dropout=0.0, stochastic_depth=0.0, seed=0):
    torch.manual_seed(seed)
    return registry.build(name, channels, 10, image_size, dropout, stochastic_depth)


def batch(channels=1, image_size=(28, 28), n=2):
    return torch.randn(n, channels, *image_size, generator=torch.Generator().manual_seed(1))


def stochastic_depths(model):
    return [module.p for module in model.modules() if type(module).__name__ == "StochasticDepth"]


@pytest.mark.parametrize(("channels", "image_size"), [DIGITS, COLOUR, (3, (20, 30)), (1, (5, 6))])
@pytest.mark.parametrize("name", OWN)
def test_own_networks_learn_from_images_of_any_size(name, channels, image_size):
    takes_a_step(build(name, channels, image_size, dropout=0.1), batch(channels, image_size))


@pytest.mark.parametrize(("channels", "image_size"), [DIGITS, COLOUR])
@pytest.mark.parametrize("name", LIBRARIES)
def test_library_models_learn_from_small_images(name, channels, image_size):
    takes_a_step(build(name, channels, image_size), batch(channels, image_size))


def takes_a_step(model, images):
    labels = torch.tensor([3, 7])
    images = images.to(memory_format=torch.channels_last)
    logits = model.to(memory_format=torch.channels_last)(images)
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    nn.functional.cross_entropy(logits, labels).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    first = next(model.parameters()).grad
    assert first.isfinite().all()
    assert first.any()  # the gradient has come all the way back


def test_a_classifier_that_is_a_convolution_and_an_image_that_is_not_square():
    assert build("torchvision/squeezenet1_1", 3, (16, 40))(batch(3, (16, 40))).shape == (2, 10)
    assert build("torchvision/squeezenet1_1", 3, (16, 40)).size == (17, 40)


@pytest.mark.parametrize("name", ["cnn_8", "wrn_10_1", "torchvision/efficientnet_b0", "timm/resnet18"])
def test_each_rate_draws_anew_in_training_and_does_nothing_in_eval(name):
    images = batch(n=4)
    quiet = build(name)
    for module in quiet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts branches at 0, and then nobody sees whether one is dropped
    assert torch.equal(quiet(images), quiet(images))  # in training mode: with both rates 0 nothing is drawn
    weights = {key: value.clone() for key, value in quiet.state_dict().items()}
    expected = quiet.eval()(images)
    for rates in ({"dropout": 0.5}, {"stochastic_depth": 0.5}):
        noisy = build(name, **rates)
        noisy.load_state_dict(weights)
        assert torch.equal(noisy.eval()(images), expected)
        noisy.train()
        torch.manual_seed(2)
        first, second = noisy(images), noisy(images)
        assert not torch.equal(first, second)
        torch.manual_seed(2)
        assert torch.equal(noisy(images), first)


@pytest.mark.parametrize("name", ["mlp", "torchvision/resnet18", "torchvision/alexnet", "torchvision/squeezenet1_1"])
def test_dropout_stands_before_the_classifier_even_where_a_library_has_none(name):
    model = build(name, dropout=0.3)
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout) and module.p] != []
    torch.manual_seed(2)
    assert not torch.equal(model(batch()), model(batch()))


@pytest.mark.parametrize(
    ("name", "branches"),
    [("cnn", 2), ("wrn_10_1", 3), ("wrn_28_2", 12), ("torchvision/efficientnet_b0", 16)],
)
def test_survival_decays_linearly_with_depth(name, branches):
    rates = stochastic_depths(build(name, stochastic_depth=0.2))
    assert rates == pytest.approx([0.2 * depth / branches for depth in range(1, branches + 1)])


def test_stochastic_depth_drops_whole_images_and_keeps_the_mean():
    layer = networks.StochasticDepth()
    layer.p = 0.3
    torch.manual_seed(0)
    out = layer(torch.ones(20_000, 2, 2, 1))
    per_image = out.flatten(1)
    assert torch.equal(per_image.min(1).values, per_image.max(1).values)
    assert per_image.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert (per_image[:, 0] == 0).float().mean().item() == pytest.approx(0.3, abs=0.02)  # 6 standard errors
    assert torch.equal(layer.eval()(torch.ones(5, 2, 2, 1)), torch.ones(5, 2, 2, 1))


@pytest.mark.parametrize(
    ("name", "noise", "rates"),
    [
        ("torchvision/resnet18", "stochastic depth", (0.0, 0.1)),
        ("torchvision/alexnet", "stochastic depth", (0.5, 0.1)),
        ("mlp", "stochastic depth", (0.0, 0.1)),
        ("timm/vgg11", "stochastic depth", (0.0, 0.1)),  # knows no such argument
        ("timm/mobilenetv1_100", "stochastic depth", (0.0, 0.1)),  # takes the argument and does not use it
        ("timm/efficientnet_b2_pruned", "dropout", (0.1, 0.0)),  # the same
    ],
)
def test_a_rate_without_a_place_is_refused(name, noise, rates):
    for refuses in (lambda: registry.check_rates(name, *rates), lambda: registry.build(name, 3, 10, (32, 32), *rates)):
        with pytest.raises(UserError, match=f"{name} has no place for {noise}"):
            refuses()
    registry.check_rates(name, 0.0, 0.0)


@pytest.mark.parametrize("name", [*OWN, *LIBRARIES])
def test_every_model_has_a_place_for_dropout(name):
    registry.check_rates(name, 0.2, 0.0)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2.0, float("nan"), float("inf")])
def test_a_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UserError, match="rate of dropout was"):
        registry.check_rates("cnn", rate, 0.0)
    with pytest.raises(UserError, match="rate of stochastic depth was"):
        registry.check_rates("cnn", 0.0, rate)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("wrn_10_x", "wrn_10_"),
        ("wrn_11_1", "wrn_10_1"),  # depth must be 6n + 4
        ("wrn_10", "wrn_10_"),
        ("wrn_4_1", "6n"),
        ("cnn_99999999", "1024"),
        ("mlp_8193", "8192"),
        ("wrn_28_1000", "20"),
        ("cnn_0", "cnn"),
        ("cnn_-1", "cnn"),
        ("cnn_016", "cnn_16"),
        ("cnn_16_16", "cnn_16"),
        ("cnn_", "cnn"),
        ("cnn_\N{SUPERSCRIPT TWO}", "cnn"),
        ("CNN", "cnn_W"),
        ("", "models are"),
        ("resnet18", "torchvision/<name>"),
        ("torchvison/resnet18", "torchvision/<name>"),
        ("torchvision/resnet81", "torchvision/resnet18"),
        ("torchvision/raft_large", "torchvision"),  # a model of torchvision, but no classifier
        ("timm/nothing", "timm"),
        ("timm/resnet81", "timm/resnet18"),
        ("timm/hf-hub:timm/resnet18", "timm"),  # would be a download
        ("x" * 100_000, "models are"),
    ],
)
def test_an_unknown_name_is_refused_with_a_close_one(name, hint):
    for refuses in (registry.check_name, lambda name: registry.check_rates(name, 0.0, 0.0)):
        with pytest.raises(UserError, match="unknown") as refusal:
            refuses(name)
        assert hint in str(refusal.value)
        assert len(str(refusal.value)) < 400


@pytest.mark.parametrize("name", OWN)
def test_stochastic_depth_is_allowed_where_there_are_residual_branches(name):
    if stochastic_depths(build(name)):
        registry.check_rates(name, 0.0, 0.2)
    else:
        with pytest.raises(UserError, match="no place for stochastic depth"):
            registry.check_rates(name, 0.0, 0.2)


def test_every_example_is_a_name():
    for name in networks.EXAMPLES:
        registry.check_name(name)
    assert networks.parse("mlp") == networks.parse("mlp_256")
    assert networks.parse("cnn") == networks.parse("cnn_16")


@pytest.mark.parametrize("name", ["mlp_32", "cnn", "wrn_10_1", "torchvision/resnet18", "timm/resnet18"])
def test_the_seed_decides_the_weights_whatever_was_asked_before(name):
    registry._on_meta.cache_clear()
    registry._smallest_image_size.cache_clear()
    first, again, other = build(name, dropout=0.1), build(name, dropout=0.1), build(name, dropout=0.1, seed=1)
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_a_gray_image_is_read_as_its_three_copies_would_be():
    gray, color = build("torchvision/resnet18", 1).eval(), build("torchvision/resnet18", 3).eval()
    images = batch()
    assert torch.allclose(gray(images), color(images.expand(-1, 3, -1, -1)), atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4])
def test_torchvision_takes_gray_and_color_only(channels):
    with pytest.raises(UserError, match=f"these have {channels}"):
        build("torchvision/resnet18", channels)


@pytest.mark.parametrize("side", [1, 3, 6, 13])
def test_the_adaptive_mean_is_torchs(side):
    images = batch(3, (side, 9))
    pool = nn.AdaptiveAvgPool2d((6, 4))
    assert torch.allclose(networks.AdaptiveMean(pool)(images), pool(images), atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn", "wrn_10_1", "torchvision/alexnet"])
def test_no_own_or_replaced_layer_lacks_a_deterministic_backward_pass(name):
    pools = [module for module in build(name).modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    assert all(pool.output_size in (1, (1, 1)) for pool in pools)  # torch computes these as a plain mean


def test_summary_of_a_network_counted_by_hand():
    image, width, classes = 28 * 28, 32, 10
    assert registry.size_and_cost(build("mlp_32"), 1, (28, 28)) == {
        "parameters": (image + 1) * width + (width + 1) * width + (width + 1) * classes,
        "multiply_adds": image * width + width * width + width * classes,
        "input_sizes": {"smallest": 28, "step": None},
    }


@pytest.mark.parametrize(
    ("name", "side"), [("torchvision/alexnet", 63), ("torchvision/squeezenet1_1", 17), ("cnn", 8), ("wrn_10_1", 1)]
)
def test_the_smallest_image_size_is_exact(name, side):
    model = build(name, 3, (8, 8)).eval()
    assert registry.size_and_cost(model, 3, (8, 8))["input_sizes"] == {"smallest": side, "step": 1}
    bare = registry.bare(model)
    assert bare(batch(3, (side, side))).shape == (2, 10)
    if side > 1:
        with pytest.raises(RuntimeError):
            bare(batch(3, (side - 1, side - 1)))


def test_vgg11_gets_digits_enlarged():
    with torch.device("meta"):
        assert build("torchvision/vgg11").size == (32, 32)


def test_a_model_that_wants_a_multiple_of_sixteen_gets_it():
    with torch.device("meta"):
        assert build("timm/samvit_base_patch16", 3, (28, 20)).size == (32, 32)


def test_an_image_too_large_for_a_model_of_one_size_is_refused():
    assert build("timm/vit_tiny_patch16_224", 1, (28, 28)).size == (224, 224)
    with pytest.raises(UserError, match="no images of 300x300"):
        build("timm/vit_tiny_patch16_224", 1, (300, 300))


def test_own_networks_need_no_library():
    code = """
import sys
from noisy_student.models import registry
registry.build("cnn", 1, 10, (28, 28), 0.1, 0.1)
registry.check_name("wrn_10_1")
registry.check_rates("wrn_10_1", 0.1, 0.1)
loaded = {"torchvision", "timm", "sympy"} & set(sys.modules)  # sympy: a sign of the meta device's slow first pass
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_resolution_that_changes_nothing_is_refused():
    with pytest.raises(UserError, match=r"it was 0.99, which leaves images of 28 pixels as they are; set it to 1"):
        registry.check_side("cnn_4", 0.99, (28, 28, 1))


def test_features_are_the_input_of_the_last_linear_layer():
    for name in ("mlp_8", "cnn_4", "wrn_10_1", "torchvision/resnet18", "timm/efficientnet_b0"):
        (head,) = registry.heads(registry.build(name, 3, 5, (32, 32), 0.0, 0.0))
        assert head.out_features == 5
    with pytest.raises(UserError, match="no linear layer at its end"):
        registry.heads(registry.build("torchvision/squeezenet1_0", 3, 5, (64, 64), 0.0, 0.0))


@pytest.mark.parametrize(
    ("name", "resolution", "fits"),
    [
        ("cnn_4", 0.25, True),
        ("cnn_4", 0.2, False),
        ("timm/vgg11", 0.5, False),
        ("timm/efficientnet_b0", 0.5, True),
        ("mlp_4", 1, True),
        ("mlp_4", 0.9, False),
    ],
)
def test_a_resolution_that_a_model_does_not_take_is_refused(name, resolution, fits):
    if fits:
        registry.check_side(name, resolution, (32, 32, 3))
    else:
        with pytest.raises(UserError, match=f"it was {resolution}, which makes images of .* pixels; {name} takes"):
            registry.check_side(name, resolution, (32, 32, 3))
