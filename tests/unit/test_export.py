"""A model outside torch: the exported file against the original, its card, and labels where torch is not installed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from untrained import PREPARATION, description, make_untrained

from commands import export, predict
from commands.model_card import model_card, results_of
from noisy_student.core.files import read_json, write_json
from noisy_student.core.metrics import softmax
from noisy_student.models.classifier import ensemble, load_classifier, new_classifier
from noisy_student.models.exporting import export_program, program_of, save_onnx
from noisy_student.models.onnx_model import OnnxModel
from noisy_student.models.prediction import predict_logits
from noisy_student.store.splits import read_split, write_split

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("torch_settings")


@pytest.fixture
def here(tmp_path, monkeypatch, make_split, runtime):
    """A trained folder models/iter1 with params.yaml, two splits, and the first 20 digits as files."""
    monkeypatch.chdir(tmp_path)
    split = make_split(0, 60)
    make_untrained(tmp_path, split, runtime, "cnn_2", ("test", "calibration"))
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(split.images()[:20]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"photos/{number:02}.png")
    return tmp_path


def test_an_exported_model_gives_the_labels_of_the_original(here, make_split, runtime, capsys):
    export.main(["out", "--int8"])
    said = capsys.readouterr().out
    assert "model.onnx: " in said
    assert "the same label for 100.00 % of 60 images" in said
    kept = (here / "out/model.int8.onnx").exists()
    assert kept != ("so it is not kept" in said)
    images = make_split(0, 60).images()
    classifier, _ = load_classifier(here / "models/iter1", torch.device("cpu"))
    found = OnnxModel(here / "out").probabilities(images)
    assert np.abs(found - softmax(predict_logits(classifier, images, runtime))).max() < 1e-5
    assert OnnxModel(here / "out").probabilities(images[:1]).shape == (1, 3)


@pytest.mark.parametrize("resize", ["crop", "pad"])
@pytest.mark.parametrize("size", [(8, 8), (30, 17), (9, 40)])
def test_images_of_any_size_are_cropped_or_padded_and_resized_inside(tmp_path, make_split, resize, size):
    split = make_split(0, 4)
    classifier = new_classifier("mlp_8", split).eval()
    own = {**PREPARATION, "resize": resize, "background": 100}
    write_json(tmp_path / "model.json", description("mlp_8", split, preparation=own))
    save_onnx(tmp_path, export_program(classifier, description("mlp_8", split, preparation=own)))
    images = np.random.default_rng(0).integers(256, size=(3, *size, 1), dtype=np.uint8)
    height, width = size
    square = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    side, (top, left) = min(size), (max(0, (height - width) // 2), max(0, (width - height) // 2))
    if resize == "crop":
        square = square[:, :, top : top + side, left : left + side]
    else:
        missing = max(size) - np.array(size)
        first = missing // 2
        square = F.pad(square, [first[1], missing[1] - first[1], first[0], missing[0] - first[0]], value=100.0)
    resized = F.interpolate(square, size=(8, 8), mode="bilinear", antialias=True).round()
    with torch.inference_mode():
        expected = classifier(resized).softmax(1).numpy()
    assert np.abs(OnnxModel(tmp_path).probabilities(images) - expected).max() < 1e-3


def test_a_program_of_torch_gives_the_labels_of_the_original(here, make_split, runtime, capsys):
    export.main(["out", "--torch"])
    said = capsys.readouterr().out
    assert "model.pt2: " in said
    assert said.count("the same label for 100.00 % of 60 images") == 2
    images = make_split(0, 60).images()
    classifier, _ = load_classifier(here / "models/iter1", torch.device("cpu"))
    predict_again = program_of(here / "out")
    assert np.abs(predict_again(images) - softmax(predict_logits(classifier, images, runtime))).max() < 1e-5
    assert predict_again(np.zeros((3, 30, 17, 1), np.uint8)).shape == (3, 3)


def test_an_ensemble_is_one_file(tmp_path, make_split):
    split = make_split(0, 4)
    whole = ensemble([new_classifier("mlp_8", split) for _ in range(2)]).eval()
    write_json(tmp_path / "model.json", description("mlp_8", split))
    save_onnx(tmp_path, export_program(whole, description("mlp_8", split)))
    with torch.inference_mode():
        expected = whole(torch.from_numpy(split.images()).permute(0, 3, 1, 2)).softmax(1).numpy()
    assert np.abs(OnnxModel(tmp_path).probabilities(split.images()) - expected).max() < 1e-5


def test_a_folder_is_labeled_where_torch_is_not_installed(here):
    """A module that is None in sys.modules cannot be imported."""
    export.main(["out"])
    predict.main(["photos", "with_torch.csv"])
    code = "import sys; sys.modules['torch'] = sys.modules['timm'] = None; from commands.predict import main; main()"
    words = [sys.executable, "-c", code, "photos", "without.csv", "--model", "out"]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with_torch, without = (pd.read_csv(name) for name in ("with_torch.csv", "without.csv"))
    assert with_torch["label"].tolist() == without["label"].tolist()
    assert np.allclose(with_torch["confidence"], without["confidence"], atol=2e-4)
    lost = subprocess.run([*words[:-1], "nowhere"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    assert lost.stderr.startswith(b"error: there is no folder nowhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"no model"), "model.onnx cannot be read"),
        (lambda folder: (folder / "model.json").unlink(), "model.json"),
        (lambda folder: (folder / "model.json").write_text("[]"), "does not describe an exported model"),
    ],
    ids=["model", "description", "list"],
)
def test_a_damaged_export_is_refused(here, capsys, damage, said):
    export.main(["out"])
    damage(here / "out")
    with pytest.raises(SystemExit):
        predict.main(["photos", "labels.csv", "--model", "out"])
    assert said in capsys.readouterr().err


def test_a_trained_model_is_not_written_over(capsys, here):
    with pytest.raises(SystemExit):
        export.main(["models/iter1"])
    assert "models/iter1 holds something else than an exported model" in capsys.readouterr().err
    assert not (here / "models/iter1/model.onnx").exists()


def test_an_export_takes_the_place_of_an_earlier_one(here):
    export.main(["out"])
    (here / "out/model.int8.onnx").write_bytes(b"of an earlier model")
    export.main(["out"])
    assert sorted(path.name for path in (here / "out").iterdir()) == ["README.md", "model.json", "model.onnx"]
    predict.main(["photos", "labels.csv", "--model", "out/model.onnx"])
    assert len(pd.read_csv("labels.csv")) == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check", "data/none"], "there is no split data/none; name one with --check"),
        (["--int8", "--calibration", "data/none"], "name one with --calibration"),
        (["--check", "data/color"], "the images of data/color are not those of the model"),
        (["--model", "models/none"], "there is no folder models/none"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(here, capsys, words, said):
    index = pd.DataFrame({"id": ["a", "b"], "sha256": ["a", "b"], "label": [0, 1]})
    color, classes = np.zeros((2, 8, 8, 3), np.uint8), ["zero", "one", "two"]
    write_split(here / "data/color", color, index, classes, PREPARATION, 10_000)
    with pytest.raises(SystemExit):
        export.main(["out", *words])
    assert said in capsys.readouterr().err
    assert not (here / "out").exists()


def test_an_export_that_gives_other_labels_is_refused(here, capsys, monkeypatch):
    other = new_classifier("cnn_2", read_split(here / "data/test"))
    monkeypatch.setattr(export, "load_classifier", one_then(load_classifier, (other.eval(), {})))
    with pytest.raises(SystemExit):
        export.main(["out"])
    assert "model.onnx gives the original's label to" in capsys.readouterr().err
    assert not (here / "out").exists()


def one_then(real, second):
    """A stand-in for `real` that answers `second` when it is called again."""
    calls = []

    def called(*arguments):
        calls.append(arguments)
        return real(*arguments) if len(calls) == 1 else second

    return called


def test_the_card_has_the_figures_of_the_very_weights(here, make_split):
    export.main(["out"])
    own = read_json(here / "out/model.json")
    assert "It was not evaluated." in (here / "out/README.md").read_text()
    figures = {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95, "test_images": 100, "ece": 0.02}
    figures |= {"accuracy_by_class": {"zero": 1.0, "one": 0.8, "two": None}}
    write_json(here / "metrics/results/other/results.json", {**figures, "accuracy": 0.1, "weights_sha256": "other"})
    write_json(here / "metrics/results/iter1/results.json", {**figures, "weights_sha256": own["weights_sha256"]})
    card = model_card(own, results_of(own["weights_sha256"]))
    head = yaml.safe_load(card.split("---")[1])
    assert head["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.9}]
    assert "90.0 % of 100 test images (95 % interval 85.0 to 95.0)" in card
    assert "| one | 80.0 |" in card
    assert "self-training" not in card  # of a model that learned from labels alone
    assert "self-training with noisy students" in model_card(own, {**figures, "kept_fraction": 0.9})
    assert "Its classes are zero, one, two." in card
