"""The recipes of docs/architecture.md, applied to a copy of the project as they are printed."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from benchmarks.study import changed
from commands.configure import values
from noisy_student.core.provenance import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
LIBRARY = {  # a recipe's heading, and the file that it changes
    "Add an objective": "noisy_student/training/objectives.py",
    "Add a mixing method": "noisy_student/training/augmentation/mixing.py",
    "Add a noise operation": "noisy_student/training/augmentation/operations.py",
    "Add a model": "noisy_student/models/networks.py",
    "Add a source": "noisy_student/data/sources.py",
}
TESTS = [f"tests/unit/test_{name}.py" for name in ("objectives", "mixing", "policy", "noise_sheet", "sources")]
CHANGES = {
    "data.source": "sklearn_digits",
    "data.test": 300,
    "teacher.model": "tiny_8",
    "iterations.iter1": {
        "teacher": "iter0",
        "model": "tiny_8",
        "training": {"objective": "cautious"},
        "noise": {"stochastic_depth": 0},
    },
    "iterations.iter2.training": {"objective": "pseudo_labels"},
    "iterations.iter2.noise": {"mix": "halves", "operations": 2},
}


def code(heading: str) -> str:
    """The example of the recipe under that heading."""
    section = PAGE.split(f"### {heading}\n")[1].split("\n### ")[0]
    indented = re.findall(r"(?:^ {4,}\S.*\n|^\n)+", section, re.MULTILINE)
    blocks = [textwrap.dedent(block).strip("\n") for block in indented]
    return next(block for block in blocks if "..." in block or block.startswith("again:"))


def apply(heading: str, file: Path) -> None:
    """Write the example's functions into the file, and its names into the tables there."""
    text, example = file.read_text(), code(heading)
    entries = re.findall(r"^(\w+) = [{(]\.\.\., (.+)[})]$", example, re.MULTILINE)
    functions = re.sub(r"^\w+ = [{(]\.\.\., .+\n?", "", example, flags=re.MULTILINE).strip("\n")
    for table, entry in entries:
        start = re.search(rf"^{table}(?:: .+)? = [{{(]", text, re.MULTILINE)
        assert start, f"{file} has no {table}"
        end = closing(text, start.end() - 1)
        before = text[:end].rstrip()
        comma = "" if before.splitlines()[-1].partition("#")[0].rstrip().endswith(",") else ","
        text = f"{before}{comma}\n    {entry},\n{text[end:]}"
    last = max(re.search(rf"^{table}(?:: .+)? = ", text, re.MULTILINE).start() for table, _ in entries)
    file.write_text(f"{text[:last]}{functions}\n\n\n{text[last:]}")


def closing(text: str, opening: int) -> int:
    """Where the bracket that opens at `opening` is closed."""
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0:
            return at
    raise ValueError("the bracket is not closed")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project with all recipes applied."""
    folder = tmp_path_factory.mktemp("recipes") / "project"
    ignored = shutil.ignore_patterns("__pycache__", "*.parquet")
    for part in ("noisy_student", "stages", "commands", "benchmarks", "tests", "configs", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    for file in ("pyproject.toml", "params.yaml", "README.md", "dvc.yaml"):
        shutil.copy(ROOT / file, folder)
    for heading, file in LIBRARY.items():
        apply(heading, folder / file)
    shutil.copy(folder / "stages/history.py", folder / "stages/again.py")
    stages = (folder / "dvc.yaml").read_text()
    example = textwrap.indent(code("Add a stage"), "  ")
    (folder / "dvc.yaml").write_text(stages.replace("\nplots:", f"\n{example}\n\nplots:"))
    (folder / "params.yaml").write_text(yaml.safe_dump(changed(values(), CHANGES)))
    return folder


def run(project: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_check_takes_all_that_was_added(project):
    run(project, "-m", "stages.check")


def test_a_new_source_is_prepared_and_a_new_model_learns_from_it(project):
    flags = ("labeled", "pool", "calibration", "validation", "test", "card")
    outs = [part for name in flags for part in (f"--{name}", f"data/{name}")]
    files = {"pool-truth": "truth.parquet", "quarantine": "q.csv", "left-out": "l.csv", "report": "r.json"}
    outs += [part for name, file in files.items() for part in (f"--{name}", f"data/{file}")]
    (project / "corrections.csv").write_text("id,label\n")
    run(project, "-m", "stages.prepare", *outs, "--corrections", "corrections.csv")
    short = changed(yaml.safe_load((project / "params.yaml").read_text()), {"teacher.training": {"steps": 2}})
    (project / "params.yaml").write_text(yaml.safe_dump(short))
    splits = ["--labeled", "data/labeled", "--validation", "data/validation", "--pretrained", "none"]
    assert "tiny_8" in run(project, "-m", "stages.train_teacher", *splits, "--out", "models/iter0")


def test_the_tests_take_all_that_was_added(project):
    run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "tests/pipeline/test_pipeline.py")
