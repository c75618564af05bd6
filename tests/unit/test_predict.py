"""What is done with a trained model: labels for any folder, and the images to label next."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from untrained import make_untrained

from commands import label_next, predict
from commands.label_next import margins, worth_labeling
from noisy_student.core.files import digest
from noisy_student.models.classifier import load_classifier
from noisy_student.models.prediction import predict_logits as logits_of


@pytest.fixture
def here(tmp_path, monkeypatch, make_split, runtime):
    """A model in models/iter1, its parameters, and the first 20 digits as files and as the pool."""
    monkeypatch.chdir(tmp_path)
    split = make_split(0, 20)
    make_untrained(tmp_path, split, runtime)
    (tmp_path / "photos/deep").mkdir(parents=True)
    for number, image in enumerate(split.images()):
        Image.fromarray(image[..., 0]).save(tmp_path / f"photos/deep/{number:02}.png")
    return tmp_path


@pytest.mark.parametrize(("command", "words"), [(predict, ["photos", "labels.csv"]), (label_next, ["next"])])
def test_without_params_a_model_must_be_named(tmp_path, monkeypatch, capsys, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with pytest.raises(SystemExit):
        command.main(words)
    assert (
        "there is no params.yaml here that names a model; add --model and a model's folder" in capsys.readouterr().err
    )


@pytest.mark.usefixtures("torch_settings")
def test_every_file_of_a_folder_gets_a_row(here, make_split, runtime, capsys):
    (here / "photos/notes.txt").write_text("no image")
    predict.main(["photos", "labels.csv"])
    table = pd.read_csv("labels.csv", keep_default_na=False)
    assert list(table) == ["path", "label", "confidence", "reason"]
    assert len(table) == 21
    assert table.set_index("path").loc["notes.txt"].tolist() == ["", "", "no image of a known format"]
    images = table[table["reason"] == ""]
    classifier, _ = load_classifier(here / "models/iter1", torch.device("cpu"))
    expected = logits_of(classifier, make_split(0, 20).images(), runtime).argmax(axis=1)
    assert images["label"].tolist() == [("zero", "one", "two")[k] for k in expected]
    assert "20 files labeled, 1 unusable; see labels.csv" in capsys.readouterr().out


@pytest.mark.usefixtures("torch_settings")
@pytest.mark.parametrize(("command", "words"), [(predict, ["photos", "labels.csv"]), (label_next, ["next"])])
def test_the_model_to_deploy_labels_unless_another_one_is_named(here, capsys, command, words):
    (here / "models/iter1").rename(here / "models/small")
    (here / "metrics").mkdir()
    weights = here / "models/small/model.safetensors"
    deploy = {"folder": "models/small", "weights_sha256": digest(weights), "decided": True}
    (here / "metrics/summary.json").write_text(json.dumps({"deploy": deploy}))
    command.main(words)
    assert "with models/small, the model to deploy" in capsys.readouterr().out
    other = [*words[:-1], "other.csv" if command is predict else "other"]
    with pytest.raises(SystemExit):
        command.main([*other, "--model", "models/iter7"])
    assert "there is no folder models/iter7" in capsys.readouterr().err
    for spoil in (lambda: weights.write_bytes(b"of another run"), weights.unlink):
        spoil()
        with pytest.raises(SystemExit):
            command.main(other)
        assert "models/small is not there as metrics/summary.json has it" in capsys.readouterr().err


@pytest.mark.usefixtures("torch_settings")
def test_where_it_is_undecided_what_to_deploy_the_current_iteration_labels(here):
    (here / "metrics").mkdir()
    deploy = {"folder": "models/iter0", "weights_sha256": "", "decided": False}
    (here / "metrics/summary.json").write_text(json.dumps({"deploy": deploy}))
    predict.main(["photos", "labels.csv"])
    assert len(pd.read_csv("labels.csv")) == 20


@pytest.mark.usefixtures("torch_settings")
def test_files_of_twelve_bits_in_sixteen_have_the_white_that_the_model_keeps(here):
    predict.main(["photos", "labels.csv"])
    description = json.loads((here / "models/iter1/model.json").read_text())
    description["preparation"]["white"] = 4095
    (here / "models/iter1/model.json").write_text(json.dumps(description))
    for file in (here / "photos/deep").iterdir():
        values = np.asarray(Image.open(file)).astype(float)
        Image.fromarray((values * 4095 / 255).round().astype(np.uint16)).save(file)
    predict.main(["photos", "again.csv"])
    first, again = (pd.read_csv(name)["confidence"] for name in ("labels.csv", "again.csv"))
    assert again.tolist() == pytest.approx(first.tolist())


@pytest.mark.usefixtures("torch_settings")
def test_below_the_confidence_it_abstains_and_parquet_is_the_same_table(here):
    predict.main(["photos", "labels.csv"])
    table = pd.read_csv("labels.csv", keep_default_na=False)
    bar = float(np.median(table["confidence"]))
    predict.main(["photos", "labels.parquet", "--model", "models/iter1", "--abstain", str(bar)])
    again = pd.read_parquet("labels.parquet")
    assert again["confidence"].tolist() == pytest.approx(table["confidence"].tolist())
    assert ((again["label"] == "abstain") == (again["confidence"] < bar)).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["photos", "labels.xls"], "must end in .csv or .parquet"),
        (["nowhere", "labels.csv"], "nowhere is no folder of images"),
        (["photos", "labels.csv", "--abstain", "80"], "--abstain was 80.0; it must be from 0 to 1"),
        (
            ["photos", "labels.csv", "--model", "models/iter9"],
            "there is no folder models/iter9; name a model's folder, or ",
        ),
        (["photos", "labels.csv", "--model", "photos"], "photos holds no readable model"),
    ],
)
@pytest.mark.usefixtures("torch_settings", "here")
def test_what_cannot_be_done_is_said_in_a_sentence(capsys, arguments, said):
    with pytest.raises(SystemExit):
        predict.main(arguments)
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("torch_settings", "here")
def test_an_empty_folder_gives_an_empty_table(tmp_path):
    (tmp_path / "empty").mkdir()
    predict.main(["empty", "labels.csv"])
    assert len(pd.read_csv("labels.csv")) == 0


@pytest.mark.usefixtures("torch_settings")
def test_the_images_to_label_next_come_with_a_table_to_fill_in_and_a_sheet(here):
    label_next.main(["next", "--images", "5"])
    table = pd.read_csv("next/label_next.csv")
    assert list(table) == ["id", "label"]
    assert pd.read_csv("next/guesses.csv")["id"].tolist() == table["id"].tolist()
    assert table["label"].isna().all()
    assert len(set(table["id"])) == 5
    assert Image.open("next/sheet.png").size == (5 * 68 + 4, 72)
    label_next.main(["more", "--images", "100"])
    assert len(pd.read_csv("more/label_next.csv")) == 20
    with pytest.raises(SystemExit):
        label_next.main(["next"])  # would lose what was filled in


def test_the_unsure_are_named_and_they_differ():
    probabilities = np.full((200, 3), 0.01)
    probabilities[:, 0] = 0.98
    probabilities[7:17] = [0.5, 0.5, 0.0]  # ten of the same
    probabilities[50], probabilities[60] = [0.0, 0.5, 0.5], [0.5, 0.0, 0.5]
    chosen = worth_labeling(probabilities, 3)
    assert {50, 60} < set(chosen.tolist())
    assert (margins(probabilities[chosen]) == 0).all()


@pytest.mark.usefixtures("torch_settings")
def test_a_model_folder_is_enough_without_the_project(here):
    (here / "params.yaml").unlink()
    predict.main(["photos", "labels.csv", "--model", "models/iter1"])
    assert (pd.read_csv("labels.csv", keep_default_na=False)["reason"] == "").any()
