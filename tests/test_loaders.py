"""No stage reads a file by a loader that can run code out of it: a whole run in which each of them raises."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.expand import commands
from benchmarks.small_run import SMALL
from benchmarks.study import changed, copy_project

ROOT = Path(__file__).parent.parent
TINY = {**SMALL, "data.pool": 200, "teacher.training": {"steps": 4, "batch_size": 16}, "training.steps": 4}


def forbid() -> None:
    """Make every loader that can run code out of a file raise, in this process."""
    import _pickle
    import pickle

    import joblib
    import numpy as np
    import pandas as pd
    import torch

    def refuse(*args, **kwargs):
        raise AssertionError("a loader that can run code out of a file was called")

    class Unpickler:
        """A class, since torch derives its own from it while it is imported."""

        def __init__(self, *args, **kwargs):
            refuse()

    def load_array(*args, allow_pickle=False, **kwargs):
        return refuse() if allow_pickle else load(*args, allow_pickle=False, **kwargs)

    def load_yaml(stream, Loader):  # noqa: N803 PyYAML's name
        return parse(stream, Loader) if issubclass(Loader, yaml.SafeLoader | yaml.CSafeLoader) else refuse()

    load, parse = np.load, yaml.load
    np.load, yaml.load = load_array, load_yaml
    yaml.load_all = refuse
    pickle.Unpickler = _pickle.Unpickler = Unpickler
    yaml.full_load = yaml.unsafe_load = yaml.full_load_all = yaml.unsafe_load_all = refuse
    for module, name in (
        (torch, "load"),
        (pickle, "load"),
        (_pickle, "load"),
        (joblib, "load"),
        (pd, "read_pickle"),
    ):
        setattr(module, name, refuse)
    torch.serialization.load = torch.jit.load = torch.hub.load = refuse


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """This file as a command: `arguments` are a module and what it is given."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    environment = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_whole_run_calls_no_loader_that_can_run_code(tmp_path):
    params = changed(yaml.safe_load((ROOT / "params.yaml").read_text()), TINY)
    for _, lines in commands(copy_project(tmp_path, params), params):
        for line in lines:
            done = run(tmp_path, *line.split()[2:])
            assert not done.returncode, done.stderr
    assert (tmp_path / "metrics/summary.json").exists()


TRIES = """
import pickle, sys, numpy, torch, yaml
for call in (
    lambda: torch.load("x"),
    lambda: pickle.load(open("x", "rb")),
    lambda: pickle.Unpickler(open("x", "rb")),
    lambda: numpy.load("x", allow_pickle=True),
    lambda: yaml.load("a: 1", yaml.Loader),
    lambda: yaml.unsafe_load("a: 1"),
):
    try:
        call()
    except AssertionError:
        print("noticed")
numpy.save("a.npy", [1])
print(numpy.load("a.npy"), yaml.safe_load("a: 1"))
"""


def test_the_loaders_are_noticed_and_others_left_alone(tmp_path):
    (tmp_path / "x").touch()
    (tmp_path / "module.py").write_text(TRIES)
    done = run(tmp_path, "module")
    assert (done.stdout.splitlines(), done.stderr) == ([*["noticed"] * 6, "[1] {'a': 1}"], "")


if __name__ == "__main__":
    forbid()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
