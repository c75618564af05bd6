"""The imports of the house run down: read from the code, so that no run is needed to see a wrong one."""

import sys
from pathlib import Path

import pytest
from imports import imported, reachable

ROOT = Path(__file__).parents[1]
LEVELS = [  # from the ground up; a room imports rooms of lower levels only
    {"metrics", "mixing", "operations", "progress", "randomness", "stopping", "vision"},
    {"errors"},
    {"config", "files", "networks"},
    {
        "checkpoint",
        "corrections",
        "decoding",
        "images",
        "listing",
        "libraries",
        "noise",
        "provenance",
        "runtime",
        "schedule",
        "targets",
    },
    {"models"},
    {"card", "duplicates", "evidence", "history", "inference", "recipes", "splits", "staging", "work"},
    {"batches", "datasets", "optimization", "results", "student", "transfer"},
    {"objectives", "own", "state"},
    {"sources", "training"},
    {"pretraining"},
    {"pipeline"},
]
LEVEL = {room: height for height, rooms in enumerate(LEVELS) for room in rooms}
ROOMS = {path.stem: path for path in (ROOT / "noisy_student").glob("*.py") if path.stem != "__init__"}
STAGES = {path.stem: path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"}


def inside(package: str, path: Path) -> set[str]:
    """The modules of `package` that the file at `path` imports."""
    names = [name.split(".") for name in imported(path.read_text(encoding="utf-8"), package)]
    return {parts[1] for parts in names if parts[0] == package and len(parts) > 1}


def reached(room: str) -> set[str]:
    """All rooms that a chain of imports leads to from `room`, itself among them."""
    return reachable([room], lambda at: inside("noisy_student", ROOMS[at]))


@pytest.mark.parametrize(
    "line",
    [
        "from noisy_student import noise",
        "from noisy_student.noise import draw",
        "import noisy_student.noise",
        "from . import noise",
        "from .noise import draw",
        "def f():\n    from noisy_student.noise import draw",
    ],
)
def test_an_import_is_seen_however_it_is_written(tmp_path, line):
    (tmp_path / "room.py").write_text(line)
    assert inside("noisy_student", tmp_path / "room.py") == {"noise"}


def test_every_room_has_its_level():
    assert ROOMS.keys() == LEVEL.keys()


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_from_below(room):
    sideways_or_up = {other for other in inside("noisy_student", ROOMS[room]) if LEVEL[other] >= LEVEL[room]}
    assert not sideways_or_up


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_the_library_knows_no_command_line_and_nothing_above_it(room):
    top = {name.partition(".")[0] for name in imported(ROOMS[room].read_text(encoding="utf-8"))}
    assert not top & {"argparse", "stages", "commands", "benchmarks", "tests", "dvc"}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_stage_imports_another_stage(stage):
    names = {name.partition(".")[0] for name in imported(STAGES[stage].read_text(encoding="utf-8"))}
    assert not names & {"stages", "commands", "benchmarks", *STAGES}


def test_there_are_stages_to_look_at():
    assert {"train_teacher", "predict_pool", "train_student"} <= STAGES.keys()


def test_noise_is_out_of_reach_of_inference():
    assert "models" in reached("inference")
    assert not reached("inference") & {"noise", "operations", "batches", "recipes", "training"}
    assert {"noise", "operations"} <= reached("training")


TRAINERS = {"pretrain", "train_teacher", "train_student", "train_control", "train_pool_control", "distill"}


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - TRAINERS))
def test_only_stages_that_train_reach_the_training_loop(stage):
    assert "training" not in set().union(*map(reached, inside("noisy_student", STAGES[stage])))


def test_nothing_unpickles():
    for room, path in ROOMS.items():
        assert not {"pickle", "dill", "joblib", "cloudpickle"} & imported(path.read_text(encoding="utf-8")), room


def test_no_room_has_the_name_of_a_module_of_python():
    assert not ROOMS.keys() & sys.stdlib_module_names
