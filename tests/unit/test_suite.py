"""The suite of sources and recipes: which recipe is chosen, and that each run is one that the check accepts."""

import copy
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks import suite
from benchmarks.photo_folders import lay_out
from commands.configure import values
from noisy_student.check import check
from noisy_student.core.config import ParamsFile, changed

ROOT = Path(__file__).parents[2]
OF_ALL = yaml.safe_load((ROOT / "benchmarks" / "suite.yaml").read_text())
SMALL = {"sources": {"a": {}, "b": {}, "c": {}}, "recipes": {"today": {}, "bold": {}, "safe": {}}}


def write_choices(folder: Path, accuracies: dict[str, dict[str, list[float]]]) -> None:
    """By source and recipe the validation accuracies of some seeds; each run has a teacher, too."""
    for source, by_recipe in accuracies.items():
        rows = [
            {"setting": recipe, "seed": 100 + place, "params": "", "validation_accuracy": accuracy}
            for recipe, found in by_recipe.items()
            for place, last in enumerate(found)
            for accuracy in (0.1, last)
        ]
        pd.DataFrame(rows).to_csv(folder / f"choose_suite_{source}.csv", index=False)


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(suite, "RESULTS", tmp_path)
    return tmp_path


def test_a_recipe_is_chosen_by_the_other_sources_alone(results):
    fair = {"today": [0.8, 0.8, 0.8], "bold": [0.8, 0.8, 0.8], "safe": [0.81, 0.83, 0.82]}
    of_a = {"today": [0.5, 0.5, 0.5], "bold": [0.9, 1.0, 0.95], "safe": [0.5, 0.5, 0.5]}
    write_choices(results, {"a": of_a, "b": fair, "c": fair})
    assert suite.is_chosen(SMALL)
    assert suite.chosen_without(SMALL, "a") == "safe"
    assert suite.chosen_without(SMALL, "b") == "bold"
    assert "| chosen without it | safe | bold | bold |" in suite.choices(SMALL)


def test_nothing_is_chosen_before_all_recipes_were_tried_on_all_sources(results):
    whole = {"today": [0.8] * 3, "bold": [0.8] * 3, "safe": [0.8] * 3}
    write_choices(results, {"a": whole, "b": whole})
    assert not suite.is_chosen(SMALL)
    write_choices(results, {"c": {"today": [0.8] * 3}})
    assert not suite.is_chosen(SMALL)
    write_choices(results, {"c": whole | {"safe": [0.8] * 2}})  # a seed is missing
    assert not suite.is_chosen(SMALL)
    assert "Validation accuracy" not in suite.tables(SMALL)


def test_what_was_reported_stands_in_a_row_for_each_recipe(results):
    row = {"setting": "today", "params": "", "balanced_accuracy": 0.5}
    rows = [
        row | {"seed": seed, "iteration": name, "accuracy": accuracy, "gain_over_control": gain}
        for seed in (0, 1)
        for name, accuracy, gain in (("iter0", 0.5, None), ("iter2", 0.75, 0.125))
    ]
    pd.DataFrame(rows).to_csv(results / "suite_a.csv", index=False)
    (found,) = suite.reported("a")
    assert found[:3] == ["a", "today", "2"]
    assert [each.split()[0] for each in found[3:] if each] == ["50.00", "75.00", "+12.50", "50.00"]
    assert suite.reported("b") == []


def runs() -> list[tuple[str, str]]:
    return [(source, recipe) for source in OF_ALL["sources"] for recipe in (*OF_ALL["recipes"], "consistency")]


@pytest.mark.parametrize(("source", "recipe"), runs(), ids=lambda value: value)
def test_the_check_accepts_every_run(source, recipe, tmp_path, monkeypatch, small_photographs):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "benchmarks" / "suite" / OF_ALL["sources"][source].get("images", "none")
    lay_out(small_photographs, folder)
    for file in ("dvc.yaml",):
        shutil.copy(ROOT / file, tmp_path)
    plan = suite.choosing_plan(OF_ALL, source)
    setting = plan["settings"].get(recipe, suite.CONSISTENCY | OF_ALL["sources"][source]["consistency"])
    params = changed(copy.deepcopy(values(ROOT / plan["params"])), {**plan["changes"], **setting, "seed": 100})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    assert check(ParamsFile()).seed == 100


@pytest.fixture
def small_photographs() -> pd.DataFrame:
    """Names of photographs, whose bytes nobody reads."""
    parts = ["labeled", "test"] * 4
    return pd.DataFrame({"part": parts, "label": ["a", "a", "b", "b"] * 2, "jpeg": [b""] * 8})
