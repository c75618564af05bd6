import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from noisy_student.core.errors import UserError
from noisy_student.models.checkpoint import folder_of, load_model, save_model
from noisy_student.models.classifier import load_classifier, new_classifier
from noisy_student.models.external import torchvision_names
from noisy_student.models.features import features_of
from noisy_student.models.init import body, from_pretrained
from noisy_student.models.networks import Resizing
from noisy_student.models.prediction import predict_logits
from noisy_student.models.registry import bare, check_head, heads
from noisy_student.store.selection import Selection
from noisy_student.training.forward import forward_passes, learn_head
from noisy_student.training.loop import TrainingData, TrainingRun, fit, save_trained
from noisy_student.training.optim import make_optimizer, rate_shares, set_learning_rate
from noisy_student.training.params import phase_of
from noisy_student.training.recipes import PretrainedInputs
from noisy_student.training.replica import Replica

CPU = torch.device("cpu")


def description(model: str = "cnn_2", channels: int = 1, side: int = 8) -> dict:
    normalization = {"mean": [0.25] * channels, "std": [0.5] * channels}
    return {"model": model, "input_channels": channels, "input_size": [side, side], "normalization": normalization}


@pytest.fixture
def pretrained(tmp_path, make_split):
    """A folder of weights of a `cnn_2`, other ones than a new model draws."""
    torch.manual_seed(7)
    save_model(tmp_path, new_classifier("cnn_2", make_split(0, 9)).state_dict(), description())
    return tmp_path


def begin(folder, split, model="cnn_2", seed=0):
    torch.manual_seed(seed)
    return from_pretrained(model, split, 0.0, 0.0, folder, CPU)


def data_of(folder, labeled, validation, runtime, model="cnn_2"):
    """Images to begin a training with, from the weights in `folder`."""
    features = features_of(begin(folder, labeled, model), labeled.selection(), runtime)
    return TrainingData(labeled, validation, features=Selection([features], np.arange(len(labeled))))


def head_of(classifier):
    return heads(classifier.network)[0].weight


def test_the_body_is_the_pretrained_one_and_the_head_is_drawn_anew(pretrained, make_split):
    tensors, _ = load_model(pretrained)
    one, other = (begin(pretrained, make_split(0, 30), seed=seed) for seed in (0, 1))
    for name, tensor in body(one.network).items():
        assert torch.equal(tensor, tensors[f"network.{name}"])
    assert len(body(one.network)) == len(one.network.state_dict()) - 2
    assert not torch.equal(head_of(one), head_of(other))
    assert not torch.equal(head_of(one), tensors["network.classifier.weight"])


def test_the_normalization_is_that_of_the_weights(pretrained, make_split):
    classifier = begin(pretrained, make_split(0, 30))
    assert (classifier.mean.flatten().tolist(), classifier.std.flatten().tolist()) == ([0.25], [0.5])


def test_images_are_brought_to_the_size_of_the_weights(tmp_path, make_split, runtime):
    split = make_split(0, 9)
    save_model(tmp_path, new_classifier("cnn_2", split).state_dict(), description(side=12))
    classifier, sizes = begin(tmp_path, split).eval(), []
    classifier.network.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-2:]))
    predict_logits(classifier, split.images(), runtime)
    assert sizes == [(12, 12)]


def test_gray_images_are_seen_by_weights_of_color_as_three_equal_channels(tmp_path, make_split, runtime):
    torch.manual_seed(7)
    split = make_split(0, 9)
    described = description(channels=3)
    described["normalization"]["mean"] = [0.1, 0.2, 0.3]
    save_model(tmp_path, begin_in_color(split).state_dict(), described)
    classifier = begin(tmp_path, split).eval()
    gray = predict_logits(classifier, split.images(), runtime)
    assert np.allclose(gray, predict_logits(classifier, split.images().repeat(3, axis=3), runtime), atol=1e-6)


def begin_in_color(split):
    return new_classifier("cnn_2", replace(split, channels=3, shards=[split.images().repeat(3, axis=3)]))


