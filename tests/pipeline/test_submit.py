"""The pipeline as a SLURM job: stand-ins for SLURM's commands start it, preempt it, and start it again."""

import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest
from running import TEACHER, trained_by_two_ranks

from benchmarks.processes import ROOT
from benchmarks.small_run import OFTEN, Project
from commands import submit

START = """
nodes=$(sed -n 's/^#SBATCH --nodes=//p' {spool}/job.sh)
export SPOOL={spool} SLURM_JOB_ID=7 SLURM_NTASKS=$nodes SLURM_JOB_NUM_NODES=$nodes SLURM_JOB_NODELIST=localhost
setsid bash {spool}/job.sh >> {spool}/log 2>&1 < /dev/null &
echo $! > {spool}/pid
"""
STAND_INS = {
    "sbatch": "cp $1 {spool}/job.sh" + START + "echo Submitted batch job 7",
    "srun": """
while [[ $1 == -* ]]; do [[ $1 == --output ]] && shift; shift; done
for ((node = 0; node < SLURM_NTASKS; node++)); do
    SLURM_PROCID=$node SLURM_LOCALID=0 SLURM_NODEID=$node "$@" &
done
wait
""",
    "scontrol": "(while kill -0 $(cat {spool}/pid); do sleep 0.1; done" + START + ") > /dev/null 2>&1 &",
}
SECONDS = 120


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    folder, before = (
        tmp_path_factory.mktemp("submit") / "project",
        ["check", "prepare", "pretrain", "extract_features@labeled"],
    )
    return Project(folder, before, changes={"teacher.training": {"steps": 60, "batch_size": 64}})


@pytest.fixture(scope="module")
def uninterrupted(project) -> dict[str, str]:
    return trained_by_two_ranks(project)


@pytest.fixture
def slurm(tmp_path, project, monkeypatch) -> Iterator[Path]:
    """A folder with what the stand-ins know of their one job; they are the first commands of their names."""
    spool, programs = tmp_path / "spool", tmp_path / "bin"
    for folder in (spool, programs):
        folder.mkdir()
    (spool / "log").touch()
    for name, script in STAND_INS.items():
        (programs / name).write_text("#!/bin/bash\n" + script.replace("{spool}", str(spool)))
        (programs / name).chmod(0o700)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the small project has no commands of its own
    monkeypatch.chdir(project.folder)
    for name, value in OFTEN.items():
        monkeypatch.setenv(name, value)
    yield spool
    for process in psutil.process_iter(["environ"]):
        if (process.info["environ"] or {}).get("SPOOL") == str(spool):
            process.kill()


def ended(slurm: Path) -> str:
    """What the job printed, once it has ended."""

    def said() -> str:
        return (slurm / "log").read_text()

    wait_until(lambda: "Exiting after successful completion" in said() or "triggered an exception" in said(), said)
    return said()


def wait_until(happened: Callable[[], object], said: Callable[[], str]) -> None:
    until = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < until, said()
        time.sleep(0.05)


@pytest.mark.parametrize("options", ["--ranks 2", pytest.param("--nodes 2", marks=pytest.mark.slow)])
def test_a_preempted_job_goes_on_to_the_same_bytes(project, uninterrupted, slurm, capsys, options):
    project.forget(TEACHER)
    shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)  # else DVC takes what it made before
    (project.folder / "dvc.lock").unlink(missing_ok=True)
    submit.main([TEACHER, *options.split()])
    assert "job 7 runs dvc repro; it prints to" in capsys.readouterr().out
    wait_until(lambda: project.checkpoints(TEACHER), (slurm / "log").read_text)
    job = psutil.Process(int((slurm / "pid").read_text()))
    for process in job.children(recursive=True):  # as SLURM does
        with suppress(psutil.NoSuchProcess):
            if process.name() != "bash":
                process.send_signal(signal.SIGUSR2)
    said = ended(slurm)
    assert "this job is preempted" in said
    assert "goes on after step" in said
    assert project.hashes(TEACHER) == uninterrupted


@pytest.mark.parametrize("status", [-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGUSR2])
@pytest.mark.parametrize("node", [0, 1])
def test_a_machine_that_is_told_to_stop_waits_for_its_end_and_the_next_start(tmp_path, monkeypatch, status, node):
    over = tmp_path / submit.FOLDER / "7_over"
    over.parent.mkdir()
    over.touch()  # of an earlier start
    job = SimpleNamespace(job_id="7", raw_job_id="7", node=node, hostnames=["localhost"])
    monkeypatch.setattr(submit.submitit, "JobEnvironment", lambda: job)
    monkeypatch.setattr(submit.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=status))
    monkeypatch.setattr(submit.time, "sleep", Mock(side_effect=InterruptedError))
    with pytest.raises(InterruptedError):
        submit.Pipeline(tmp_path, (), ranks=1, nodes=2)()
    assert over.exists() == bool(node)


def test_a_stage_that_fails_ends_the_job(project, slurm):
    project.forget(TEACHER)
    path = project.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("cnn_8", "cnn_0"))
    try:
        submit.main([TEACHER])
        assert "a stage failed; what it said stands above" in ended(slurm)
    finally:
        path.write_text(before)


def test_without_slurm_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as exit_:
        submit.main([])
    assert exit_.value.code == 1
    assert "there is no SLURM here" in capsys.readouterr().err


def test_the_options_reach_sbatch(slurm):
    others = ["--sbatch", "partition=long", "--sbatch", "exclusive"]
    submit.main(["--minutes", "30", "--gpus", "4", "--cpus", "8", *others])
    script = (slurm / "job.sh").read_text().splitlines()
    for line in ("time=30", "gpus-per-node=4", "cpus-per-task=8", "partition=long", "exclusive", "requeue"):
        assert f"#SBATCH --{line}" in script
