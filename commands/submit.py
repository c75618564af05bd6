"""Run the pipeline as a SLURM job, which goes on by itself after it was preempted: python -m commands.submit"""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from noisy_student.core.errors import UserError, cli_main, one_line
from noisy_student.core.launch import TORCHRUN

FOLDER = Path("slurm")  # of the job's script and of what it prints
REQUEUES = 1000  # after the time of the job was over; after preemption there is no limit
SIGNALS = (signal.SIGTERM, signal.SIGUSR2)  # to all processes of a job, before SLURM ends it
PORTS = range(20_000, 30_000)  # of the first machine, where the others meet it: one for each job
STOPPED = {status for number in SIGNALS for status in (-number, 128 + number)}  # of a process that got one
KILLED_WITHIN = 3600  # seconds between such a signal and the end


@dataclass(frozen=True)
class Pipeline:
    """What the job does: `dvc repro` of some stages, or of all, each stage as so many ranks on each machine."""

    folder: Path
    stages: tuple[str, ...]
    ranks: int
    nodes: int

    def __call__(self) -> None:
        """Run it, or on all machines but the first one follow that. Raises `UserError` when a stage fails."""
        job = submitit.JobEnvironment()
        environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        environment[TORCHRUN] = self._torchrun(job)
        over = self.folder / FOLDER / f"{job.job_id}_over"
        if not job.node:
            over.unlink(missing_ok=True)  # of a start before this one
        done = subprocess.run(self._command(job, over), cwd=self.folder, env=environment, check=False)
        if done.returncode in STOPPED:
            time.sleep(KILLED_WITHIN)
        if self.nodes > 1:
            over.touch()
        if done.returncode:
            raise UserError("a stage failed; what it said stands above")

    def _command(self, job: submitit.JobEnvironment, over: Path) -> list[str]:
        """What a machine runs: the first one the stages; each other one follows it until the file `over` is there."""
        follow, stages = ["commands.follow", "--until", str(over)], ["dvc", "repro", *self.stages]
        return [sys.executable, "-m", *(follow if job.node else stages)]

    def _torchrun(self, job: submitit.JobEnvironment) -> str:
        """The options of torchrun."""
        if self.nodes == 1:
            return f"--nproc-per-node {self.ranks}" if self.ranks > 1 else ""
        first, port = job.hostnames[0], PORTS[int(job.raw_job_id) % len(PORTS)]
        options = f"--nnodes {self.nodes} --nproc-per-node {self.ranks} --rdzv-backend c10d"
        return f"{options} --rdzv-endpoint {first}:{port}"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """What the job does when it is started again: the same, for the stages keep their work in progress."""
        return submitit.helpers.DelayedSubmission(self)


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.partition(": python -m ")[0])
    parser.add_argument("stages", nargs="*", help="stages of dvc.yaml, with all that they need; none: all")
    parser.add_argument("--minutes", type=int, default=240, help="after so many the job is started again and goes on")
    parser.add_argument("--nodes", type=int, default=1, help="machines; they share the project's folder")
    parser.add_argument("--gpus", type=int, default=0, help="of each machine; a stage has as many ranks there")
    parser.add_argument("--ranks", type=int, help="of a stage on each machine, if not as many as GPUs")
    parser.add_argument("--cpus", type=int, default=2, help="of each machine, for all its ranks together")
    parser.add_argument("--sbatch", action="append", default=[], metavar="KEY=VALUE", help="such as partition=long")
    args = parser.parse_args(argv)
    for name, least in {"minutes": 1, "nodes": 1, "gpus": 0, "ranks": 1, "cpus": 1}.items():
        if (number := getattr(args, name)) is not None and number < least:
            raise UserError(f"--{name} was {number}; it must be at least {least}")
    options = {"requeue": True, **dict(_option(text) for text in args.sbatch)}
    pipeline = Pipeline(Path.cwd(), tuple(args.stages), args.ranks or max(1, args.gpus), args.nodes)
    job = _submit(
        pipeline,
        job_name="noisy-student",
        time=args.minutes,
        nodes=args.nodes,
        ntasks_per_node=1,
        cpus_per_task=args.cpus,
        gpus_per_node=args.gpus or None,
        stderr_to_stdout=True,
        additional_parameters=options,
    )
    print(f"job {job.job_id} runs dvc repro; it prints to {job.paths.stdout}; `scancel {job.job_id}` ends it")


def _option(text: str) -> tuple[str, str | bool]:
    """The option KEY=VALUE, or KEY alone."""
    key, equals, value = text.removeprefix("--").partition("=")
    return key, value if equals else True


def _submit(pipeline: Pipeline, **parameters: Any) -> "submitit.Job[None]":
    """The job that SLURM has accepted. Raises `UserError` where there is no SLURM, and with what `sbatch` refuses."""
    try:
        executor = submitit.SlurmExecutor(FOLDER, max_num_timeout=REQUEUES)
    except RuntimeError:
        raise UserError("there is no SLURM here: the command srun is missing; submit from a login node") from None
    executor.update_parameters(**parameters)
    try:
        return executor.submit(pipeline)
    except submitit.core.utils.FailedJobError as error:
        raise UserError(f"sbatch refused the job: {one_line(error)}") from None


if __name__ == "__main__":
    main()