def test_weights_of_gray_images_are_not_for_color(pretrained, make_split):
    split = make_split(0, 9)
    color = replace(split, channels=3, shards=[split.images().repeat(3, axis=3)])
    with pytest.raises(UserError, match="of images of 1 channels, and these have 3"):
        begin(pretrained, color)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"description": {"model": "cnn_3"}}, "are of cnn_3 and not of cnn_2"),
        ({"without": "network.features.0.0.weight"}, "have no features.0.0.weight"),
        (
            {"other": "network.features.0.0.weight"},
            r"features.0.0.weight .* shape \(1,\) instead of \(2, 1, 3, 3\)",
        ),
        ({"missing": "normalization"}, "weights.normalization is missing"),
        ({"description": {"input_size": 28}}, "weights.input_size was 28"),
        ({"description": {"input_size": [8, "8"]}}, "weights.input_size.1 was '8'"),
        ({"description": {"input_size": [8, 10**6]}}, "weights.input_size.1 was 1000000"),
        ({"description": {"normalization": {"mean": [0.5], "std": [0.0]}}}, "weights.normalization.std.0 was 0.0"),
        ({"description": {"input_channels": 3}}, "must have a normalization of 3 channels"),
        ({"infinite": "network.features.0.0.weight"}, "has numbers that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(pretrained, make_split, changes, said):
    tensors, described = load_model(pretrained)
    tensors = {name: each for name, each in tensors.items() if name != changes.get("without")}
    if "infinite" in changes:
        tensors[changes["infinite"]].fill_(torch.inf)
    if "other" in changes:
        tensors[changes["other"]] = torch.zeros(1)
    described |= changes.get("description", {})
    described.pop(changes.get("missing", ""), None)
    save_model(pretrained, tensors, described)
    with pytest.raises(UserError, match=said):
        begin(pretrained, make_split(0, 9))


def test_weights_of_a_library_have_its_names_and_may_lack_counters_and_head(tmp_path, make_split):
    split = make_split(0, 9)
    torch.manual_seed(1)
    name = "torchvision/resnet18"
    there = bare(new_classifier(name, split).network).state_dict()
    kept = {key: each for key, each in there.items() if "num_batches" not in key and not key.startswith("fc.")}
    save_model(tmp_path, kept, description(name, side=33))
    network = bare(begin(tmp_path, split, name).network)
    assert all(torch.equal(network.state_dict()[key], each) for key, each in kept.items())


@pytest.mark.parametrize("model", ["cnn_4", "mlp_16"])
def test_a_model_that_began_with_pretrained_weights_is_saved_and_comes_back(
    tmp_path, make_split, make_recipe, runtime, model
):
    labeled, validation = make_split(0, 30), make_split(400, 450)
    save_model(tmp_path / "weights", new_classifier(model, labeled).state_dict(), description(model))
    recipe = make_recipe(model, initial="pretrained")
    data = data_of(tmp_path / "weights", labeled, validation, runtime, model)
    trained = fit(TrainingRun("iter0", recipe, runtime, CPU, 0, tmp_path / "weights"), data)
    save_trained(tmp_path / "model", trained, data)
    loaded, described = load_classifier(tmp_path / "model", CPU)
    logits = predict_logits(trained.classifier, validation.images(), runtime)
    assert np.array_equal(predict_logits(loaded, validation.images(), runtime), logits)
    assert described["normalization"] == {"mean": [0.25], "std": [0.5]}


@pytest.mark.parametrize("options", [{"frozen": 1.0}, {"frozen": 0.5}, {"body_rate": 0.1}])
def test_which_part_learns(pretrained, make_split, make_recipe, runtime, options):
    """What is frozen stays, its running statistics, too; what is not moves."""
    data = data_of(pretrained, make_split(0, 30), make_split(400, 450), runtime)
    learned = {"norm_statistics": "learned", "ema_decay": 0.0, "steps": 8}
    recipe = make_recipe("cnn_2", {"dropout": 0.5}, initial="pretrained", **learned, **options)
    trained = fit(TrainingRun("iter0", recipe, runtime, CPU, 0, pretrained), data)
    before, after = (body(bare(each.network)) for each in (begin(pretrained, data.labeled), trained.classifier))
    names = [name for name in before if before[name].ndim]
    same = [torch.equal(before[name], after[name]) for name in names]
    frozen = same.index(False) if False in same else len(same)
    assert all(same[:frozen])
    assert not any(same[frozen:])
    layers = [before[name].ndim > 1 for name in names]
    assert sum(layers[:frozen]) == round(options.get("frozen", 0) * sum(layers))


def test_a_frozen_body_leaves_the_head_alone_in_all_steps(make_recipe):
    training = make_recipe(initial="pretrained", frozen=0.25, resolution_fix=0.25, steps=8).training
    assert [phase_of(training, step).scope for step in range(8)] == ["all"] * 6 + ["deep half"] * 2
    alone = make_recipe(initial="pretrained", frozen=1.0, steps=2).training
    assert [phase_of(alone, step).scope for step in range(2)] == ["head"] * 2


def test_a_frozen_body_is_in_eval_mode_and_its_head_has_dropout(pretrained, make_split, runtime):
    torch.manual_seed(0)
    classifier = from_pretrained("cnn_2", make_split(0, 30), 0.5, 0.5, pretrained, CPU)
    learn_head(classifier)
    learning = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    assert learning == {"network.classifier.weight", "network.classifier.bias"}
    training = {type(module).__name__ for module in classifier.modules() if module.training}
    assert training == {"Network", "Dropout", "Linear"}  # the network's own flag, not its layers'
    forward_passes(Replica(classifier), runtime, "all").logits(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    assert all(parameter.requires_grad for parameter in classifier.parameters())


def test_a_model_without_a_linear_head_learns_from_scratch(make_split, runtime):
    classifier = new_classifier("torchvision/squeezenet1_0", make_split(0, 9))
    student = forward_passes(Replica(classifier), runtime, "all")
    student.logits(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.parametrize("model", ["timm/resnet18", "torchvision/resnet18", "timm/efficientnet_b0", "cnn_2"])
def test_the_head_of_every_kind_of_model_learns_with_dropout_and_without_other_noise(make_split, runtime, model):
    def passes(dropout: float) -> list[torch.Tensor]:
        torch.manual_seed(0)
        classifier = new_classifier(model, make_split(0, 9), dropout, 0.0)
        student = forward_passes(Replica(classifier), runtime, "head")
        return [student.logits(torch.full((2, 1, 8, 8), 100, dtype=torch.uint8)) for _ in range(2)]

    assert torch.equal(*passes(0.0))
    assert not torch.equal(*passes(0.5))


@pytest.mark.parametrize("model", ["torchvision/mnasnet0_5", "torchvision/densenet121"])
def test_models_whose_layers_look_for_versions_or_old_names_come_back(tmp_path, make_split, model):
    torch.manual_seed(1)
    split = make_split(0, 9)
    state = bare(new_classifier(model, split).network).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): each for name, each in state.items()}
    old = {name: each for name, each in old.items() if not name.startswith("classifier")}
    first = next(name for name, each in old.items() if each.ndim == 4)
    old[first] = old[first].repeat(1, 3, 1, 1)  # as published, for images in color
    kept = torchvision_names(model, old)
    assert kept.keys() == {name for name in state if not name.startswith("classifier")}
    save_model(tmp_path, kept, description(model, channels=3, side=64))
    network = bare(begin(tmp_path, split, model).network)
    found = network.state_dict()
    assert all(torch.equal(found[name], each) for name, each in kept.items())


def test_images_that_are_made_smaller_are_smoothed():
    stripes = torch.zeros(1, 1, 96, 96)
    stripes[..., ::2] = 1
    smaller = Resizing(torch.nn.Identity(), (96, 96), (28, 28), 1)(stripes)
    assert smaller.std() < 0.05


def test_images_of_another_size_are_resized_in_proportion():
    resizing = Resizing(torch.nn.Identity(), (32, 48), (64, 48), 1)
    assert resizing(torch.zeros(1, 1, 32, 48)).shape[2:] == (64, 48)
    assert resizing(torch.zeros(1, 1, 16, 24)).shape[2:] == (32, 24)


@pytest.mark.parametrize(
    ("initial", "norm_statistics", "kept"),
    [("scratch", None, False), ("pretrained", None, True), ("pretrained", "learned", False), ("warm", "kept", True)],
)
def test_pretrained_statistics_are_kept_unless_they_are_to_be_learned(make_recipe, initial, norm_statistics, kept):
    assert make_recipe(initial=initial, norm_statistics=norm_statistics).training.keeps_statistics == kept


def test_kept_statistics_do_not_change_and_the_weights_of_the_norms_do(pretrained, make_split, make_recipe, runtime):
    data = data_of(pretrained, make_split(0, 60), make_split(400, 450), runtime)
    tensors = load_model(pretrained)[0]
    for norm_statistics, same in ((None, True), ("learned", False)):
        recipe = make_recipe("cnn_2", initial="pretrained", norm_statistics=norm_statistics)
        trained = fit(TrainingRun("iter0", recipe, runtime, CPU, 0, pretrained), data).classifier.state_dict()
        statistics = [name for name in tensors if "running_" in name]
        assert statistics
        assert all(torch.equal(trained[name], tensors[name]) == same for name in statistics)
        norm = statistics[0].rpartition(".")[0]
        assert not torch.equal(trained[f"{norm}.weight"], tensors[f"{norm}.weight"])


def test_without_steps_the_model_is_the_pretrained_body_with_a_solved_head(
    pretrained, make_split, make_recipe, runtime
):
    data = data_of(pretrained, make_split(0, 90), make_split(400, 450), runtime)
    recipe = make_recipe("cnn_2", initial="pretrained", steps=0)
    trained = fit(TrainingRun("iter0", recipe, runtime, CPU, 0, pretrained), data)
    tensors = load_model(pretrained)[0]
    for name, tensor in body(trained.classifier.network).items():
        assert torch.equal(tensor, tensors[f"network.{name}"])
    (row,) = trained.curve
    assert row["step"] == 0
    assert row["validation_accuracy"] > 0.6


def test_a_model_without_steps_that_is_taken_up_again_has_the_same_curve(
    pretrained, make_split, make_recipe, runtime, tmp_path
):
    data = data_of(pretrained, make_split(0, 90), make_split(400, 450), runtime)
    run = TrainingRun("iter0", make_recipe("cnn_2", initial="pretrained", steps=0), runtime, CPU, 0, pretrained)
    first, again = (fit(run, data, tmp_path / "checkpoints") for _ in range(2))
    assert again.curve == first.curve


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"norm_statistics": "kept"}, "must have norm_statistics learned where initial is scratch"),
        ({"steps": 0}, "must have steps of at least 1 unless initial is pretrained"),
    ],
)
def test_what_needs_weights_is_refused_without(make_recipe, training, expected):
    with pytest.raises(UserError, match=expected):
        make_recipe(**training)


