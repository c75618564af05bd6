"""Kill stages at random moments and see whether they end with the bytes of a run that nobody killed.

    python -m benchmarks.kills                 # all kinds, about half an hour; goes on where it stopped
    python -m benchmarks.kills training dvc    # some of them

    training     SIGKILL to a stage that trains, with all noise and averaged weights on
    others       SIGKILL to any other stage
    terminated   SIGTERM to a stage that trains: a checkpoint and status 143
    damaged      SIGKILL, then a bit of its last checkpoint flipped or half of it cut off
    dvc          SIGKILL to DVC alone, and another `dvc repro` at once: the first stage ends, and never do two write
    repeated     nobody is killed: everything anew, in the same folder or in another one

A row of benchmarks/kills.csv is a round: the kills that one stage took until it ended.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml

from benchmarks.expand import commands, expanded, written
from benchmarks.study import changed, copy_project, environment
from noisy_student.errors import Refusal, exits_with_a_sentence
from noisy_student.files import read_csv, write_bytes, write_csv
from noisy_student.provenance import digest
from noisy_student.runtime import processor

ROOT = Path(__file__).parent.parent
KILLS = ROOT / "benchmarks" / "kills.csv"
WANTED = {
    "training": 200,
    "others": 50,
    "terminated": 50,
    "damaged": 20,
    "dvc": 20,
    "repeated": 10,
}  # kills of each kind
TRAINERS = ("train_teacher", "train_student@iter1", "train_control@same_size")
SMALL = {  # a run of half a minute that has every kind of noise, several shards and several batches of each
    "current": "iter1",
    "runtime.threads": 1,
    "data.shard_megabytes": 1,
    "data.pool": 3000,
    "teacher.model": "cnn_8",
    "teacher.training": {"steps": 150, "batch_size": 64},
    "training.steps": 150,
    "training.batch_size": 64,
    "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_8"}},
    "controls.same_size.of": "iter1",
}
COUNTED = ["resumed", "in_commit", "slowest_stop", "seconds_lost"]  # not of every kind
SECONDS = 600  # no stage of this run takes as long
GONE = 5  # seconds in which a stage ends whose DVC was killed
ABOUT = """The stages of a small run (MNIST-5k, cnn_8, 150 steps, all noise, a checkpoint every 0.2 s) are killed until
they end, and every file is compared with the uninterrupted run's. `repeated` kills nobody: its rounds are whole runs.
What a kill loses is a start and the steps that are done again."""
Row = dict[str, Any]


class Project:
    """The small run, or some of its `stages`, in a folder of its own, done once, with the hashes of what each made."""

    def __init__(self, folder: Path, stages: Collection[str] = ()):
        self.folder = folder
        params = changed(yaml.safe_load((ROOT / "params.yaml").read_text()), SMALL)
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

    def start(self, line: list[str]) -> subprocess.Popen:
        """Start a command of dvc.yaml."""
        return self._open([sys.executable, *line])

    def repro(self, name: str) -> subprocess.Popen:
        """Start DVC on one stage, whatever is there of it."""
        return self._open([sys.executable, "-m", "dvc", "repro", "--single-item", "--force", "--no-run-cache", name])

    def _open(self, command: list[str]) -> subprocess.Popen:
        often = {**environment(), "NOISY_STUDENT_CHECKPOINT_SECONDS": "0.2"}
        return subprocess.Popen(
            command, cwd=self.folder, env=often, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(self, name: str) -> str:
        """Run a stage to its end and return what it printed."""
        said = ""
        for line in self.lines[name]:
            process = self.start(line)
            said += process.communicate(timeout=SECONDS)[0]
            if process.returncode:
                raise Refusal(f"{name} ended with status {process.returncode}: {said}")
        return said

    def forget(self, name: str) -> None:
        """Remove what a stage made, as DVC does before it runs it, and the work that is kept of it."""
        for out in self.outs[name]:
            path = self.folder / out
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for work in (self.folder / "work").glob(f"{name.partition('@')[0]}-*"):
            shutil.rmtree(work)

    def hashes(self, name: str) -> dict[str, str]:
        """The sha256 of each file that a stage made, no more and no less."""
        found = [
            file for out in self.outs[name] for file in sorted([self.folder / out, *(self.folder / out).rglob("*")])
        ]
        return {str(file.relative_to(self.folder)): digest(file) for file in found if file.is_file()}

    def checkpoints(self, name: str) -> list[Path]:
        """The checkpoints of a stage, the last one first."""
        return sorted(self._below(name, "checkpoints/*.safetensors"), reverse=True)

    def halves(self, name: str) -> set[Path]:
        """What kills left of checkpoints that were being written."""
        return set(self._below(name, "checkpoints/*.tmp"))

    def _below(self, name: str, pattern: str) -> Iterator[Path]:
        return (self.folder / "work").glob(f"{name.partition('@')[0]}-*/{pattern}")


def killed(project: Project, name: str, draw: random.Random, number: int, fresh: bool = True) -> Row:
    """Send a stage that signal at random moments, until it ends before one comes; `fresh`: nothing is kept."""
    if fresh:
        project.forget(name)
    row: Row = {"stage": name, "kills": 0, "resumed": 0, "in_commit": 0, "slowest_stop": 0.0, "equal": True}
    seconds, started = project.seconds[name], time.monotonic()
    for line in project.lines[name]:
        while True:
            halves = project.halves(name)
            process = project.start(line)
            begins = name in TRAINERS and draw.random() < 0.9  # else most kills would come while libraries are imported
            begun = _begun(process) if begins else ""
            wait = draw.uniform(0, (0.5 if begins else 1.1) * seconds)
            try:
                said, ended = begun + process.communicate(timeout=wait)[0], True
            except subprocess.TimeoutExpired:
                asked = time.monotonic()
                process.send_signal(number)
                said, ended = begun + process.communicate(timeout=SECONDS)[0], process.returncode == 0
                row["slowest_stop"] = max(row["slowest_stop"], time.monotonic() - asked)
                row["kills"] += not ended
                row["in_commit"] += bool(project.halves(name) - halves)
                row["equal"] &= ended or _stopped_well(project, name, process.returncode, number, said)
            row["resumed"] += bool(re.search(r"goes on after step [1-9]", said))
            if ended:
                break
    row["equal"] &= process.returncode == 0 and project.hashes(name) == project.made[name]
    row["seconds_lost"] = time.monotonic() - started - seconds
    return row


def _begun(process: subprocess.Popen) -> str:
    """What a trainer says until it begins with its steps."""
    said = ""
    for line in process.stdout or ():
        said += line
        if "steps on" in line:
            break
    return said


def _stopped_well(project: Project, name: str, status: int, number: int, said: str) -> bool:
    """Whether a stage ended as that signal should end it, with the checkpoint that it says it left.

    One that still imports its libraries, or has done its work, has nothing to keep and may end by the signal itself.
    """
    kept = re.search(r"stopped after step (\d+) of", said)
    if kept and number != signal.SIGKILL:
        return status == 128 + number and f"step-{int(kept[1]):09}" in project.checkpoints(name)[0].name
    return status in (-number, 128 + number)


def killed_training(project: Project, draw: random.Random) -> Row:
    return killed(project, draw.choice(TRAINERS), draw, signal.SIGKILL)


def killed_others(project: Project, draw: random.Random) -> Row:
    return killed(project, draw.choice([name for name in project.lines if name not in TRAINERS]), draw, signal.SIGKILL)


def terminated(project: Project, draw: random.Random) -> Row:
    return killed(project, draw.choice(TRAINERS), draw, signal.SIGTERM)


def damaged(project: Project, draw: random.Random) -> Row:
    """Kill a trainer once it has two checkpoints, damage the last, and let it end."""
    name = draw.choice(TRAINERS)
    project.forget(name)
    process = project.start(project.lines[name][0])
    while process.poll() is None and len(project.checkpoints(name)) < 2:
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 1))
    process.kill()
    process.communicate()
    last = next(iter(project.checkpoints(name)), None)
    if last is None or (project.folder / project.outs[name][0]).exists():
        return {"stage": name, "kills": 0, "equal": True}  # it had ended
    content = bytearray(last.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    last.write_bytes(content if draw.random() < 0.5 else content[: len(content) // 2])
    said = project.finish(name)
    equal = project.hashes(name) == project.made[name] and "is damaged" in said
    return {"stage": name, "kills": 1, "resumed": int("goes on after step" in said), "equal": equal}


def killed_dvc(project: Project, draw: random.Random) -> Row:
    """Kill DVC alone while its stage trains, start it again at once, and look at who writes meanwhile."""
    name = draw.choice(TRAINERS)
    project.forget(name)
    first = project.repro(name)
    stage = _stage_of(first)
    time.sleep(draw.uniform(0, project.seconds[name]))
    in_time = first.poll() is None
    first.kill()
    first.wait()  # DVC takes the locks of a process that nobody has waited for to be held
    second = project.repro(name)
    said, both = "", False
    for line in second.stdout or ():
        said += line
        if "steps on" in line and stage:  # the second stage begins, so that the first has let go and is on its way out
            both = not _ends(stage, 1)
    second.wait(SECONDS)
    gone = stage is None or _ends(stage, GONE)
    stopped = "stopped" in first.communicate()[0]
    made = second.returncode == 0 and project.hashes(name) == project.made[name]
    return {
        "stage": name,
        "kills": int(in_time),
        "resumed": int("goes on after step" in said),
        "waited": "does the same work; waiting" in said,
        "stopped": stopped,
        "equal": made and gone and not both,
    }


def repeated(project: Project, draw: random.Random) -> Row:
    """Run everything anew, in the same folder or in another one."""
    if draw.random() < 0.5:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            return {"stage": "in another folder", "kills": 1, "equal": Project(Path(folder)).made == project.made}
    for name in project.lines:
        project.forget(name)
    for name in project.lines:
        project.finish(name)
    made = {name: project.hashes(name) for name in project.lines}
    return {"stage": "in the same folder", "kills": 1, "equal": made == project.made}


KINDS: dict[str, Callable[[Project, random.Random], Row]] = {
    "training": killed_training,
    "others": killed_others,
    "terminated": terminated,
    "damaged": damaged,
    "dvc": killed_dvc,
    "repeated": repeated,
}


def _stage_of(dvc: subprocess.Popen) -> psutil.Process | None:
    """The stage that `dvc` runs, as soon as there is one; None when it ends without."""
    while dvc.poll() is None:
        for process in psutil.Process(dvc.pid).children(recursive=True):
            with suppress(psutil.Error):
                if "python" in process.name() and any(word.startswith("stages.") for word in process.cmdline()):
                    return process
        time.sleep(0.01)
    return None


def _ends(process: psutil.Process, seconds: float) -> bool:
    """Whether `process` ends within that time."""
    until = time.monotonic() + seconds
    while _runs(process):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def table(rows: pd.DataFrame) -> str:
    """What all rounds say together, as Markdown."""
    head = ["kind", "kills", "gone on from a step above 0", "inside the commit of a checkpoint"]
    head += ["slowest stop, s", "lost a kill, s", "rounds", "of other bytes"]
    lines = [
        "# Killed at random moments",
        "",
        f"{ABOUT} {processor()}, {os.cpu_count()} cores.",
        "",
        f"| {' | '.join(head)} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, found in rows.reindex(columns=rows.columns.union(COUNTED)).groupby("kind", sort=False):
        kills = int(found["kills"].sum())
        lost = f"{found['seconds_lost'].sum() / kills:.1f}" if kills and found["seconds_lost"].notna().any() else ""
        slowest = f"{found['slowest_stop'].max():.2f}" if kind == "terminated" else ""
        resumed, commits = (found[name].sum(min_count=1) for name in ("resumed", "in_commit"))
        cells = [kind, kills, *("" if pd.isna(each) else int(each) for each in (resumed, commits)), slowest, lost]
        lines.append(
            "| " + " | ".join(map(str, [*cells, len(found), int((~found["equal"].astype(bool)).sum())])) + " |"
        )
    return "\n".join(lines) + "\n"


@exits_with_a_sentence
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"of: {', '.join(KINDS)}; none: all")
    args = parser.parse_args(argv)
    if unknown := set(args.kinds) - set(KINDS):
        raise Refusal(f"there is no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    columns = ["kind", "round", "stage", "kills", "equal"]
    rows = read_csv(KILLS) if KILLS.exists() else pd.DataFrame(columns=columns)
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        project = Project(Path(folder))
        for kind in args.kinds or KINDS:
            while (kills := rows.loc[rows["kind"] == kind, "kills"]).sum() < WANTED[kind]:
                row = KINDS[kind](project, random.Random(f"{kind} {len(kills)}"))  # noqa: S311 no secret
                rows = pd.concat([rows, pd.DataFrame([{"kind": kind, "round": len(kills), **row}])], ignore_index=True)
                print(f"{kind} {len(kills)}: {row}", flush=True)
                write_csv(KILLS, rows)
                write_bytes(KILLS.with_suffix(".md"), table(rows).encode())
    if not rows["equal"].all():
        raise Refusal(f"{(~rows['equal'].astype(bool)).sum()} rounds ended with other bytes; {KILLS} says which")


if __name__ == "__main__":
    main()
