import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from noisy_student.core.errors import UserError
from noisy_student.core.files import read_csv, read_json, write_csv, write_json
from noisy_student.core.metrics import softmax
from noisy_student.evaluation.history import (
    HISTORY_COLUMNS,
    EvaluationResult,
    History,
    predictions_on,
    read_controls,
    read_distilled,
    read_history,
    read_result,
    save_history,
    save_result,
    single,
)
from noisy_student.evaluation.mistakes import MAX_MISTAKES, MISTAKE_COLUMNS, mistakes
from noisy_student.evaluation.results import (
    accuracy_sentence,
    cost,
    distilled_figures,
    evaluation,
    gain,
    pseudo_label_figures,
    summary,
    table,
    verdict,
)

CLASSES = ["zero", "one", "two"]
DESCRIPTION = {
    "name": "iter1",
    "model": "cnn_4",
    "parameters": 1234,
    "classes": CLASSES,
    "validation": {"accuracy": 0.75, "loss": 0.5},
    "multiply_adds": 1000,
    "training": {"steps": 10, "batch_size": 64},
}
COUNTS = {"training_labels": 30, "held_out_labels": 20, "weights_sha256": "ab" * 32}


@pytest.fixture
def make_results(tmp_path, make_split):
    """Writes the results and the model's folder of one whose first `right` of 100 test images are right."""
    test = make_split(0, 100)

    def make(name: str, right: int, folder: str = "results", **more):
        predicted = np.where(np.arange(100) < right, test.labels, (test.labels + 1) % 3)
        logits = 5 * np.eye(3)[predicted]
        figures = {**evaluation(logits, test.labels, {**DESCRIPTION, "name": name}, 1.0), **COUNTS, **more}
        figures["folder"] = f"models/{name}"
        table = predictions_on(test, softmax(logits))
        save_result(
            tmp_path / folder / name, EvaluationResult(figures, table, table[::4]), mistakes(test, softmax(logits))
        )
        curve = {"step": [5, 10], "loss": [1.5, 0.1], "validation_loss": [1.0, 0.5], "validation_accuracy": [0.5, 0.75]}
        write_csv(tmp_path / "models" / name / "curve.csv", pd.DataFrame(curve))
        return tmp_path / folder / name, tmp_path / "models" / name

    return make


@pytest.fixture
def history(make_results) -> History:
    """iter0 with 80 of 100 right, and its student with 92."""
    teacher = single(*make_results("iter0", 80), None)
    student = make_results("iter1", 92, pseudo_label_precision=0.9, kept_fraction=0.5)
    return teacher.extended(single(*student, "iter0"))


def test_an_evaluation_counts_what_is_right():
    labels = np.array([0, 0, 1, 1])
    logits = np.array([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 9, 0]])
    figures = evaluation(logits, labels, DESCRIPTION, 1.0)
    assert (figures["name"], figures["model"], figures["parameters"]) == ("iter1", "cnn_4", 1234)
    assert (figures["accuracy"], figures["test_images"], figures["validation_accuracy"]) == (0.75, 4, 0.75)
    assert figures["accuracy_low"] < 0.75 < figures["accuracy_high"]
    assert figures["accuracy_by_class"] == {"zero": 0.5, "one": 1.0, "two": None}
    assert figures["ece"] == pytest.approx(0.25, abs=0.001)


def test_figures_without_a_formula_have_an_interval_that_holds_them():
    random = np.random.default_rng(0)
    labels = random.integers(3, size=300)
    figures = evaluation(2 * np.eye(3)[labels] + random.normal(size=(300, 3)), labels, DESCRIPTION, 0.5)
    assert figures["intervals"].keys() == {"balanced_accuracy", "macro_f1", "nll"}
    for name, (low, high) in figures["intervals"].items():
        assert low < figures[name] < high
    assert figures["ece"] != figures["ece_calibrated"]


def test_mistakes_are_the_surest_ones_with_their_pictures(make_split):
    split = make_split(0, 60)
    probabilities = np.full((60, 3), 0.25)
    probabilities[:, 0] = np.linspace(0.4, 0.9, 60)
    found = mistakes(split, probabilities)
    assert list(found) == MISTAKE_COLUMNS
    assert (found["actual"] != "zero").all() & (found["predicted"] == "zero").all()
    assert found["confidence"].is_monotonic_decreasing
    assert found.groupby("actual").size().to_dict() == {"one": 6, "two": 6}
    assert found["id"].iloc[0] == split.ids[np.flatnonzero(split.labels)[-1]]
    assert Image.open(io.BytesIO(found["picture"].iloc[0])).size == (8, 8)


