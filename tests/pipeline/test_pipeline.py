"""dvc.yaml against the code: what a stage declares is what it uses."""

import ast
import copy
import re
from pathlib import Path

import pytest
import yaml

from noisy_student.core.imports import import_closure, reachable

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
BODIES = {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}


def command_lines(stage: dict) -> list[str]:
    return stage["cmd"] if isinstance(stage["cmd"], list) else [stage["cmd"]]


def scripts(stage: dict) -> list[str]:
    """The files of the modules that the stage's commands run."""
    modules = [re.match(r"python -m (\S+)", line)[1] for line in command_lines(stage)]
    return [module.replace(".", "/") + ".py" for module in modules]


def closure(files: list[str]) -> set[str]:
    """The project's own files that run when `files` do."""
    return {str(path.relative_to(ROOT)) for file in files for path in import_closure(ROOT / file, ROOT)}


def code_deps(stage: dict) -> set[str]:
    """The deps that are code: files, and folders of the library."""
    return {dep for dep in stage["deps"] if dep.endswith(".py") or dep.startswith("noisy_student")}


def holds(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


def sections_read(file: str) -> set[str]:
    """The names that the file gives to `ParamsFile.section`, with what is filled in as it stands in the code."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "section":
            name = node.args[0]
            parts = name.values if isinstance(name, ast.JoinedStr) else [name]
            names.add(
                "".join(
                    part.value if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}" for part in parts
                )
            )
    return names


def read_params(stage: dict) -> set[str]:
    """The sections that the stage's scripts read, their placeholders filled in as the command line does."""
    lines = " ".join(command_lines(stage))
    given = dict(re.findall(r"--(\S+) (\$\{[^}]+\})", lines))
    read = set().union(*(sections_read(script) for script in scripts(stage)))
    return {re.sub(r"\{(\w+)\}", lambda match: given[match[1]], name) for name in read}


def declared_params(stage: dict) -> set[str]:
    return {name if isinstance(name, str) else next(iter(name)) for name in stage.get("params", [])}


def entries(stage: dict, *kinds: str) -> list[str]:
    """Paths of these kinds, whether they stand alone or with settings of their own."""
    found = [entry for kind in kinds for entry in stage.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in found]


def missing_code(stage: dict) -> set[str]:
    """The files that the stage runs and that stand in none of its deps."""
    return {file for file in closure(scripts(stage)) if not any(holds(dep, file) for dep in code_deps(stage))}


def unreached_code(stage: dict) -> set[str]:
    """The deps of which the stage runs nothing; a folder's own __init__.py says nothing."""
    files = {file for file in closure(scripts(stage)) if file.count("/") < 2 or not file.endswith("/__init__.py")}
    return {dep for dep in code_deps(stage) if not any(holds(dep, file) for file in files)}


def undeclared_paths(stage: dict) -> set[str]:
    declared = set(entries(stage, "deps", "outs", "metrics", "plots"))
    words = [word for line in command_lines(stage) for word in line.split()]
    return {word for word in words if "/" in word or word.endswith((".csv", ".json"))} - declared


@pytest.mark.parametrize("name", BODIES)
def test_deps_hold_the_whole_import_closure_and_nothing_that_is_not_reached(name):
    assert not missing_code(BODIES[name])
    assert not unreached_code(BODIES[name])


def test_a_dep_that_is_not_reached_is_noticed():
    stage = copy.deepcopy(BODIES["predict_pool"])
    stage["deps"].append("noisy_student/training")
    assert unreached_code(stage) == {"noisy_student/training"}


WHOLE = {"check", "page"}  # depend on all of params.yaml


@pytest.mark.parametrize("name", [name for name in BODIES if name not in WHOLE])
def test_params_are_the_sections_that_are_read(name):
    assert declared_params(BODIES[name]) == read_params(BODIES[name])


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_the_check_and_the_page_depend_on_all_of_the_params(name):
    assert BODIES[name]["params"] == [{"params.yaml": None}]


# Deps in no command line: two stages wait for the check and read nothing of it, and params.yaml says where images are.
NOT_GIVEN = {"data/check.json", "${data.path}", "${pretraining.path}"}


@pytest.mark.parametrize("name", BODIES)
def test_every_path_of_a_command_is_declared_and_every_declared_one_is_used(name):
    stage = BODIES[name]
    assert not undeclared_paths(stage)
    words = {word for line in command_lines(stage) for word in line.split()}
    unused = {path for path in entries(stage, "deps", "outs", "metrics", "plots") if path not in words} - code_deps(
        stage
    )
    assert unused <= NOT_GIVEN


@pytest.mark.parametrize("name", BODIES)
def test_a_dep_or_a_parameter_that_is_taken_out_is_noticed(name):
    for dep in code_deps(BODIES[name]):
        stage = copy.deepcopy(BODIES[name])
        stage["deps"].remove(dep)
        assert missing_code(stage) == {file for file in closure(scripts(stage)) if holds(dep, file)} != set()
    for dep in set(entries(BODIES[name], "deps")) - code_deps(BODIES[name]) - NOT_GIVEN:
        stage = copy.deepcopy(BODIES[name])
        stage["deps"].remove(dep)
        assert undeclared_paths(stage) == {dep}
    for parameter in BODIES[name].get("params", []):
        stage = copy.deepcopy(BODIES[name])
        stage["params"].remove(parameter)
        assert name in WHOLE or declared_params(stage) != read_params(stage)


EVALUATIONS = ("evaluate_teacher", "evaluate_control", "evaluate_pool_control", "evaluate_distilled")
READERS = {"evaluate", "robustness", *EVALUATIONS}  # of the test split
TOLD = {"evaluate", "audit", "train_pool_control"}  # the pool's truth; of controls those of two kinds alone read it
LEARNERS = ["pretrain", "train_teacher", "predict_pool", "pseudo_label", "train_student", "train_control", "distill"]


def behind(name: str) -> set[str]:
    """The stage and all that it waits for, whatever iteration their outputs are of."""

    def general(path: str) -> str:
        return re.sub(r"\$\{[^}]+\}|iter0", "*", path)

    makers = [(general(out), maker) for maker, stage in BODIES.items() for out in entries(stage, "outs", "metrics")]

    def before(stage: str) -> list[str]:
        deps = {general(dep) for dep in BODIES[stage]["deps"]}
        return [maker for out, maker in makers if any(within(out, dep) or within(dep, out) for dep in deps)]

    def within(path: str, folder: str) -> bool:
        return path == folder or path.startswith(f"{folder}/")

    return reachable([name], before)


@pytest.mark.parametrize("name", sorted(BODIES))
def test_everything_waits_for_the_check(name):
    assert "check" in behind(name)


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_of_the_test_split_or_the_truth_reaches_what_trains_labels_or_chooses(name):
    reached = behind(name)
    assert not reached & (READERS | TOLD | {"history", "summarize", "page"})
    for stage in reached:
        deps = BODIES[stage]["deps"]
        assert not {"data/test", "data/pool_truth.parquet"} & set(deps)
        assert not [dep for dep in deps if dep.startswith("metrics/")]  # the data report counts the pool's true classes


def test_the_test_split_is_read_by_the_evaluations_alone():
    assert {stage for stage in BODIES if "data/test" in BODIES[stage]["deps"]} == READERS
    assert {stage for stage in BODIES if "data/pool_truth.parquet" in BODIES[stage]["deps"]} == TOLD


def test_a_change_to_the_summary_retrains_nothing_and_a_change_to_the_loss_does():
    trainers = ("pretrain", "train_teacher", "train_student", "train_control", "train_pool_control", "distill")
    for room in ("noisy_student/evaluation", "stages/summarize.py"):
        assert all(room not in BODIES[name]["deps"] for name in (*trainers, "predict_pool", "pseudo_label", "prepare"))
    assert all("noisy_student/training" in BODIES[name]["deps"] for name in trainers)


def test_a_change_to_the_filter_of_pseudo_labels_retrains_no_teacher():
    trainers = ("pretrain", "train_teacher", "train_student", "train_control", "distill")
    assert all("noisy_student/pseudo_labeling" not in BODIES[name]["deps"] for name in trainers)


def test_a_change_to_the_data_card_reruns_prepare_alone():
    assert {name for name in BODIES if "noisy_student/data" in BODIES[name]["deps"]} == {"prepare", "pretrain"}


def test_a_teacher_labels_without_a_path_to_noise():
    assert "noisy_student/training" not in BODIES["predict_pool"]["deps"]


def test_expensive_outputs_are_cached_so_that_a_fresh_clone_can_have_them():
    for name, stage in BODIES.items():
        settings = [
            entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, []) if isinstance(entry, dict)
        ]
        assert not settings or name == "summarize"
