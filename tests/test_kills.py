"""Stages as processes that are killed, stopped, starved of room and run while their parameters are edited.

A sample of what `python -m benchmarks.kills` does hundreds of times.
"""

import random
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from benchmarks import kills
from benchmarks.kills import Project

TEACHER = "train_teacher"
CAN_MOUNT = not subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return Project(tmp_path_factory.mktemp("kills") / "project", ["check", "prepare", TEACHER])


def stage_in_training(project: Project) -> subprocess.Popen:
    """The teacher's trainer, started anew, after its first checkpoint."""
    project.forget(TEACHER)
    process = project.start(project.lines[TEACHER][0])
    while not project.checkpoints(TEACHER):
        assert process.poll() is None
        time.sleep(0.01)
    return process


def test_a_killed_stage_ends_with_the_bytes_of_the_uninterrupted_run(project):
    process = stage_in_training(project)
    process.kill()
    process.communicate()
    row = kills.killed(project, TEACHER, random.Random(0), signal.SIGKILL, fresh=False)  # noqa: S311 no secret
    assert row["equal"]
    assert row["resumed"] >= 1


def test_a_terminated_stage_leaves_its_last_step_and_status_143(project):
    process = stage_in_training(project)
    process.terminate()
    said = process.communicate(timeout=10)[0]
    assert process.returncode == 143
    assert "of 150; run again to go on" in said
    assert not (project.folder / "models/iter0").exists()
    step = int(said.rpartition("after step ")[2].split()[0])
    assert f"goes on after step {step} of 150" in project.finish(TEACHER)
    assert project.hashes(TEACHER) == project.made[TEACHER]


def test_a_parameter_that_is_edited_meanwhile_fails_the_stage(project):
    params = project.folder / "params.yaml"
    before = params.read_text()
    process = stage_in_training(project)
    params.write_text(before.replace("seed: 0\n", "seed: 1\n"))
    said = process.communicate(timeout=60)[0]
    params.write_text(before)
    assert process.returncode == 1
    assert "error: seed of params.yaml changed while train_teacher ran" in said
    assert not (project.folder / "models/iter0").exists()


@pytest.mark.slow
@pytest.mark.skipif(not CAN_MOUNT, reason="this user may not mount a small filesystem")
def test_a_full_filesystem_is_said_in_a_sentence_and_the_next_run_goes_on(project):
    project.forget(TEACHER)
    shutil.rmtree(project.folder / "work")
    (project.folder / "work").mkdir()
    line = " ".join([sys.executable, *project.lines[TEACHER][0]])
    mounted = f"mount -t tmpfs -o size=100k tmpfs work && NOISY_STUDENT_CHECKPOINT_SECONDS=0 {line}; df work | tail -1"
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mounted], cwd=project.folder, capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("error: the machine refuses")
    assert "No space left on device; mend that and run again" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    project.finish(TEACHER)
    assert project.hashes(TEACHER) == project.made[TEACHER]


def test_the_table_counts_kills_and_other_bytes():
    rows = pd.DataFrame(
        {
            "kind": ["training", "training", "dvc"],
            "kills": [3, 1, 1],
            "resumed": [2, 1, 1],
            "in_commit": [1, 0, None],
            "slowest_stop": [0.1, 0.2, None],
            "seconds_lost": [6.0, 2.0, None],
            "equal": [True, False, True],
        }
    )
    table = kills.table(rows).splitlines()
    assert table[-2] == "| training | 4 | 3 | 1 |  | 2.0 | 2 | 1 |"
    assert table[-1] == "| dvc | 1 | 1 |  |  |  | 1 | 0 |"


def test_unknown_kinds_are_refused(capsys):
    with pytest.raises(SystemExit):
        kills.main(["murder"])
    assert "there is no kind murder; there are training, others" in capsys.readouterr().err
