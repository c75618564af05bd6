"""Kill stages at random moments and see whether they end with the bytes of a run that nobody killed.

    python -m benchmarks.kills                 # all kinds, about an hour; goes on where it stopped
    python -m benchmarks.kills training dvc    # some of them; another process may run others beside it

    training     SIGKILL to a stage that trains, with all noise and averaged weights on
    others       SIGKILL to any other stage, one after the other
    terminated   SIGTERM to a stage that trains: a checkpoint and status 143
    damaged      SIGKILL, then a bit of its last checkpoint flipped or half of it cut off
    dvc          SIGKILL to DVC alone, and the same stage again, before that or at once: the first one ends, and never
                 do two write
    repeated     nobody is killed: everything anew, in the same folder or in another one

A row of benchmarks/kills.csv is a round: the kills that one stage took until it ended.
"""

import hashlib
import os
import random
import re
import signal
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from filelock import FileLock

from benchmarks.processes import ROOT
from benchmarks.small_run import TRAINERS, Project, Run
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import digest, read_csv, write_bytes, write_csv
from noisy_student.core.imports import import_closure
from noisy_student.core.workspace import work_folder
from noisy_student.models.device import processor

KILLS = ROOT / "benchmarks" / "kills.csv"
WANTED = {  # of each kind
    "training": ("kills", 200),
    "others": ("kills", 50),
    "terminated": ("stopped", 50),
    "damaged": ("kills", 20),
    "dvc": ("kills", 20),
    "repeated": ("runs", 10),
}
OF_ALL = ("others", "repeated")  # kinds that run every stage
HEAD_START = 0.5  # seconds that a stage begins before a second run of it
GONE = 5  # seconds after its DVC was killed in which a stage ends
OVERLAP = 2  # seconds that it may take, once its work is let go, to leave the interpreter
COLUMNS = {  # of the table: a column of the rows, and how its rows become one number
    "runs": ("whole runs", "sum"),
    "kills": ("kills", "sum"),
    "resumed": ("gone on from what was there", "sum"),
    "in_commit": ("inside the commit of a checkpoint", "sum"),
    "stopped": ("stopped in training, with a checkpoint", "sum"),
    "slowest_stop": ("slowest stop, s", "max"),
    "waited": ("second run waited", "sum"),
    "overlap": ("longest overlap of the two processes, s", "max"),
}
ABOUT = """The stages of a small run (MNIST-5k, cnn_8, 150 steps, all noise, a checkpoint every 0.2 s) are killed until
they end, and every file is compared with the uninterrupted run's. Moments are random; nine of ten come once the stage
is at work, in training after the run's first checkpoint, and every fifth SIGKILL there waits until a checkpoint is
being written and comes then. A kill is resumed when the stage then said that it went on from a step above 0, or with
some of its shards done. In half of the rounds of `dvc` a second run of the stage is started before DVC is killed; two
processes overlap while the first one, whose work is let go, leaves its interpreter. A DVC that is killed while it
writes its own list of locks leaves half of it; that file, .dvc/tmp/rwlock, then is removed, as DVC's message says of
it. What a kill loses is a start and the steps that are done again."""
Row = dict[str, Any]


def killed(
    project: Project, name: str, draw: random.Random, number: int, fresh: bool = True, most: int | None = None
) -> Row:
    """Send a stage that signal at random moments, until it ends before one comes or has had the `most`, and let it end.

    `fresh`: nothing is kept of earlier runs.
    """
    if fresh:
        project.forget(name)
    row: Row = {"stage": name, "kills": 0, "resumed": 0, "in_commit": 0, "stopped": 0, "slowest_stop": 0.0}
    row["equal"] = True
    started = time.monotonic()
    for line in project.lines[name]:
        while not _ended_before_its_kill(project, name, line, draw, number, row):
            if most and row["kills"] >= most:
                project.finish(name)
                break
    row["seconds_lost"] = time.monotonic() - started - project.seconds[name]
    row["equal"] &= project.hashes(name) == project.made[name]
    return row


def _ended_before_its_kill(
    project: Project, name: str, line: list[str], draw: random.Random, number: int, row: Row
) -> bool:
    """Start a stage and send it that signal; whether it had ended. What came of it is added to `row`."""
    halves = _halves(project, name)
    run = project.start(line)
    runs = _still_runs_at_its_moment(run, project, name, draw, number)
    in_training, asked = runs and name in TRAINERS and _has_trained(run, project, name), time.monotonic()
    if runs:
        run.send_signal(number)
    row["resumed"] += bool(re.search(r"goes on (after step|with) [1-9]", run.ended()))
    if not run.returncode:
        row["equal"] &= not in_training or "100%" in run.said()  # else it has not heeded the signal
        return True
    if not runs:
        raise UserError(f"{name} ended with status {run.returncode}: {run.said()}")
    stopped = _left_its_last_step(run, project, name)
    row["kills"] += 1
    row["in_commit"] += bool(_halves(project, name) - halves)
    row["stopped"] += stopped
    row["slowest_stop"] = max(row["slowest_stop"], time.monotonic() - asked)
    had_to_stop = number != signal.SIGKILL and in_training
    # all steps done: its model is made anew
    well = run.returncode == 128 + number and (stopped or "100%" in run.said())
    row["equal"] &= well if had_to_stop else run.returncode in (-number, 128 + number)
    return False


