"""What a GPU has to show: the stages end to end, the same bytes again, a CPU's logits, and its memory.

`python -m benchmarks.gpu` runs these tests, on a CPU as well where the environment variable of benchmarks.gpu says so.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from benchmarks.gpu import DEVICE
from benchmarks.processes import ROOT
from benchmarks.study import run_commands
from commands.configure import values
from noisy_student.core.config import changed
from noisy_student.core.files import read_json
from noisy_student.models.classifier import new_classifier
from noisy_student.models.device import setup
from noisy_student.models.prediction import predict_logits
from noisy_student.training import placed_images
from noisy_student.training.batches import Batches
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import TrainingData, TrainingRun, fit

pytestmark = pytest.mark.gpu

NOISE = {"operations": 2, "magnitude": 15.0, "crop": 1, "flip": True, "cutout": 0.3, "dropout": 0.3}
BUDGET = 2e8  # bytes on the device, of a small net and 150 small images


@pytest.fixture
def on_device(runtime, torch_settings):
    return runtime.model_copy(update={"device": os.environ.get(DEVICE, "cuda")})


@pytest.fixture
def train(make_split, make_recipe, on_device):
    """The bytes of a net trained on digits and a pool, with all kinds of noise."""
    device = setup(on_device)
    recipe = make_recipe("cnn_4", NOISE, steps=12, objective="combined", ema_decay=0.9, validations=2)
    pool = make_split(100, 200)
    data = TrainingData(make_split(0, 50), make_split(400, 450), LabeledImages.from_labels(pool))

    def run(checkpoints: Path | None = None, **setting) -> bytes:
        trained = fit(TrainingRun("iter1", recipe, on_device.model_copy(update=setting), device, 0), data, checkpoints)
        return save({name: tensor.cpu().contiguous() for name, tensor in trained.classifier.state_dict().items()})

    return run


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_two_runs_have_the_same_bytes(train, precision):
    assert train(precision=precision) == train(precision=precision)


def test_a_run_that_was_killed_goes_on_to_the_same_bytes(train, monkeypatch, tmp_path):
    monkeypatch.setenv("NOISY_STUDENT_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr("noisy_student.models.checkpoint.SHARE", 1e9)
    whole, parts = train(), Batches.parts

    def dies(of, step):
        if step == 7:
            raise KeyboardInterrupt
        return parts(of, step)

    monkeypatch.setattr(Batches, "parts", dies)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path)
    monkeypatch.setattr(Batches, "parts", parts)
    assert list(tmp_path.iterdir())
    assert train(tmp_path) == whole


def test_images_for_which_there_is_no_room_stay_on_the_disk_and_train_the_same_net(train, monkeypatch):
    whole = train()
    monkeypatch.setattr(placed_images, "ROOM", 0)
    assert train() == whole


@pytest.mark.parametrize("model", ["cnn_8", "wrn_10_1"])
def test_logits_are_those_of_a_cpu(make_split, runtime, on_device, model):
    torch.manual_seed(0)
    split = make_split(0, 200)
    classifier = new_classifier(model, split).eval()
    here = predict_logits(classifier, split.images(), runtime)
    there = predict_logits(classifier.to(setup(on_device)), split.images(), on_device)
    np.testing.assert_allclose(there, here, atol=0.02)
    assert (there.argmax(axis=1) == here.argmax(axis=1)).mean() >= 0.99


def test_memory_stays_within_its_budget(train, on_device):
    train()
    if on_device.device == "cuda":
        assert torch.cuda.max_memory_allocated() < BUDGET


def test_the_stages_run_end_to_end(digits, on_device, tmp_path):
    images, labels = digits
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = "test" if number < 100 else "labeled" if number < 250 else "pool"
        folder = tmp_path / "images" / (place if place == "pool" else f"{place}/{label}")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0]).save(folder / f"{number}.png")
    small = {"data.source": "folder", "data.path": str(tmp_path / "images"), "data.image_size": 8}
    small |= {"teacher.model": "cnn_4", "teacher.noise.crop": 1, "teacher.training.steps": 60, "training.steps": 60}
    small |= {"iterations": {"iter1": {"teacher": "iter0", "model": "cnn_4"}}, "controls": {}}
    small |= {"current": "iter1", "noise.crop": 1}
    small |= {"pseudo_labels.kept_fraction": 0.5, "runtime": on_device.model_dump()}
    params = changed(values(ROOT / "configs" / "folder.yaml"), small)
    params["pseudo_labels"]["precision"] = None
    run_commands(tmp_path / "run", params)
    results = read_json(tmp_path / "run/metrics/results/iter1/results.json")
    assert results["accuracy"] > 0.6
