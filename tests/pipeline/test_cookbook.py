"""Every command of the cookbook, as printed, in its order, in a clone with a tiny run and a remote."""

import re
from pathlib import Path

import pytest
from test_dvc import Project
from test_user_images import installed

ROOT = Path(__file__).parents[2]
COOKBOOK = (ROOT / "docs" / "cookbook.md").read_text()
QUEUE_ENDS = "while dvc queue status | grep -Eq 'Queued|Running'; do sleep 1; done"
ABLE = {  # teachers that are sure of some images
    "data.labeled_per_class": 10,
    "teacher.model": "cnn_8",
    "teacher.training": {"steps": 150, "batch_size": 64, "validations": 2},
    "training.steps": 100,
    "training.batch_size": 32,
    "iterations.iter1.model": "cnn_8",
    "iterations.iter2.model": "cnn_8",
}

pytestmark = pytest.mark.slow


def recipes() -> dict[str, list[str]]:
    """The lines of code below each heading."""
    found = {}
    for section in re.split(r"^#+ ", COOKBOOK, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        found[title] = [line.strip() for line in re.findall(r"^ {4}(.+)$", text, re.MULTILINE)]
    return {title: lines for title, lines in found.items() if lines}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    made = Project(tmp_path_factory.mktemp("cookbook") / "project")
    made.params("params.yaml", ABLE)
    made.commit()
    installed(made.folder / ".venv")
    return made


@pytest.mark.parametrize("title", recipes())
def test_every_command_runs(project, title, tmp_path):
    for line in recipes()[title]:
        said = project.run("bash", "-ec", line.replace("/mnt/storage", str(tmp_path / "storage")))
        if "queue start" in line:
            project.run("bash", "-ec", QUEUE_ENDS)
        if "exp show" in line:
            rows = [line for line in said.splitlines() if re.search(r"\b(8|16|24)\b.*\|", line)]
            assert len(rows) >= 12, said
            assert project.run("dvc", "queue", "status").count("Success") == 12


def test_a_stopped_experiment_that_is_queued_again_goes_on(project):
    again = "dvc exp run --queue --name stopped --set-param training.steps=1500"
    start = "dvc queue start > queue.log 2>&1"  # a worker keeps what it is given open
    at_work = "until ls work/train_student-*/checkpoints/*; do sleep 0.2; done"
    project.run("bash", "-ec", f"{again}; NOISY_STUDENT_CHECKPOINT_SECONDS=0.2 {start}; {at_work}")
    project.run("dvc", "queue", "stop", "--kill")
    assert "Failed" in project.run("dvc", "queue", "status")
    project.run("bash", "-ec", f"dvc queue remove --failed; {again}; {start}; {QUEUE_ENDS}")
    assert "goes on after step" in project.run("dvc", "queue", "logs", "stopped")


def test_the_cookbook_has_the_recipes_that_a_team_needs():
    assert len(recipes()) >= 8
