import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from noisy_student.core.errors import UserError
from noisy_student.models import prediction
from noisy_student.models.checkpoint import DESCRIPTION, save_model
from noisy_student.models.classifier import Classifier, ensemble, load_classifier, new_classifier, pixel_statistics
from noisy_student.models.prediction import LabelingParams, predict, predict_logits, predict_split
from noisy_student.models.registry import build

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(256, size=(20, 8, 3, 1), dtype=np.uint8)


class Columns(nn.Module):
    """Logits that one can tell beforehand: the mean of each column of pixels."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean(dim=(1, 2))  # (B,C,H,W) -> (B,W)


def columns() -> Classifier:
    return Classifier(Columns(), torch.tensor([0.5]), torch.tensor([0.25]))


def noisy() -> Classifier:
    """A network whose logits in training mode differ from call to call."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(24), nn.Dropout(0.5), nn.Linear(24, 3))
    return Classifier(layers, torch.zeros(1), torch.ones(1))


def described(split, model: str) -> dict:
    classes, size = split.classes, list(split.image_size)
    return {
        "model": model,
        "classes": classes,
        "image_size": size,
        "channels": split.channels,
        "input_size": size,
        "input_channels": split.channels,
    }


def test_logits_are_the_networks_of_the_normalized_pixels(runtime):
    logits = predict_logits(columns(), IMAGES, runtime)
    assert logits.dtype == np.float32
    assert np.allclose(logits, (IMAGES[..., 0].mean(axis=1) / 255 - 0.5) / 0.25, atol=1e-6)


def test_several_views_are_averaged(runtime):
    one = predict_logits(columns(), IMAGES, runtime)
    mirrored = predict(columns(), IMAGES, runtime, labeling=LabelingParams(tta="mirrored")).logits
    assert np.allclose(mirrored, (one + one[:, ::-1]) / 2, atol=1e-6)
    padded = np.pad(IMAGES, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    windows = [padded[:, 1 + y : 9 + y, 1 + x : 4 + x] for y, x in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))]
    expected = np.mean([predict_logits(columns(), window, runtime) for window in windows], axis=0)
    assert np.allclose(
        predict(columns(), IMAGES, runtime, labeling=LabelingParams(tta="shifts")).logits, expected, atol=1e-6
    )


@pytest.mark.parametrize("views", ["one", "mirrored", "shifts"])
@pytest.mark.parametrize("members", [1, 3])
def test_features_are_what_the_last_layer_makes_the_logits_of(runtime, make_split, monkeypatch, views, members):
    monkeypatch.setattr(prediction, "BATCH_SIZE", 7)
    split = make_split(0, 20)
    nets = [new_classifier("cnn_4", split, dropout=0.5) for _ in range(members)]
    classifier = ensemble(nets) if members > 1 else nets[0]
    seen = predict(classifier, split.images(), runtime, labeling=LabelingParams(tta=views, features=True))
    assert seen.features.dtype == np.float16
    assert seen.features.shape == (20, 16 * members)
    made = [net.network.classifier for net in nets]
    by_hand = [
        layer(torch.from_numpy(part.astype(np.float32))).detach().numpy()
        for layer, part in zip(made, np.split(seen.features, members, axis=1), strict=True)
    ]
    assert np.allclose(np.mean(by_hand, axis=0), seen.logits, atol=0.01)
    assert not classifier.network._forward_pre_hooks
    assert predict(classifier, split.images(), runtime).features is None


@pytest.mark.parametrize("batch", [1, 7, 20, 512])
def test_logits_do_not_depend_on_the_batch(runtime, make_split, monkeypatch, batch):
    split = make_split(0, 20)
    torch.manual_seed(0)
    classifier = new_classifier("cnn_4", split).eval()
    whole = predict_logits(classifier, split.images(), runtime)
    monkeypatch.setattr(prediction, "BATCH_SIZE", batch)
    assert np.allclose(predict_logits(classifier, split.images(), runtime), whole, atol=1e-5)
    backwards = predict_logits(classifier, split.images(np.arange(20)[::-1]), runtime)
    assert np.allclose(backwards[::-1], whole, atol=1e-5)


def test_a_network_that_enlarges_its_images_takes_fewer_at_once(runtime, make_split, monkeypatch):
    split = make_split(0, 20)
    height, width = split.image_size
    network = build("cnn_4", split.channels, len(split.classes), split.image_size, 0.0, 0.0, (4 * height, 4 * width))
    classifier = Classifier(network, torch.zeros(split.channels), torch.ones(split.channels))
    batches = []
    classifier.register_forward_hook(lambda module, given, logits: batches.append(len(logits)))
    monkeypatch.setattr(prediction, "BATCH_PIXELS", 5 * 16 * height * width)
    predict_logits(classifier, split.images(), runtime)
    assert batches == [5, 5, 5, 5]


