"""The README's walk-through with images of one's own, under a real DVC with a remote, on a tiny run."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from test_dvc import Project, stages_run

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHORT = {
    "training.steps": 2,
    "distilled.small.training.steps": 2,
    "data.near_duplicates": None,  # the search takes small digits for one another
}

pytestmark = pytest.mark.slow


def save(folder: Path, name: str, pixels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * (255 / 16)).astype(np.uint8)).resize((32, 32)).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    """The walk-through, line by line as printed, with digits for cats and dogs, in an environment that is installed.

    Only the configuration asks for fewer steps here.
    """
    made = Project(tmp_path_factory.mktemp("own") / "project")
    folder, (digits, classes) = made.folder, load_digits(n_class=2, return_X_y=True)
    walk = re.search(r"## Your own images\n\n((?: {4}.+\n)+)", README)[1]
    lines = [line.split("  #")[0].strip() for line in walk.splitlines()]
    assert [line.split()[0] for line in lines] == ["mkdir", "make", "make", "git", ".venv/bin/python"]
    made.params(re.search(r"CONFIG=(\S+)", lines[1])[1], SHORT)
    installed(made.folder / ".venv")
    made.run("sh", "-c", lines[0])
    for number, (image, label) in enumerate(zip(digits.reshape(-1, 8, 8), classes, strict=True)):
        where = f"labeled/{('cat', 'dog')[label]}" if number < 150 else "pool"
        save(folder / "images" / where, f"{number:03}", image)
    made.run("dvc", "remote", "add", "--default", "here", str(tmp_path_factory.mktemp("remote")))
    made.commit()
    made.run("sh", "-c", lines[1])
    made.said = made.run("sh", "-c", lines[2])
    made.run("sh", "-c", lines[3])
    made.predict = lines[4]
    made.run("dvc", "push")
    return made


def installed(venv: Path) -> None:
    """This environment, where `make` looks for it."""
    venv.mkdir()
    for part in ("bin", "lib", "pyvenv.cfg"):
        (venv / part).symlink_to(Path(sys.prefix) / part)
    (venv / "installed").touch()


def test_the_walk_through_trains_on_the_folder_and_labels_another(project):
    assert len(stages_run(project.said)) == 24
    assert re.search("Deploy models/|Which model to deploy is undecided", project.said)
    assert "Test accuracy by iteration" in project.said
    history = pd.read_csv(project.folder / "metrics/history.csv")
    assert history["iteration"].tolist() == ["iter0", "iter1", "iter2"]
    save(project.folder / "photos/deep", "new", np.eye(8) * 16)
    project.run("sh", "-c", project.predict.replace("~/", ""))  # a home of its own
    labels = pd.read_csv(project.folder / "labels.csv")
    assert labels["path"].tolist() == ["deep/new.png"]
    assert labels["label"][0] in ("cat", "dog")
    card = (project.folder / "data/card/card.md").read_text()
    assert "### cat" in card


def test_a_new_drop_retrains_no_teacher_and_sends_its_own_shards_alone(project):
    noise = np.random.default_rng(0).integers(0, 17, (100, 8, 8))
    for number, image in enumerate(noise):
        save(project.folder / "images/pool/june", f"{number:03}", image)
    before = {file.name for file in (project.folder / "data/pool").glob("*.npy")}
    ran = set(project.repro())
    assert {"prepare", "predict_pool@iter1", "train_student@iter1"} <= ran
    assert not ran & {"train_teacher", "train_control@same_size"}
    said = project.run("dvc", "push", "data/pool")
    assert len({file.name for file in (project.folder / "data/pool").glob("*.npy")}) == len(before) + 1
    assert "4 files pushed" in said  # the shard, index.parquet, split.json and DVC's list of the folder
    assert yaml.safe_load((project.folder / "params.yaml").read_text())["data"]["source"] == "folder"
