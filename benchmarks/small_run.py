"""A run of half a minute in a folder of its own, whose stages can be started, watched and killed one by one.

project = Project(folder)                    # runs it once and notes the hashes of all that it made
project.forget("train_teacher")              # as if that stage had never run
run = project.start(project.lines["train_teacher"][0])
run.until(lambda: "steps on" in run.said())
run.kill()
project.finish("train_teacher")
assert project.hashes("train_teacher") == project.made["train_teacher"]
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from benchmarks.expand import commands, expanded, written
from benchmarks.processes import ROOT
from benchmarks.study import copy_project, environment
from noisy_student.core.config import changed
from noisy_student.core.errors import UserError
from noisy_student.core.files import digest

TRAINERS = ("train_teacher", "train_student@iter1", "train_control@same_size")
SMALL = {  # every kind of noise, several shards of the pool and several batches of each
    "current": "iter1",
    "runtime.threads": 1,
    "data.shard_megabytes": 1,
    "data.pool": 3000,
    "teacher.model": "cnn_8",
    "teacher.noise.cutout": 0.2,
    "teacher.noise.stochastic_depth": 0.1,
    "teacher.training": {"steps": 150, "batch_size": 64},
    "training.steps": 150,
    "training.batch_size": 64,
    "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_8"}},
    "controls.same_size.of": "iter1",
}
OFTEN = {"NOISY_STUDENT_CHECKPOINT_SECONDS": "0.2"}
SECONDS = 600  # no stage of this run takes as long


class Run(subprocess.Popen):
    """A command that runs, and what it has printed so far."""

    def __init__(self, command: list[str], folder: Path):
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 closed with the object
        own = {**environment(), **OFTEN}
        super().__init__(command, cwd=folder, env=own, stdout=self.output, stderr=subprocess.STDOUT)
        self.since = time.time()

    def said(self) -> str:
        """All that it printed, to standard output and error."""
        return os.pread(self.output.fileno(), 1_000_000, 0).decode()

    def ranks(self) -> list[psutil.Process]:
        """The ranks of a stage that runs, in their order."""
        found = {}
        with suppress(psutil.Error):
            for child in psutil.Process(self.pid).children(recursive=True):
                if "RANK" in (settings := child.environ()):
                    found[int(settings["RANK"])] = child
        return [found[number] for number in sorted(found)]

    def until(self, happened: Callable[[], object], seconds: float = 0, pause: float = 0.01) -> bool:
        """Wait until that has happened, looking again after each `pause`, and then for `seconds`; whether it runs."""
        while self.poll() is None and not happened():
            time.sleep(pause)
        try:
            self.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def ended(self) -> str:
        """All that it printed until it ended."""
        self.wait(SECONDS)
        return self.said()


class Project:
    """The small run with these `changes`, or some of its `stages`, done once, with the hashes of what each made."""

    def __init__(self, folder: Path, stages: Collection[str] = (), changes: dict[str, Any] | None = None):
        self.folder = folder
        params = changed(yaml.safe_load((ROOT / "params.yaml").read_text()), SMALL | (changes or {}))
        pipeline = copy_project(folder, params)
        shutil.copytree(ROOT / ".dvc", folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        self.lines = {name: [line.split()[1:] for line in lines] for name, lines in commands(pipeline, params)}
        self.outs = {name: written(stage) for name, stage in expanded(pipeline, params).items()}
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        self.seconds, self.made = {}, {}
        for name in stages or self.lines:
            started = time.monotonic()
            self.finish(name)
            self.seconds[name] = time.monotonic() - started
            self.made[name] = self.hashes(name)

    def start(self, line: list[str], within: Sequence[str] = ()) -> Run:
        """Start a command of dvc.yaml, `within` another one that runs it."""
        return Run([*within, sys.executable, *line], self.folder)

    def repro(self, name: str) -> Run:
        """Start DVC on one stage, whatever is there of it."""
        options = ["--single-item", "--force", "--no-run-cache"]
        return Run([sys.executable, "-m", "dvc", "repro", *options, name], self.folder)

    def finish(self, name: str) -> str:
        """Run a stage to its end and return what it printed."""
        said = ""
        for line in self.lines[name]:
            run = self.start(line)
            said += run.ended()
            if run.returncode:
                raise UserError(f"{name} ended with status {run.returncode}: {said}")
        return said

    def anew(self, name: str) -> str:
        """Run a stage of which nothing is there and return what it printed."""
        self.forget(name)
        return self.finish(name)

    def forget(self, name: str) -> None:
        """Remove what a stage made, as DVC does before it runs it, and the work that is kept of it."""
        for out in self.outs[name]:
            path = self.folder / out
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for work in self.work(name, ""):
            shutil.rmtree(work)

    def hashes(self, name: str) -> dict[str, str]:
        """The sha256 of each file that a stage made, no more and no less."""
        found = [
            file for out in self.outs[name] for file in sorted([self.folder / out, *(self.folder / out).rglob("*")])
        ]
        return {str(file.relative_to(self.folder)): digest(file) for file in found if file.is_file()}

    def checkpoints(self, name: str) -> list[Path]:
        """The checkpoints of a stage, the last one first."""
        return sorted(self.work(name, "checkpoints/*.safetensors"), reverse=True)

    def works(self, name: str, run: Run) -> bool:
        """Whether `run` of a stage has imported what it needs and begun its work."""
        locks = (self.folder / "work" / "locks").glob(f"{self.program(name)}-*")
        return any(lock.read_text().startswith(f"process {run.pid} ") for lock in locks)

    def work(self, name: str, pattern: str) -> list[Path]:
        """What is in progress of a stage."""
        return list((self.folder / "work").glob(f"{self.program(name)}-*/{pattern}"))

    def program(self, name: str) -> str:
        """The program of a stage, by which its work is called."""
        return self.lines[name][0][1].removeprefix("stages.")
