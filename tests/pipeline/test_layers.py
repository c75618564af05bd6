"""The imports of the house run one way: read from the code, so that no run is needed to see a wrong one."""

import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from noisy_student.core.imports import import_closure, imported_files, imported_names

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / "noisy_student"
MAY_IMPORT = {  # a room, and the rooms that it may import from beside itself
    "core": set(),
    "store": {"core"},
    "data": {"core", "store"},
    "models": {"core", "store"},
    "pseudo_labeling": {"core", "store"},
    "training": {"core", "store", "models"},
    "evaluation": {"core", "store", "models"},
    "page": {"core", "store", "evaluation"},
    "pretraining.py": {"core", "store", "data", "models", "training"},
    "check.py": {"core", "store", "data", "models", "pseudo_labeling", "training", "evaluation", "pretraining.py"},
}
MODULES = [path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py"]
STAGES = {path.stem: path for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__"}
TRAINERS = {"pretrain", "train_teacher", "train_student", "train_control", "train_pool_control", "distill"}


def room(path: Path) -> str:
    """The folder of the library that the file is in, or the file that stands beside the folders."""
    return path.relative_to(LIBRARY).parts[0]


def rooms_reached(path: Path) -> set[str]:
    """The rooms that a chain of imports leads to from the file at `path`."""
    inside = [file for file in import_closure(path, ROOT) if LIBRARY in file.parents]
    return {room(file) for file in inside} - {"__init__.py"}


def module_id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("from noisy_student.models import networks", "noisy_student/models/networks.py"),
        ("from noisy_student.models.networks import build", "noisy_student/models/networks.py"),
        ("import noisy_student.models.networks", "noisy_student/models/networks.py"),
        ("from noisy_student.models import (\n    networks,\n)", "noisy_student/models/networks.py"),
        ("from noisy_student.models import \\\n    networks", "noisy_student/models/networks.py"),
        ("from ..models import networks", "noisy_student/models/networks.py"),
        ("from ..models.networks import build", "noisy_student/models/networks.py"),
        ("from . import files", "noisy_student/core/files.py"),
        ("from .files import digest", "noisy_student/core/files.py"),
        ("def f():\n    from noisy_student.models.networks import build", "noisy_student/models/networks.py"),
    ],
)
def test_an_import_is_seen_however_it_is_written(tmp_path, line, file):
    for each in (file, "noisy_student/core/here.py"):
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).touch()
    here = tmp_path / "noisy_student/core/here.py"
    here.write_text(line)
    assert imported_files(here, tmp_path) == {tmp_path / file}


def test_every_room_is_known():
    folders = {path.name for path in LIBRARY.iterdir() if path.is_dir() and path.name != "__pycache__"}
    beside = {path.name for path in LIBRARY.glob("*.py")} - {"__init__.py"}
    assert folders | beside == MAY_IMPORT.keys()


def test_the_rooms_have_no_circle():
    TopologicalSorter(MAY_IMPORT).prepare()


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_a_module_imports_only_from_rooms_below(path):
    inside = {room(file) for file in imported_files(path, ROOT) if LIBRARY in file.parents} - {"__init__.py"}
    assert inside <= MAY_IMPORT[room(path)] | {room(path)}


def test_modules_do_not_import_one_another_in_a_circle():
    graph = {path: imported_files(path, ROOT) - {path} for path in MODULES if path.name != "__init__.py"}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("path", MODULES, ids=module_id)
def test_the_library_knows_nothing_above_it_and_unpickles_nothing(path):
    top = {name.partition(".")[0] for name in imported_names(path.read_text(encoding="utf-8"))}
    assert not top & {"stages", "commands", "benchmarks", "tests", "dvc"}
    assert not top & {"pickle", "dill", "joblib", "cloudpickle"}


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_no_stage_imports_another_stage(stage):
    names = {name.partition(".")[0] for name in imported_names(STAGES[stage].read_text(encoding="utf-8"))}
    assert not names & {"commands", "benchmarks", *(STAGES.keys() - {"check"})}


def test_models_cannot_see_training_so_that_a_teacher_labels_without_noise():
    for path in (LIBRARY / "models").glob("*.py"):
        assert "training" not in rooms_reached(path)
    assert "training" not in rooms_reached(STAGES["predict_pool"])
    assert "training" in rooms_reached(STAGES["train_student"])


@pytest.mark.parametrize("stage", sorted(STAGES.keys() - TRAINERS - {"check"}))
def test_only_stages_that_train_reach_the_training_loop(stage):
    assert "training" not in rooms_reached(STAGES[stage])


def test_no_module_has_the_name_of_a_module_of_python():
    assert not {path.stem for path in MODULES} - {"__init__"} & sys.stdlib_module_names