def _still_runs_at_its_moment(run: Run, project: Project, name: str, draw: random.Random, number: int) -> bool:
    """Wait for a random moment; nine of ten come when the run is at work, or most would come during imports."""
    seconds = project.seconds[name]
    if draw.random() < 0.1:
        return run.until(lambda: True, draw.uniform(0, 1.1 * seconds))
    if name.startswith("predict_pool"):
        shards = len(project.work(name, "part/*.npy"))
        return run.until(lambda: len(project.work(name, "part/*.npy")) > shards, draw.uniform(0, 0.02), pause=0.001)
    if name not in TRAINERS:
        return run.until(lambda: project.works(name, run), draw.uniform(0, 0.2))
    if number == signal.SIGKILL and draw.random() < 0.2:
        halves = _halves(project, name)
        # no pause: it is written within milliseconds
        return run.until(lambda: project.checkpoints(name) and _halves(project, name) - halves, pause=0)
    return run.until(lambda: _has_trained(run, project, name), draw.uniform(0, 0.2 * seconds))


def _has_trained(run: Run, project: Project, name: str) -> bool:
    """Whether a run has written a checkpoint of its own."""
    with suppress(OSError):  # a checkpoint that was removed meanwhile
        return any(file.stat().st_mtime > run.since for file in project.checkpoints(name)[:1])
    return True


def _left_its_last_step(run: Run, project: Project, name: str) -> bool:
    """Whether a run that was asked to stop said after which step it did, and left the checkpoint of that step."""
    kept = re.search(r"stopped after step (\d+) of", run.said())
    return kept is not None and f"step-{int(kept[1]):09}" in project.checkpoints(name)[0].name


def _halves(project: Project, name: str) -> set[Path]:
    """What kills left of checkpoints that were being written."""
    return set(project.work(name, "checkpoints/*.tmp"))


def killed_training(project: Project, number: int, draw: random.Random) -> Row:
    return killed(project, TRAINERS[number % 3], draw, signal.SIGKILL, most=12)


def killed_others(project: Project, number: int, draw: random.Random) -> Row:
    others = [name for name in project.lines if name not in TRAINERS]
    return killed(project, others[number % len(others)], draw, signal.SIGKILL, most=4)


def terminated(project: Project, number: int, draw: random.Random) -> Row:
    return killed(project, TRAINERS[number % 3], draw, signal.SIGTERM)