def test_there_is_no_beginning_without_weights(make_split, make_recipe, runtime):
    data = TrainingData(make_split(0, 30), make_split(400, 450))
    with pytest.raises(ValueError, match=r"initial pretrained begins with weights, whose folder is missing"):
        fit(TrainingRun("iter0", make_recipe("cnn_2", initial="pretrained"), runtime, CPU, 0), data)


def test_a_model_with_a_second_head_cannot_begin_anew():
    check_head("timm/deit_tiny_patch16_224")
    check_head("cnn")
    with pytest.raises(UserError, match=r"has a second head, head.weight, so its head cannot be new"):
        check_head("timm/deit_tiny_distilled_patch16_224")
    with pytest.raises(UserError, match="no linear layer at its end"):
        check_head("torchvision/squeezenet1_0")


def test_each_layer_before_the_head_has_its_share_of_the_rate(pretrained, make_split, make_recipe):
    classifier = begin(pretrained, make_split(0, 30))
    training = make_recipe(initial="pretrained", body_rate=0.5, layer_decay=0.1, learning_rate=2.0).training
    shares = rate_shares(classifier, training)
    weights = [shares[id(parameter)] for parameter in classifier.parameters() if parameter.ndim > 1]
    assert weights == pytest.approx([0.5 * 0.1**k for k in range(len(weights) - 1, 0, -1)] + [1])
    optimizer = make_optimizer(classifier, training, fused=True)
    set_learning_rate(optimizer, training, 0)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert rates == pytest.approx({each: 2.0 * share for each, share in shares.items()})
    assert len(rates) == len(list(classifier.parameters()))


def test_without_pretrained_weights_all_learn_at_one_rate_in_two_groups(make_split, make_recipe):
    classifier = new_classifier("cnn_2", make_split(0, 30))
    assert set(rate_shares(classifier, make_recipe().training).values()) == {1.0}
    assert len(make_optimizer(classifier, make_recipe().training, fused=True).param_groups) == 2


def test_weights_are_asked_for_by_who_begins_with_them(tmp_path, make_recipe):
    assert PretrainedInputs.of(make_recipe("torchvision/resnet18"), tmp_path, tmp_path) == (None, None, None)
    asked = PretrainedInputs.of(make_recipe("torchvision/resnet18", initial="pretrained"), tmp_path, tmp_path / "of")
    assert asked.weights == folder_of(tmp_path, "torchvision/resnet18") == tmp_path / "torchvision-resnet18"
    assert asked.labeled_features == tmp_path / "of" / "torchvision-resnet18"
    assert asked.by_role()["pool_features"] is None
