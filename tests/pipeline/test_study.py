"""Studies: what they change, what they run without dvc, how they go on, and the table that they leave."""

import copy
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks import study as studies
from benchmarks.expand import commands
from benchmarks.studies_table import gap_closed, markdown
from noisy_student.core.config import changed, flat
from noisy_student.core.files import read_csv

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PLAN = {"question": "does it help?", "params": "params.yaml", "seeds": [0, 1], "settings": {"default": None}}


def history(accuracies: list[float]) -> pd.DataFrame:
    rows = [
        {
            "iteration": f"iter{k}",
            "model": "cnn_16",
            "training_labels": 100,
            "held_out_labels": 200,
            "accuracy": accuracy,
            "teacher": None,
            "parameters": 70_330,
            "validation_loss": 0.1,
            "validation_accuracy": accuracy,
            "pseudo_label_precision": None if k == 0 else 0.9,
            "kept_fraction": None if k == 0 else 0.8,
        }
        for k, accuracy in enumerate(accuracies)
    ]
    return pd.DataFrame(rows)


def test_without_dvc_a_stage_runs_behind_those_that_make_what_it_reads():
    order = [name for name, _ in commands(PIPELINE, PARAMS)]
    expected = ["check", "prepare", "train_teacher", "predict_pool@iter1", "train_student@iter1", "train_student@iter2"]
    assert [name for name in order if name in expected] == expected
    assert order.index("evaluate_teacher") < order.index("extract_features@pool")  # the teacher waits for no pool
    assert order[-1] == "summarize"
    assert order.index("evaluate_control@same_size") < order.index("summarize")
    assert not {"audit@iter1", "page"} & set(order)  # which no study needs
    assert [name for name, _ in commands(PIPELINE, PARAMS, "page")][-1] == "page"
    assert not [line for _, lines in commands(PIPELINE, PARAMS) for line in lines if "${" in line]


def test_changes_replace_add_and_take_out_by_dotted_key():
    params = changed(copy.deepcopy(PARAMS), {"seed": 7, "iterations.iter1.noise.crop": 0, "controls": None})
    assert params["seed"] == 7
    assert params["iterations"]["iter1"]["noise"] == {"crop": 0}
    assert "controls" not in params


def test_a_change_inside_a_changed_section_leaves_the_plan_as_it_was():
    changes = {"noise": {"magnitude": 22}, "noise.magnitude": 28}
    assert changed({}, changes) == {"noise": {"magnitude": 28}}
    assert changes["noise"] == {"magnitude": 22}


