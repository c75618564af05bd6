"""Machines that follow the stage of the first one: what they run, and when they stop."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands.follow import main as follow_command
from noisy_student.core import launch, nodes

WRITES = "import os, pathlib, time; pathlib.Path({name!r}).write_text(os.environ['NOISY_STUDENT_START']); {then}"


@pytest.fixture
def follower(tmp_path, monkeypatch):
    """Follows in this process, in a thread, until the test is over."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"POLL_SECONDS": 0.02, "BEAT_SECONDS": 0.02, "ENDING_SECONDS": 0.5}.items():
        monkeypatch.setattr(nodes, name, value)
    over = threading.Event()
    thread = threading.Thread(target=nodes.follow, args=(over.is_set,))
    yield thread
    over.set()
    if thread.ident:
        thread.join()


def wait_for(path: str) -> str:
    for _ in range(500):
        if Path(path).exists() and (text := Path(path).read_text()):
            return text
        threading.Event().wait(0.02)
    raise AssertionError(f"{path} did not come")


def test_what_the_first_machine_runs_is_run_with_its_token(follower):
    follower.start()
    for name in ("first", "second"):
        with nodes.announced(["-c", WRITES.format(name=name, then="")]) as token:
            assert wait_for(name) == token
    assert not list(Path("work").glob("*.json"))


def test_a_stage_that_the_first_machine_no_longer_runs_is_stopped(follower):
    follower.start()
    with nodes.announced(["-c", WRITES.format(name="begun", then="time.sleep(600)")]):
        wait_for("begun")
    with nodes.announced(["-c", WRITES.format(name="next", then="")]) as token:
        assert wait_for("next") == token


def test_what_a_killed_run_left_is_not_run(follower):
    left = nodes.Start("token", str(Path.cwd()), ["-c", WRITES.format(name="left", then="")])
    nodes.write_json(Path("work/nodes.json"), left._asdict())
    follower.start()
    threading.Event().wait(0.5)
    assert not Path("left").exists()
    with nodes.announced(["-c", WRITES.format(name="new", then="")]) as token:
        assert wait_for("new") == token


def test_a_machine_that_follows_announces_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(nodes.TOKEN, "of the first")
    with nodes.announced([sys.executable]) as token:
        assert token == "of the first"  # noqa: S105 no secret
        assert not Path("work").exists()


@pytest.mark.parametrize(("count", "others"), [("1", False), ("1:1", False), ("2", True), ("1:4", True)])
def test_a_stage_is_announced_where_torchrun_wants_several_machines(tmp_path, monkeypatch, count, others):
    monkeypatch.chdir(tmp_path)
    module = {"module": True, "training_script": "stages.prepare", "training_script_args": ["--out", "x"]}
    wanted = SimpleNamespace(nnodes=count, rdzv_id="none", **module)
    with launch._together(wanted, ""):
        started = nodes._started()
        assert (started is not None) == others
        assert (wanted.rdzv_id == "none") != others
    assert not others or started.command == ["-m", "stages.prepare", "--out", "x"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "no --nnodes of 2 or more"),
        ("--nproc-per-node 2", "no --nnodes of 2 or more"),
        ("--nnodes 1 --nproc-per-node 2", "no --nnodes of 2 or more"),
        ("--nnodes two", "see `torchrun --help`"),
        ("--nnodes 1:2:3", "see `torchrun --help`"),
    ],
)
def test_a_machine_that_has_nobody_to_follow_says_so(monkeypatch, capsys, options, said):
    monkeypatch.setenv("NOISY_STUDENT_TORCHRUN", options)
    with pytest.raises(SystemExit, match="1"):
        follow_command([])
    assert said in capsys.readouterr().err