def test_a_model_with_dropout_and_batch_norm_is_looked_at_in_eval_mode(runtime):
    classifier = noisy().train()
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    assert np.array_equal(predict_logits(classifier, IMAGES, runtime), predict_logits(classifier, IMAGES, runtime))
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())


def test_ranks_share_the_shards_that_are_missing(runtime, make_split, monkeypatch):
    split = make_split(0, 20, shards=5)
    classifier = new_classifier("mlp_8", split)
    monkeypatch.setattr(prediction.ranks, "share_of", lambda count: range(1, count, 2))  # of the second of two ranks
    found = predict_split(classifier, split, runtime, "pool", is_done={0, 1, 2}.__contains__)
    assert [number for number, _ in found] == [4]


def test_a_split_is_predicted_shard_by_shard_in_eval_mode(runtime, make_split, capsys):
    split = make_split(0, 20, shards=3)
    classifier = new_classifier("mlp_8", split, dropout=0.5).train()
    numbers, shards = zip(*predict_split(classifier, split, runtime, "pool"), strict=True)
    assert numbers == (0, 1, 2)
    assert [len(seen.logits) for seen in shards] == [7, 7, 6]
    ((number, left),) = predict_split(classifier, split, runtime, "pool", is_done={0, 2}.__contains__)
    assert number == 1
    assert "65%  goes on with 2 of 3 shards done" in capsys.readouterr().out
    assert np.array_equal(left.logits, shards[1].logits)
    assert np.allclose(
        np.concatenate([seen.logits for seen in shards]),
        predict_logits(classifier.eval(), split.images(), runtime),
        atol=1e-5,
    )


def test_bfloat16_gives_float32_logits_close_to_those_of_float32(runtime):
    rough = predict_logits(noisy().eval(), IMAGES, runtime.model_copy(update={"precision": "bfloat16"}))
    exact = predict_logits(noisy().eval(), IMAGES, runtime)
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    assert np.allclose(rough, exact, atol=0.05)


def test_a_new_classifier_is_normalized_by_the_labeled_images(make_split):
    split = make_split(0, 50)
    classifier = new_classifier("mlp_8", split)
    pixels = split.images() / 255
    assert classifier.mean.flatten().tolist() == pytest.approx([pixels.mean()], rel=1e-5)
    assert classifier.std.flatten().tolist() == pytest.approx([pixels.std()], rel=1e-3)


def test_images_of_one_gray_can_be_normalized(runtime, make_split):
    split = make_split(0, 5)
    split.shards[:] = [np.full_like(shard, 9) for shard in split.shards]
    assert np.isfinite(predict_logits(new_classifier("mlp_8", split).eval(), split.images(), runtime)).all()


@pytest.mark.parametrize("model", ["mlp_8", "cnn_2"])
def test_a_saved_classifier_comes_back_without_noise_and_with_its_normalization(tmp_path, runtime, make_split, model):
    split = make_split(0, 30)
    trained = new_classifier(model, split, dropout=0.5, stochastic_depth=0.5 if model == "cnn_2" else 0.0)
    save_model(tmp_path, trained.state_dict(), described(split, model))
    loaded, description = load_classifier(tmp_path, CPU)
    assert description == described(split, model)
    assert not loaded.training
    assert torch.equal(loaded.mean, trained.mean)
    assert torch.equal(loaded.std, trained.std)
    assert np.array_equal(
        predict_logits(loaded, split.images(), runtime), predict_logits(trained.eval(), split.images(), runtime)
    )


@pytest.mark.parametrize(
    "claimed",
    [
        {"model": "mlp_16"},
        {"model": "cnn_2"},
        {"model": "mlq_8"},
        {"classes": ["zero", "one"]},
        {"image_size": [8, 9]},
        {"input_channels": 3},
        {"input_size": [9, 9]},
        {"model": None},
        {"classes": None},
    ],
)
def test_weights_that_are_not_what_the_description_says_are_refused(tmp_path, make_split, claimed):
    split = make_split(0, 5)
    save_model(tmp_path, new_classifier("mlp_8", split).state_dict(), described(split, "mlp_8"))
    description = {**described(split, "mlp_8"), **claimed}
    kept = {key: value for key, value in description.items() if value is not None}
    (tmp_path / DESCRIPTION).write_text(json.dumps(kept))
    with pytest.raises(UserError) as caught:
        load_classifier(tmp_path, CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_mean_and_deviation_are_exact_and_take_no_memory_that_grows_with_the_images(make_split):
    split = make_split(0, 500, shards=3)
    mean, std = pixel_statistics(split)
    pixels = torch.from_numpy(split.images()).double() / 255
    assert mean.tolist() == [pixels.mean().float().item()]
    assert std.tolist() == [pixels.std().float().item()]

    def peak(count: int) -> int:
        images = np.random.default_rng(0).integers(256, size=(count, 64, 64, 3), dtype=np.uint8)
        many = replace(split, shards=[images], channels=3, image_size=(64, 64))
        tracemalloc.start()
        pixel_statistics(many)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    assert peak(1600) < 1.1 * peak(400)
