"""Stages as processes that are killed, stopped, starved of room and run while their parameters are edited.

A sample of what `python -m benchmarks.kills` does hundreds of times.
"""

import random
import shlex
import signal
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from running import TEACHER, in_training, refused

from benchmarks import kills
from benchmarks.small_run import Project, Run
from noisy_student.core.config import changed

OUT = "models/iter0"
MEMORY = 4 * 10**9  # bytes of address space: enough for torch, too few for the batch
AS_MODULE = "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
CAN_MOUNT = not subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode
needs_mount = pytest.mark.skipif(not CAN_MOUNT, reason="this user may not mount a filesystem")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("kills") / "project", ["check", "prepare", TEACHER])


@pytest.fixture
def edited(project):
    """Changes params.yaml, which is what it was when the test is over."""
    path = project.folder / "params.yaml"
    before = path.read_text()

    def edit(changes: dict) -> None:
        path.write_text(yaml.safe_dump(changed(yaml.safe_load(before), changes), sort_keys=False))

    yield edit
    path.write_text(before)


def nothing_is_lost(project: Project) -> bool:
    """Whether the stage that was refused left no output, and the next run makes what it should be."""
    left = (project.folder / OUT).exists()
    project.finish(TEACHER)
    return not left and project.hashes(TEACHER) == project.made[TEACHER]


def test_a_killed_stage_ends_with_the_bytes_of_the_uninterrupted_run(project):
    run = in_training(project)
    run.kill()
    run.ended()
    row = kills.killed(project, TEACHER, random.Random(0), signal.SIGKILL, fresh=False, most=2)  # noqa: S311 no secret
    assert row["equal"]
    assert row["kills"] >= 1
    assert row["resumed"] >= 1


def test_a_terminated_stage_leaves_its_last_step_and_status_143(project):
    run = in_training(project)
    run.terminate()
    run.wait(10)
    assert run.returncode == 143
    assert "of 150; run again to go on" in run.said()
    assert not (project.folder / OUT).exists()
    step = int(run.said().rpartition("after step ")[2].split()[0])
    assert f"goes on after step {step} of 150" in project.finish(TEACHER)
    assert project.hashes(TEACHER) == project.made[TEACHER]


def test_a_parameter_that_is_edited_meanwhile_fails_the_stage(project, edited):
    run = in_training(project)
    edited({"seed": 1})
    assert "seed of params.yaml changed while train_teacher ran" in refused(run)
    edited({})
    assert nothing_is_lost(project)


@pytest.mark.slow
def test_a_lost_shard_is_named(project):
    shard = project.folder / "data/labeled/images-00000.npy"
    content = shard.read_bytes()
    project.forget(TEACHER)
    shard.unlink()
    sentence = refused(project.start(project.lines[TEACHER][0]))
    assert "data/labeled/images-00000.npy" in sentence
    assert "run `dvc repro` to make it again" in sentence
    shard.write_bytes(content)
    assert nothing_is_lost(project)


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_said_with_what_to_do(project, edited):
    project.forget(TEACHER)
    edited({"training.learning_rate": 1e30})
    sentence = refused(project.start(project.lines[TEACHER][0]))
    assert "loss became nan; lower training.learning_rate" in sentence
    edited({})
    assert nothing_is_lost(project)


@pytest.mark.slow
def test_too_little_memory_is_said_with_what_to_do(project, edited):
    project.forget(TEACHER)
    edited({"teacher.training": {"batch_size": 65536}})
    few = [
        "-c",
        f"import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_AS, ({MEMORY}, {MEMORY})); {AS_MODULE}",
    ]
    sentence = refused(project.start([*few, *project.lines[TEACHER][0][1:]]))
    assert "too little memory; raise training.accumulation or lower training.batch_size" in sentence
    edited({})
    assert nothing_is_lost(project)


def in_a_mount_of_its_own(project: Project, command: str) -> Run:
    """A shell that may mount; `$stage` is the teacher's trainer, with a checkpoint after every step."""
    stage = f"env NOISY_STUDENT_CHECKPOINT_SECONDS=0 {sys.executable} {' '.join(project.lines[TEACHER][0])}"
    return Run(["unshare", "-rm", "sh", "-c", f"stage={shlex.quote(stage)}; {command}"], project.folder)


@pytest.mark.slow
@needs_mount
def test_a_full_filesystem_is_said_in_a_sentence_and_the_next_run_goes_on(project):
    project.forget(TEACHER)
    small, larger = "mount -t tmpfs -o size=350k tmpfs work", "mount -o remount,size=100M work"
    said = in_a_mount_of_its_own(project, f"{small} && $stage; echo status $? && {larger} && $stage").ended()
    refusal, _, resumed = said.partition("status 1\n")
    assert refusal.splitlines()[-1].startswith("error: No space left on device: work/train_teacher-")
    assert "; fix that and run again" in refusal.splitlines()[-1]
    assert "Traceback" not in refusal
    assert "goes on after step" in resumed
    assert project.hashes(TEACHER) == project.made[TEACHER]


@pytest.mark.slow
@needs_mount
@pytest.mark.parametrize("folder", ["work", "models"])
def test_a_folder_that_cannot_be_written_to_is_named(project, folder):
    project.forget(TEACHER)
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"
    sentence = refused(in_a_mount_of_its_own(project, f"{mount} && $stage"))
    assert sentence.startswith("error: Read-only file system: ")
    assert f"{folder}/" in sentence
    assert "; fix that and run again" in sentence
    assert nothing_is_lost(project)


def test_the_table_counts_kills_and_other_bytes():
    rows = pd.DataFrame(
        {
            "kind": ["training", "training", "training", "dvc", "repeated"],
            "kills": [3, 1, 0, 1, None],
            "resumed": [2, 1, 0, 1, None],
            "in_commit": [1, 0, 0, None, None],
            "slowest_stop": [0.1, 0.2, 0.0, None, None],
            "seconds_lost": [6.0, 2.0, 9.0, None, None],
            "overlap": [None, None, None, 0.25, None],
            "runs": [None, None, None, None, 1],
            "equal": [True, False, True, True, True],
        }
    )
    table = kills.table(rows).splitlines()
    assert table[-3] == "| training |  | 4 | 3 | 1 |  | 0.20 |  |  | 2.0 | 3 | 1 |"
    assert table[-2] == "| dvc |  | 1 | 1 |  |  |  |  | 0.25 |  | 1 | 0 |"
    assert table[-1] == "| repeated | 1 |  |  |  |  |  |  |  |  | 1 | 0 |"


def test_rounds_of_other_code_are_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "KILLS", tmp_path / "kills.csv")
    monkeypatch.chdir(tmp_path)
    assert not len(kills.done("dvc"))
    for code in (kills.code("dvc"), "other"):
        kills.add({"kind": "dvc", "code": code, "kills": 3, "equal": True})
    kills.add({"kind": "repeated", "code": kills.code("repeated"), "runs": 1, "equal": True})
    assert kills.done("dvc").sum().item() == 3
    assert kills.code("dvc") != kills.code("repeated")


def test_unknown_kinds_are_refused(capsys):
    with pytest.raises(SystemExit):
        kills.main(["murder"])
    assert "there is no kind murder; there are training, others" in capsys.readouterr().err
