"""What the tests share that start a stage as a process and stop it midway."""

from benchmarks.small_run import Project, Run

TEACHER = "train_teacher"


def in_training(project: Project) -> Run:
    """The teacher's training, started anew, after its first checkpoint."""
    project.forget(TEACHER)
    run = project.start(project.lines[TEACHER][0])
    assert run.until(lambda: project.checkpoints(TEACHER))
    return run


def refused(run: Run) -> str:
    """The one sentence that a stage ends with, once it has; it has printed no traceback."""
    said = run.ended()
    assert run.returncode == 1
    assert "Traceback" not in said
    (sentence,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return sentence
