"""Tasks for Label Studio, and what comes back."""

import base64
import io
import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from commands import label_studio
from commands.label import Corrections
from commands.label_next import ToLabel
from noisy_student.core.errors import UserError
from noisy_student.store.splits import pixel_hash, write_split

CLASSES = ["cat", 'dog "or" wolf', "<eel>"]
IDS = ["pool/a.jpg", "pool/b,b.jpg", "c"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A project whose pool has three images, which are those to label."""
    monkeypatch.chdir(tmp_path)
    images = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1)
    index = pd.DataFrame({"id": IDS, "sha256": pixel_hash(images)})
    write_split(tmp_path / "data/pool", images, index, CLASSES, {"image_size": 8, "resize": "crop"}, 10_000)
    table = pd.DataFrame({"id": IDS, "guess": CLASSES, "confidence": np.float32([0.5, 0.25, 1]), "margin": 0.1})
    monkeypatch.setattr(label_studio, "to_label", lambda *_: ToLabel(table, images, CLASSES))
    return tmp_path


def annotated(task: dict, *labels: str, skipped: bool = False) -> dict:
    """The task as Label Studio exports it after people gave those labels."""
    results = [{**task["predictions"][0]["result"][0], "value": {"choices": [label]}} for label in labels]
    annotations = [{"was_cancelled": skipped, "result": [result]} for result in results]
    return {"id": 7, **task, "annotations": annotations or [{"was_cancelled": skipped, "result": []}]}


def written(here) -> list[dict]:
    label_studio.main(["tasks.json"])
    return json.loads((here / "tasks.json").read_text())


def take(here, value: object) -> None:
    (here / "export.json").write_text(value if isinstance(value, str) else json.dumps(value))
    label_studio.main(["--take", "export.json"])


def test_tasks_have_pictures_and_guesses_and_the_interface_has_the_classes(here):
    found = written(here)
    assert [task["data"]["image_id"] for task in found] == IDS
    kind, content = found[0]["data"]["image"].split(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (8, 8)
    (guess,) = found[1]["predictions"]
    assert guess["score"] == 0.25
    assert guess["result"][0]["value"] == {"choices": [CLASSES[1]]}
    interface = ElementTree.parse(here / "tasks.xml").getroot()  # noqa: S314 our own
    assert [each.get("value") for each in interface.iter("Choice")] == CLASSES
    names = {interface.find("Image").get("name"), interface.find("Choices").get("name")}
    assert names == {guess["result"][0]["to_name"], guess["result"][0]["from_name"]}


def test_what_people_labeled_is_taken_and_what_they_skipped_is_not(here, capsys):
    (here / "corrections.csv").write_text("id,label,who\nc,cat,Ann\nother,cat,Ann\n")
    first, second, third = written(here)
    take(here, [annotated(first, "<eel>", "<eel>"), annotated(second, skipped=True), annotated(third, CLASSES[1])])
    assert Corrections(here / "corrections.csv").labels() == {"pool/a.jpg": "<eel>", "c": CLASSES[1], "other": "cat"}
    assert "2 new labels of 2 are in corrections.csv" in capsys.readouterr().out


def test_a_second_export_may_have_images_that_left_the_pool(here, capsys):
    (here / "corrections.csv").write_text("id,label\nlabeled before,cat\n")
    take(here, [{"image_id": "labeled before", "label": "<eel>"}, {"image_id": "c", "label": "cat"}])
    take(here, [{"image_id": "labeled before", "label": "<eel>"}, {"image_id": "c", "label": "cat"}])
    assert Corrections(here / "corrections.csv").labels() == {"labeled before": "<eel>", "c": "cat"}
    assert "0 new labels of 2" in capsys.readouterr().out


def test_the_short_format_is_taken_too(here):
    take(here, [{"id": 1, "image": "", "image_id": "c", "label": "cat"}, {"id": 2, "image": "", "image_id": IDS[0]}])
    assert Corrections(here / "corrections.csv").labels() == {"c": "cat"}


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("{", "is no export of Label Studio"),
        ({"tasks": []}, "is no export of Label Studio"),
        ([{"data": {"text": "x"}, "annotations": []}], "is no export of these tasks"),
        ([3], "is no export of these tasks"),
        ([{"image_id": "c", "label": {"choices": ["cat"]}}], "is no class"),
        ([{"image_id": "pool/z.jpg", "label": "cat"}], "'pool/z.jpg', which is no image of the pool"),
        ([{"image_id": "c", "label": "cta"}], "which is no class; did you mean cat"),
        ([{"image_id": "c", "label": "cat"}, {"image_id": "c", "label": "<eel>"}], "two labels, cat and <eel>"),
    ],
)
def test_what_cannot_be_taken_is_refused_and_nothing_is_written(here, capsys, value, sentence):
    with pytest.raises(SystemExit):
        take(here, value)
    assert sentence in capsys.readouterr().err
    assert not (here / "corrections.csv").exists()


WRONG = [[], ["tasks.json", "--take", "export.json"], ["tasks.json", "--images", "0"], ["tasks.xml"], ["tasks"]]


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_command_is_refused(here, words):
    with pytest.raises(SystemExit):
        label_studio.main(words)
    assert not list(here.glob("tasks.*"))


@pytest.mark.parametrize("name", ["tasks.json", "tasks.xml"])
def test_files_that_are_there_are_not_overwritten(here, capsys, name):
    (here / name).write_text("mine")
    with pytest.raises(SystemExit):
        label_studio.main(["tasks.json"])
    assert f"{name} is there; name another file" in capsys.readouterr().err
    assert [(file.name, file.read_text()) for file in here.glob("tasks.*")] == [(name, "mine")]


def test_an_unknown_export_is_refused(here):
    with pytest.raises(UserError, match="there is no file"):
        label_studio.exported(here / "none.json", CLASSES, IDS)