def test_every_cell_of_the_confusion_has_its_surest_mistake(make_split):
    """Of 40 classes each is mistaken for ten others, more than there is room for."""
    labels = np.repeat(np.arange(40), 60)
    split = replace(make_split(0, 1), labels=labels, classes=[f"{k}" for k in range(40)])
    split = replace(split, shards=[np.zeros((len(labels), 8, 8, 1), np.uint8)], read_ids=lambda: labels.astype(str))
    probabilities = np.full((len(labels), 40), 0.01)
    wrong = (labels + 1 + np.arange(len(labels)) % 6) % 40
    probabilities[np.arange(len(labels)), wrong] = np.linspace(0.3, 0.6, len(labels))
    found = mistakes(split, probabilities)
    assert len(found) == MAX_MISTAKES == len(found.groupby(["actual", "predicted"]))
    assert found["confidence"].is_monotonic_decreasing


def test_a_person_reads_the_accuracy_with_its_interval():
    result = evaluation(np.eye(3)[[0, 1, 2, 0]], np.array([0, 1, 2, 2]), DESCRIPTION, 1.0)
    assert accuracy_sentence(result) == "iter1: 75.0 % of 4 test images (95 % interval 30.1 % to 95.4 %)"


def test_precision_is_of_the_kept_images_whose_truth_is_known():
    truth = np.array([0, 1, -1, 2, 1, 1, 1, 1])
    figures = pseudo_label_figures(np.array([0, 1, 2, 3]), np.array([0, 2, 0, 2]), truth)
    assert figures == {"pseudo_label_precision": pytest.approx(2 / 3), "kept_fraction": 0.5}
    unknown = pseudo_label_figures(np.array([0]), np.array([1]), np.full(4, -1))
    assert unknown == {"pseudo_label_precision": None, "kept_fraction": 0.25}


def test_a_gain_is_named_by_what_it_is_over():
    actual, before = pd.Series(list("abab")), pd.Series(list("bbbb"))
    figures = gain(actual, actual, before, "teacher")
    assert list(figures) == ["gain_over_teacher", "gain_over_teacher_low", "gain_over_teacher_high"]
    assert figures["gain_over_teacher"] == 0.5


def test_the_first_history_is_a_row_without_a_teacher(make_results):
    history = single(*make_results("iter0", 80), None)
    assert list(history.rows) == HISTORY_COLUMNS
    (row,) = history.rows.to_dict("records")
    assert (row["iteration"], row["accuracy"], row["training_labels"], row["held_out_labels"]) == ("iter0", 0.8, 30, 20)
    assert pd.isna(row["teacher"])
    assert pd.isna(row["kept_fraction"])
    assert history.curves["iteration"].tolist() == ["iter0", "iter0"]


def test_a_student_adds_a_row_a_curve_and_a_column_of_predictions(history):
    assert history.rows["iteration"].tolist() == ["iter0", "iter1"]
    assert history.rows["teacher"].iloc[1] == "iter0"
    assert history.rows["pseudo_label_precision"].iloc[1] == 0.9
    assert history.curves["iteration"].tolist() == ["iter0"] * 2 + ["iter1"] * 2
    assert list(history.predictions) == ["id", "actual", "iter0", "iter1"]
    right = [(history.predictions[name] == history.predictions["actual"]).mean() for name in ("iter0", "iter1")]
    assert right == history.rows["accuracy"].tolist()
    assert list(history.held_out) == ["id", "actual", "iter0", "iter1"]
    assert len(history.held_out) == 25


def test_a_history_comes_back_as_it_was_saved_and_can_be_extended_again(tmp_path, history, make_results):
    save_history(tmp_path / "history", history)
    back = read_history(tmp_path / "history")
    save_history(tmp_path / "again", back)
    for path in (tmp_path / "history").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    third = back.extended(single(*make_results("iter2", 95), "iter1"))
    save_history(tmp_path / "third", third)
    text = (tmp_path / "third" / "history.csv").read_text().splitlines()
    assert text[:3] == (tmp_path / "history" / "history.csv").read_text().splitlines()  # no digit of a row changes
    assert len(text) == 4