def test_leaves_have_dotted_keys():
    assert flat({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}


def test_of_a_section_that_is_gone_only_the_section_is_taken_out():
    base = {"iterations": {"iter1": {"model": "cnn"}, "iter2": {"model": "cnn", "noise": {}}}, "seed": 0}
    assert studies.removed(base, {"iterations": {"iter2": {"model": "cnn"}}, "seed": 1}) == [
        "iterations.iter1",
        "iterations.iter2.noise",
    ]


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(studies, "RESULTS", tmp_path)
    return tmp_path


def test_a_study_goes_on_where_it_stopped(results):
    asked = []

    def run(name, params):
        asked.append((name, params["seed"]))
        return history([0.9, 0.95]), {"iteration": "iter1", "gain_over_control": 0.02}

    studies.study("tiny", {**PLAN, "seeds": [0]}, run)
    studies.study("tiny", PLAN, run)
    assert asked == [("study-tiny-default-0", 0), ("study-tiny-default-1", 1)]
    rows = read_csv(results / "tiny.csv")
    assert rows[["seed", "iteration"]].to_numpy().tolist() == [[0, "iter0"], [0, "iter1"], [1, "iter0"], [1, "iter1"]]
    assert rows["gain_over_control"].dropna().tolist() == [0.02, 0.02]


def test_rows_of_other_parameters_are_replaced(results):
    asked = []

    def run(name, params):
        asked.append(params["training"]["steps"])
        if len(asked) == 6:  # midway, no row of the other parameters is counted
            assert read_csv(results / "tiny.csv")["params"].nunique() == 1
        return history([0.9]), {"iteration": "iter0"}

    for steps in (5, 6, 6):
        studies.study("tiny", {**PLAN, "changes": {"training.steps": steps}, "settings": {"a": None, "b": None}}, run)
    assert asked == [5] * 4 + [6] * 4
    rows = read_csv(results / "tiny.csv")
    assert rows[["setting", "seed"]].to_numpy().tolist() == [["a", 0], ["b", 0], ["a", 1], ["b", 1]]
    assert rows["params"].nunique() == 2  # a seed is a parameter


def test_a_study_that_chooses_shows_nothing_of_the_test_split(results):
    plan = {**PLAN, "chooses": True, "settings": {"weak": {"noise.magnitude": 22}, "strong": {"noise.magnitude": 28}}}

    def run(name, params):
        return history([0.9, 0.9 + params["noise"]["magnitude"] / 1000]), {"iteration": "iter1"}

    studies.study("tiny", plan, run)
    rows, text = read_csv(results / "tiny.csv"), (results / "tiny.md").read_text()
    assert not {"accuracy", "accuracy_low", "accuracy_high", "pseudo_label_precision", "nll", "ece"} & set(rows)
    assert "test accuracy" not in text
    assert "| strong | over weak | 2 | +0.60 ± 0.00 | 2 of 2 |" in text


def test_a_run_that_fails_leaves_the_rows_before_it(results):
    def run(name, params):
        if params["seed"] == 1:
            raise RuntimeError("out of power")
        return history([0.9]), {"iteration": "iter0"}

    with pytest.raises(RuntimeError):
        studies.study("tiny", PLAN, run)
    assert read_csv(results / "tiny.csv")["seed"].tolist() == [0]


def test_the_table_has_means_intervals_and_paired_differences():
    rows = pd.concat([history([0.90, 0.94 + 0.01 * seed]).assign(setting="default", seed=seed) for seed in (0, 1)])
    text = markdown("tiny", PLAN, rows)
    assert "100 training labels, 200 held-out labels" in text
    assert "| default | iter1 | cnn_16 | 70,330 | 2 | 94.50 ± 6.35 |" in text  # t(0.975, 1) * 0.707 / sqrt(2) = 6.35
    assert "| default | iter1 - iter0 | 2 | +4.50 ± 6.35 | 2 of 2 |" in text


def test_the_table_has_rates_where_they_were_measured():
    rows = history([0.9, 0.95]).assign(setting="default", seed=0, images_per_second=[1000, 250])
    assert "| default | iter1 | cnn_16 | 70,330 | 250 | 1 | 95.00 |" in markdown("tiny", PLAN, rows)


def test_every_study_is_a_plan():
    plans = yaml.safe_load(studies.STUDIES.read_text())
    assert len(plans) > 20
    for plan in plans.values():
        assert {"question", "params", "seeds", "settings"} <= plan.keys()
        assert (studies.ROOT / plan["params"]).exists()
        assert isinstance(plan.get("answer", ""), str)


def test_settings_of_a_group_are_compared_with_its_first_one_at_each_iteration():
    settings = {"scratch_10": 0.8, "scratch_50": 0.9, "head_10": 0.85, "head_50": 0.91}
    rows = [
        history([accuracy, accuracy + 0.02]).assign(setting=setting, seed=seed)
        for seed in (0, 1)
        for setting, accuracy in settings.items()
    ]
    text = markdown("tiny", {"question": "?", "groups": ["_10", "_50"]}, pd.concat(rows))
    assert "| head_10 | iter0 over scratch_10 | 2 | +5.00 ± 0.00 | 2 of 2 |" in text
    assert "| head_50 | iter1 over scratch_50 | 2 | +1.00 ± 0.00 | 2 of 2 |" in text
    assert "over scratch_10" not in text.split("| scratch_50 |")[-1].splitlines()[0]


def test_what_iterations_were_distilled_into_has_rows_behind_them():
    small = {"teacher": "iter1", "model": "cnn_8", "parameters": 18_000, "accuracy": 0.93, "validation_accuracy": 0.9}
    distilled = {"alone": {**small, "accuracy": 0.85}, "small": small}
    rows = studies._rows(history([0.9, 0.95]), {"iteration": "iter1", "distilled": distilled}, chooses=False)
    assert rows["iteration"].tolist() == ["iter0", "iter1", "alone", "small"]
    text = markdown("tiny", PLAN, rows.assign(setting="default", seed=0))
    assert "| default | small | cnn_8 | 18,000 | 1 | 93.00 |" in text
    assert "| default | small - iter1 | 1 | -2.00 | 0 of 1 |" in text
    assert "| default | small - alone | 1 | +8.00 | 1 of 1 |" in text
    assert "iter1 - iter0" in text
    assert "small - iter0" not in text


def test_the_table_says_how_much_of_the_gap_to_the_oracle_is_closed():
    accuracies = ((0, 0.95), (1, 0.96))
    rows = pd.concat([history([0.9, accuracy]).assign(setting="s", seed=seed) for seed, accuracy in accuracies])
    rows.loc[rows["iteration"] == "iter1", "gain_over_oracle_control"] = [-0.05, 0.0]
    assert gap_closed(rows).tolist() == pytest.approx([0.5, 1.0])
    plan = {"question": "?", "answer": "Three quarters of it."}
    text = markdown("name", plan, rows)
    assert "| s | last iteration - oracle control | 2 | -2.50 ± 31.77 | 0 of 2 |" in text
    assert text.endswith("oracle control 75.00 ± 317.66 % is closed.\n\nThree quarters of it.\n")


@pytest.mark.slow
def test_the_commands_of_the_pipeline_run_without_dvc():
    tiny = {
        "runtime.threads": 1,
        "pseudo_labels.precision": None,
        "data.pool": 200,
        "pseudo_labels.threshold": 0,
        "teacher.training": {"steps": 4, "batch_size": 16},
        "training.steps": 4,
        "training.batch_size": 16,
    }
    rows, summary = studies.run_without_dvc("tiny", changed(copy.deepcopy(PARAMS), tiny))
    assert rows["iteration"].tolist() == ["iter0", "iter1", "iter2"]
    assert "gain_over_control" in summary
