"""What the tests share that start a stage as a process and stop it midway."""

import pytest

from benchmarks.small_run import Project, Run
from noisy_student.core.launch import TORCHRUN

TEACHER = "train_teacher"


def in_training(project: Project) -> Run:
    """The teacher's training, started anew, after its first checkpoint."""
    project.forget(TEACHER)
    run = project.start(project.lines[TEACHER][0])
    assert run.until(lambda: project.checkpoints(TEACHER))
    return run


def trained_by_two_ranks(project: Project) -> dict[str, str]:
    """What the teacher's training by two ranks makes when nobody stops it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TORCHRUN, "--nproc-per-node 2")
        project.anew(TEACHER)
    return project.hashes(TEACHER)


def refused(run: Run) -> str:
    """The one sentence that a stage ends with, once it has; it has printed no traceback."""
    said = run.ended()
    assert run.returncode == 1
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return sentence