def test_a_history_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"history\.csv"):
        read_history(tmp_path)


@pytest.mark.parametrize("classes", [["0", "1", "2"], ["NA", "null", "1e3"], ["a,b", 'c"d', "é"]])
def test_class_names_and_ids_stay_text(tmp_path, make_split, classes):
    split = make_split(0, 5)
    split.classes[:] = classes
    sure = np.eye(3)[np.zeros(5, int)]
    table = predictions_on(split, sure)
    save_result(tmp_path, EvaluationResult({}, table, table), mistakes(split, sure))
    for back in read_result(tmp_path)[1:]:
        assert back["actual"].tolist() == [classes[label] for label in split.labels]
        assert back["predicted"].tolist() == [classes[0]] * 5
        assert back["id"].tolist() == split.ids.tolist()


NAMES = ["same_size", "another", "one", "two"]


def test_results_of_a_control_that_is_no_more_are_refused(tmp_path, make_results):
    make_results("same_size", 85, "controls", kind="supervised", of="iter1")
    with pytest.raises(UserError, match=r"same_size is left from a control that params.yaml no longer has"):
        read_controls(tmp_path / "controls", [], "iter1")


def test_controls_of_the_iteration_are_read_and_of_others_ignored(tmp_path, make_results):
    make_results("same_size", 85, "controls", kind="supervised", of="iter1")
    make_results("another", 70, "controls", kind="supervised", of="iter2")
    controls = read_controls(tmp_path / "controls", NAMES, "iter1")
    assert list(controls) == ["supervised"]
    figures, *tables = controls["supervised"]
    assert figures["name"] == "same_size"
    assert [(table["predicted"] == table["actual"]).mean() for table in tables] == [0.85, 0.88]  # test, held-out
    assert (
        read_controls(tmp_path / "controls", NAMES, "iter3") == read_controls(tmp_path / "nowhere", [], "iter1") == {}
    )


def test_two_controls_of_one_kind_are_refused(tmp_path, make_results):
    make_results("one", 85, "controls", kind="supervised", of="iter1")
    make_results("two", 80, "controls", kind="supervised", of="iter1")
    with pytest.raises(UserError, match="iter1 has two controls of kind supervised"):
        read_controls(tmp_path / "controls", NAMES, "iter1")


def test_a_summary_has_the_gains_over_teacher_and_control_and_can_be_written(tmp_path, history, make_results):
    results, _ = make_results("same_size", 85, "controls", kind="supervised", of="iter1")
    control = read_result(results)
    shuffled = control.predictions.sample(frac=1, random_state=0)  # matched by id, not by place
    control = control._replace(predictions=shuffled)
    save_history(tmp_path / "history", history)
    for known in (history, read_history(tmp_path / "history")):
        figures = summary(known, "iter1", {"supervised": control})
        assert (figures["iteration"], figures["teacher"], figures["accuracy"]) == ("iter1", "iter0", 0.92)
        assert figures["gain_over_teacher"] == pytest.approx(0.12)
        assert figures["gain_over_control"] == pytest.approx(0.07)
        assert figures["gain_over_control_low"] < 0.07 < figures["gain_over_control_high"]
        assert (figures["control"]["name"], figures["control"]["accuracy"]) == ("same_size", 0.85)
        row = next(line for line in rendered(known.rows, figures).splitlines() if line.strip().startswith("same_size"))
        assert "85.0 %" in row
        write_json(tmp_path / "summary.json", figures)
        assert read_json(tmp_path / "summary.json") == figures


def test_a_summary_leaves_out_what_cannot_be_had(make_results):
    figures = summary(single(*make_results("iter0", 80), None), "iter0", {})
    assert "teacher" not in figures
    assert not [name for name in figures if name.startswith(("gain", "pseudo", "kept"))]


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.02, 0.01, 0.03), "The pool helped: +2.00 points"),
        ((-0.02, -0.03, -0.01), "The pool hurt: 2.00 points below same_size, the same model on labels alone"),
        ((0.01, -0.01, 0.03), "It is unclear whether the pool helped: +1.00 points"),
        (None, "No control of iter1 was run"),
    ],
)
def test_the_verdict_goes_by_the_interval_over_the_control(gains, expected):
    names = ("gain_over_control", "gain_over_control_low", "gain_over_control_high")
    figures = {"iteration": "iter1", "control": {"name": "same_size"}}
    assert verdict({**figures, **dict(zip(names, gains or (), strict=False))}).startswith(expected)


