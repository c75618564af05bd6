"""The recipes of docs/architecture.md, applied to a copy of the project as they are printed."""

import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from commands.configure import values
from noisy_student.core.config import changed
from noisy_student.core.provenance import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text()
LIBRARY = {  # a recipe's heading, and the file that it changes
    "Add an objective": "noisy_student/training/objectives.py",
    "Add a mixing method": "noisy_student/training/augmentation/mixing.py",
    "Add a noise operation": "noisy_student/training/augmentation/operations.py",
    "Add a model": "noisy_student/models/networks.py",
    "Add a source": "noisy_student/data/sources.py",
}
OPERATIONS, POLICY = (f"noisy_student/training/augmentation/{name}.py" for name in ("operations", "policy"))
SHEET, REFERENCES = "commands/noise_sheet.py", "tests/unit/test_operations.py"
PLACES = {  # a comment of the recipe: the file, what the lines below the comment stand before, and their margin
    "operations.py": (OPERATIONS, "def _on(", 0),
    "policy.py, NoiseParams": (POLICY, '    @field_validator("mix")', 4),
    "policy.py, Draw": (POLICY, "    def rows(", 4),
    "policy.py, draw": (POLICY, "    )\n\n\ndef draw_boxes(", 8),
    "policy.py, _apply": (POLICY, "    return images\n\n\ndef augment(", 4),
    "noise_sheet.py, sheet": (SHEET, "    for name in MASKS:\n        rows", 4),
}
TESTS = [
    f"tests/unit/test_{name}.py" for name in ("objectives", "mixing", "operations", "policy", "noise_sheet", "sources")
]
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
    "iterations.iter2.noise": {"mix": "halves", "operations": 2, "light": 20},
}


def code(heading: str, number: int = 0) -> str:
    """The example of the recipe under that heading that has this number."""
    section = PAGE.split(f"### {heading}\n")[1].split("\n### ")[0]
    indented = re.findall(r"(?:^ {4,}\S.*\n|^\n)+", section, re.MULTILINE)
    blocks = [textwrap.dedent(block).strip("\n") for block in indented]
    return [block for block in blocks if "..." in block or block.startswith(("again:", "# "))][number]


def apply(example: str, file: Path) -> None:
    """Write the example's functions into the file, and its names into the tables there."""
    text = file.read_text()
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


def apply_in_places(example: str, folder: Path) -> None:
    """Write the lines below each comment of the example to its place in the project, and import the function."""
    _, *parts = re.split(r"^# (.+)\n", example, flags=re.MULTILINE)
    for comment, lines in zip(parts[::2], parts[1::2], strict=True):
        file, before, margin = PLACES[comment]
        text = (folder / file).read_text()
        assert text.count(before) == 1, (file, before)
        added = textwrap.indent(lines.rstrip(), " " * margin)
        (folder / file).write_text(text.replace(before, f"{added}\n\n{before}"))
    name = re.search(r"^def (\w+)", example, re.MULTILINE)[1]
    for file in (folder / POLICY, folder / SHEET):
        file.write_text(file.read_text().replace("    OPERATIONS,\n", f"    OPERATIONS,\n    {name},\n", 1))


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
        apply(code(heading), folder / file)
    apply(code("Add a noise operation", 1), folder / REFERENCES)
    apply_in_places(code("Add a noise operation", 2), folder)
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
    splits += ["--labeled-features", "none"]
    assert "tiny_8" in run(project, "-m", "stages.train_teacher", *splits, "--out", "models/iter0")


@pytest.mark.slow
def test_the_tests_take_all_that_was_added(project):
    run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, "tests/pipeline/test_pipeline.py")