def damaged(project: Project, number: int, draw: random.Random) -> Row:
    """Kill a trainer once it has two checkpoints, damage the last, and let it end."""
    name = TRAINERS[number % 3]
    project.forget(name)
    run = project.start(project.lines[name][0])
    runs = run.until(lambda: len(project.checkpoints(name)) == 2, draw.uniform(0, 1))
    run.kill()
    run.ended()
    if not runs or not project.checkpoints(name):
        return {"stage": name, "kills": 0, "equal": True}  # it had ended
    last = project.checkpoints(name)[0]
    content = bytearray(last.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    last.write_bytes(content if number % 2 else content[: len(content) // 2])
    said = project.finish(name)
    equal = project.hashes(name) == project.made[name] and "is damaged" in said
    return {"stage": name, "kills": 1, "resumed": int("goes on after step" in said), "equal": equal}


def killed_dvc(project: Project, number: int, draw: random.Random) -> Row:
    """Kill DVC alone while its stage trains; the same stage is started before that, or by DVC right after it."""
    name = TRAINERS[number % 3]
    project.forget(name)
    first = project.repro(name)
    waiting = None
    if number % 2 and first.until(lambda: _stage_of(first), HEAD_START):
        waiting = project.start(project.lines[name][0])
        waiting.until(lambda: "waiting" in waiting.said() or first.poll() is not None)
    in_training = first.until(lambda: project.checkpoints(name), draw.uniform(0, 0.2 * project.seconds[name]))
    stage = _stage_of(first)
    in_time = in_training and first.poll() is None and stage is not None
    first.kill()
    first.wait()  # DVC takes the locks of a process that nobody has waited for to be held
    killed_at = time.monotonic()
    second = waiting or _repro_anew(project, name)
    second.until(lambda: _at_work(second))
    began = time.monotonic()
    gone = stage is None or _ends(stage, killed_at + GONE)
    overlap = time.monotonic() - began
    said = second.ended()
    made = not second.returncode and project.hashes(name) == project.made[name]
    waited, in_time = "does the same work; waiting" in said, in_time and "100%" not in first.said()
    ended = gone and overlap < OVERLAP and "stopped after step" in first.said() and (waited or not waiting)
    return {
        "stage": name,
        "kills": int(in_time),
        "resumed": int("goes on after step" in said),
        "waited": int(waited),
        "overlap": overlap,
        "equal": made and (ended or not in_time),
    }


def _repro_anew(project: Project, name: str) -> Run:
    """DVC on a stage; once more without DVC's own list of locks, where the DVC that was killed left half of it."""
    run = project.repro(name)
    run.until(lambda: _at_work(run))
    if "Unable to read RWLock-file" not in run.said():
        return run
    run.ended()
    (project.folder / ".dvc/tmp/rwlock").unlink()
    return project.repro(name)


def _at_work(run: Run) -> bool:
    return "steps on" in run.said() or "taking over" in run.said()


def repeated(project: Project, number: int, draw: random.Random) -> Row:
    """Run everything anew, in the same folder or in another one."""
    if number % 2:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            return {"stage": "in another folder", "runs": 1, "equal": Project(Path(folder)).made == project.made}
    for name in project.lines:
        project.forget(name)
    for name in project.lines:
        project.finish(name)
    made = {name: project.hashes(name) for name in project.lines}
    return {"stage": "in the same folder", "runs": 1, "equal": made == project.made}


KINDS: dict[str, Callable[[Project, int, random.Random], Row]] = {
    "training": killed_training,
    "others": killed_others,
    "terminated": terminated,
    "damaged": damaged,
    "dvc": killed_dvc,
    "repeated": repeated,
}


def _stage_of(dvc: Run) -> psutil.Process | None:
    """The stage that `dvc` runs; None when there is none."""
    with suppress(psutil.Error):
        for process in psutil.Process(dvc.pid).children(recursive=True):
            if "python" in process.name() and any(word.startswith("stages.") for word in process.cmdline()):
                return process
    return None


def _ends(process: psutil.Process, until: float) -> bool:
    """Whether `process` ends before that moment of the monotonic clock."""
    while _runs(process):
        if time.monotonic() > until:
            return False
        time.sleep(0.005)
    return True


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def table(rows: pd.DataFrame) -> str:
    """What all rounds say together, as Markdown."""
    rows = rows.reindex(columns=rows.columns.union([*COLUMNS, "seconds_lost"]))
    head = ["kind", *(title for title, _ in COLUMNS.values()), "lost a kill, s", "rounds", "of other bytes"]
    lines = ["# Killed at random moments", "", f"{ABOUT} {processor()}, {os.cpu_count()} cores.", ""]
    lines += [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1)]
    for kind, found in rows.groupby("kind", sort=False):
        cells = [
            f"{found[name].agg(how):.2f}".removesuffix(".00") if found[name].notna().any() else ""
            for name, (_, how) in COLUMNS.items()
        ]
        other = int((~found["equal"].astype(bool)).sum())
        lines.append("| " + " | ".join(map(str, [kind, *cells, _lost(found), len(found), other])) + " |")
    return "\n".join(lines) + "\n"


def _lost(rounds: pd.DataFrame) -> str:
    """Seconds that a kill cost, by the rounds that had one and were timed."""
    timed = rounds[(rounds["kills"] > 0) & rounds["seconds_lost"].notna()]
    return f"{timed['seconds_lost'].sum() / timed['kills'].sum():.1f}" if len(timed) else ""


@cache
def code(kind: str) -> str:
    """A name for the code that is killed, 16 hex digits; whoever changes how a kind is judged removes its rows."""
    killed_stages = ROOT.glob("stages/*.py" if kind in OF_ALL else "stages/train_*.py")
    files = {
        ROOT / "benchmarks" / "small_run.py",
        *(file for stage in killed_stages for file in import_closure(stage, ROOT)),
    }
    return hashlib.sha256("".join(map(digest, sorted(files))).encode()).hexdigest()[:16]


def rows_so_far() -> pd.DataFrame:
    """The rounds that are of the present code."""
    rows = read_csv(KILLS) if KILLS.exists() else pd.DataFrame(columns=["kind", "code", "equal"])
    return rows[rows["code"] == rows["kind"].map(code)]


def done(kind: str) -> pd.DataFrame:
    """Those of one kind, with what is counted of them."""
    rows = rows_so_far()
    return rows[rows["kind"] == kind].reindex(columns=[WANTED[kind][0]])


def add(row: Row) -> None:
    """Add a round to the table; other processes do so with other kinds."""
    lock = work_folder() / "locks" / "kills"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        rows = pd.concat([rows_so_far(), pd.DataFrame([row])], ignore_index=True)
        write_csv(KILLS, rows)
        write_bytes(KILLS.with_suffix(".md"), table(rows).encode())


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", help=f"of: {', '.join(KINDS)}; none: all")
    args = parser.parse_args(argv)
    if unknown := set(args.kinds) - set(KINDS):
        raise UserError(f"there is no kind {', '.join(unknown)}; there are {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        project = Project(Path(folder))
        for kind in args.kinds or KINDS:
            while (rounds := done(kind)).sum().item() < WANTED[kind][1]:
                row = KINDS[kind](project, len(rounds), random.Random(f"{kind} {len(rounds)}"))  # noqa: S311 no secret
                print(f"{kind} {len(rounds)}: {row}", flush=True)
                add({"kind": kind, "round": len(rounds), "code": code(kind), **row})
    if bad := int((~rows_so_far()["equal"].astype(bool)).sum()):
        raise UserError(f"{bad} rounds ended with other bytes; {KILLS} says which")


if __name__ == "__main__":
    main()
