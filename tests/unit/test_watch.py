"""What is shown of trainings that are done, that go on, and that were stopped."""

import os
import socket

import pytest

from commands import watch
from noisy_student.core.signals import Stopped
from noisy_student.models.checkpoint import glance
from noisy_student.training.loop import TrainingData, TrainingRun, fit, save_trained


@pytest.fixture
def project(tmp_path, monkeypatch, make_recipe, make_split, runtime):
    """A project with a finished iter0, and an iter1 that was stopped after some steps."""
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOISY_STUDENT_CHECKPOINT_SECONDS", "0")
    data = TrainingData(make_split(0, 60), make_split(400, 450))

    def run(name: str, steps: int) -> TrainingRun:
        return TrainingRun(name, make_recipe("mlp_8", {}, steps=steps), runtime, torch.device("cpu"), 0)

    save_trained(tmp_path / "models/iter0", fit(run("iter0", 20), data), data)
    fit(run("iter1", 30), data, tmp_path / "work/train_student-0/checkpoints")
    return tmp_path


def held(project, by: str) -> None:
    """Note in the lock of iter1's work which process does it."""
    lock = project / "work/locks/train_student-0"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(by)


def test_finished_trainings_and_the_last_checkpoint_are_shown(project, capsys):
    done, other = watch.trainings()
    assert (done.name, done.state, done.step, len(done.accuracies)) == ("iter0", "done", 20, len(done.losses))
    assert done.loss == done.losses[-1]
    assert (other.name, other.step, len(other.losses)) == ("iter1", 30, 30)
    assert other.loss == pytest.approx(sum(other.losses[-watch.LAST :]) / watch.LAST)
    watch.main(["--once"])
    said = capsys.readouterr().out
    assert "iter0" in said
    assert "iter1" in said
    assert "█" in said


@pytest.mark.parametrize(
    ("by", "state"),
    [
        (f"process {os.getpid()} on {socket.gethostname()}", "trains"),
        (f"process {os.getpid()} on another-machine", "stopped"),
        ("process 999999999 on " + socket.gethostname(), "stopped"),
        ("", "stopped"),
    ],
    ids=["runs", "elsewhere", "ended", "never"],
)
def test_a_training_goes_on_where_its_process_runs(project, monkeypatch, by, state):
    held(project, by)
    seen = glance(project / "work/train_student-0/checkpoints")
    monkeypatch.setattr(watch, "glance", lambda folder: seen._replace(steps=40))
    assert watch.trainings()[-1].state == state


def test_a_checkpoint_of_an_earlier_version_has_the_name_of_its_work(project, monkeypatch):
    seen = glance(project / "work/train_student-0/checkpoints")
    nameless = {key: value for key, value in seen.rest.items() if key != "name"}
    monkeypatch.setattr(watch, "glance", lambda folder: seen._replace(rest=nameless))
    assert watch.trainings()[-1].name == "train_student-0"


@pytest.mark.parametrize("seconds", ["0", "nan", "1e30", "-1"])
def test_no_time_between_two_looks_is_refused(seconds, capsys):
    with pytest.raises(SystemExit):
        watch.main(["--seconds", seconds])
    assert "it must be above 0" in capsys.readouterr().err


def test_a_checkpoint_that_goes_away_or_is_damaged_is_passed_over(project):
    folder = project / "work/train_student-0/checkpoints"
    (folder / "step-999999999-0.safetensors").write_bytes(b"half")
    assert glance(folder).rest["step"] == 30
    for file in folder.iterdir():
        file.write_bytes(b"half")
    assert glance(folder) is None
    assert [each.name for each in watch.trainings()] == ["iter0"]
    (project / "models/iter0/model.json").unlink()
    assert watch.trainings() == []


def test_without_any_training_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    watch.main(["--once"])
    assert "No model was trained here" in capsys.readouterr().out


def test_it_looks_again_until_it_is_stopped(project, monkeypatch):
    looks = []

    def look() -> list:
        looks.append(1)
        if len(looks) == 3:
            raise Stopped(2)
        return []

    monkeypatch.setattr(watch, "trainings", look)
    watch.main(["--seconds", "0.01"])
    assert len(looks) == 3


RISE = [0.0] * 400 + [1.0] * 400


@pytest.mark.parametrize(
    ("values", "shown"),
    [([], ""), ([3.0], "▅"), ([0.0, 1.0], "▁█"), ([1.0, 0.5, 0.0], "█▅▁"), (RISE, "▁" * 20 + "█" * 20)],
    ids=["nothing", "one", "two", "three", "many"],
)
def test_a_curve_goes_from_the_lowest_to_the_highest_block(values, shown):
    assert watch.curve(values) == shown