def rendered(rows: pd.DataFrame, figures: dict) -> str:
    screen = io.StringIO()
    Console(file=screen, width=120).print(table(rows, figures))
    return screen.getvalue()


def test_the_table_shows_each_iteration_and_the_verdict(tmp_path, history):
    save_history(tmp_path, history)
    for rows in (history.rows, read_csv(tmp_path / "history.csv")):
        shown = rendered(rows, summary(history, "iter1", {}))
        assert "30 training labels, 20 held-out labels" in shown
        assert "No control of iter1 was run" in shown
        for cell in ("iter0", "iter1", "80.0 %", "92.0 %", "1,234", "50.0 %", "90.0 %"):
            assert cell in shown
        assert "nan" not in shown


def test_balanced_accuracy_counts_each_class_alike_and_is_shown_where_it_differs(history):
    labels = np.array([0] * 8 + [1] * 2)
    figures = evaluation(np.eye(3)[[0] * 10] * 5, labels, DESCRIPTION, 1.0)
    assert (figures["accuracy"], figures["balanced_accuracy"]) == (0.8, 0.5)
    assert "balanced" not in rendered(
        history.rows.assign(balanced_accuracy=history.rows["accuracy"]), {"iteration": "iter1"}
    )
    shown = rendered(history.rows.assign(balanced_accuracy=0.5), {"iteration": "iter1"})
    assert "balanced" in shown
    assert "parameters" not in shown
    assert "50.0 %" in shown


def test_the_table_names_the_least_accurate_classes(history):
    confusion = pd.DataFrame({"actual": list("aaaabb"), "predicted": list("aaabbb")})
    screen = io.StringIO()
    Console(file=screen, width=120).print(table(history.rows, {"iteration": "iter1"}, confusion))
    assert "Least accurate classes of iter1: a 75.0 %, b 100.0 %." in screen.getvalue()


def test_the_table_of_a_teacher_alone(make_results):
    history = single(*make_results("iter0", 80), None)
    shown = rendered(history.rows, summary(history, "iter0", {}))
    assert "iter0" in shown
    assert "nan" not in shown


def test_what_an_iteration_was_distilled_into_is_measured_beside_it(tmp_path, history, make_results):
    make_results("small", 90, "distilled", teacher="iter1")
    make_results("other", 70, "distilled", teacher="iter7")
    found = distilled_figures(history, read_distilled(tmp_path / "distilled", ["small", "other"]))["distilled"]
    assert list(found) == ["small", "other"]
    assert (found["small"]["accuracy"], found["small"]["gain_over_teacher"]) == (0.9, pytest.approx(-0.02))
    assert "gain_over_teacher" not in found["other"]  # whose teacher is not of this history
    console = Console(width=120, file=io.StringIO())
    console.print(table(history.rows, {"iteration": "iter1", "distilled": found}))
    said = console.file.getvalue()
    assert "90.0 %" in next(line for line in said.splitlines() if line.strip().startswith("small"))
    assert "small compared with its teacher iter1: -2.00 points (95 %" in said
    assert "other was distilled from iter7, which is not in this table." in said


def test_in_a_narrow_terminal_the_name_of_a_model_gives_way_and_no_number(history):
    console = Console(width=80, file=io.StringIO())
    rows = history.rows.assign(model="torchvision/regnet_y_128gf", parameters=644_812_894)
    console.print(table(rows, {"iteration": "iter1"}))
    said = console.file.getvalue()
    assert "644,812,894" in said
    assert all(column in said for column in ("iteration", "parameters", "accuracy", "95 %", "precision"))


def test_without_distilled_models_a_summary_says_nothing_of_them(history):
    assert distilled_figures(history, {}) == {}


def test_results_of_a_distilled_model_that_is_no_more_are_refused(tmp_path, make_results):
    make_results("small", 90, "distilled", teacher="iter1")
    with pytest.raises(UserError, match=r"small is left from a model that params.yaml no longer has"):
        read_distilled(tmp_path / "distilled", [])


def test_the_cost_of_a_training_is_that_of_three_forward_passes_an_image():
    assert cost(DESCRIPTION) == {"multiply_adds": 1000, "images_trained": 640, "training_multiply_adds": 1_920_000}
