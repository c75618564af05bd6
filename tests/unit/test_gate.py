"""Which model to deploy: larger ones only where held-out labels show that they are better, and in a person's words."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from noisy_student.core.errors import UserError
from noisy_student.evaluation.gate import Candidate, candidates, gate, leads, sentence
from noisy_student.evaluation.history import HISTORY_COLUMNS, EvaluationResult, History

LABELS = 200


def model(name: str, wrong: int, parameters: int, of: int = LABELS, other: int = 0) -> Candidate:
    """A model that is wrong on the first `wrong` of the held-out images, and on the last `other` ones."""
    rows = np.arange(of)
    return Candidate(name, f"models/{name}", "0" * 64, parameters, (rows >= wrong) & (rows < of - other))


TEACHER = model("iter0", 40, 10)
ALONE = model("same_size", 30, 30, other=6)
GOOD = model("iter2", 8, 30, other=4)


@pytest.mark.parametrize(
    ("models", "named", "told"),
    [
        ([TEACHER, ALONE, GOOD], "iter2", "on 200 held-out labels it leads iter0 by 14.0 points (95 % interval +"),
        ([TEACHER, model("small", 8, 10, other=4), GOOD], "small", "Deploy models/small: on 200 held-out labels it"),
        ([TEACHER, model("same_size", 8, 30, other=4), GOOD], "same_size", "Deploy models/same_size"),
        ([TEACHER, model("iter1", 20, 20), model("iter2", 5, 30)], "iter2", "it leads iter0 by 17.5 points"),
        ([TEACHER, model("iter1", 60, 20)], "iter0", "the smallest: no other is right more often on 200 held-out"),
        ([TEACHER], "iter0", "Deploy models/iter0, the smallest: no other"),
        ([TEACHER, model("iter1", 40, 20)], "iter0", "no other is right more often"),  # a student without steps
        (
            [model("iter0", 8, 10, of=20), model("iter2", 4, 30, of=20)],
            "iter0",
            "Which model to deploy is undecided: on 20 held-out labels iter2 leads iter0, the smallest, by 20.0 points "
            "(95 % interval -0.2 to +36.6). About 14 more would show such a lead.",
        ),
        (
            [TEACHER, model("iter2", 39, 30)],
            "iter0",
            "by 0.5 points (95 % interval -0.9 to +1.9). About 193 more would show a lead of a point.",
        ),
        (
            [model("iter0", 400, 10, of=2000), model("iter2", 399, 30, of=2000)],
            "iter0",
            "The lead is too small to matter: a lead of a point would have been shown.",
        ),
    ],
    ids=["good", "distilled", "control", "three sizes", "worse", "alone", "equal", "few labels", "one image", "tiny"],
)
def test_a_larger_model_is_named_where_it_is_shown_to_be_better(models, named, told):
    deploy = gate(models)
    assert (deploy["name"], deploy["folder"]) == (named, f"models/{named}")
    assert told in sentence(deploy)
    assert deploy["decided"] == sentence(deploy).startswith(f"Deploy models/{named}")


@pytest.mark.parametrize(("wins", "shown"), [(3, False), (4, False), (6, True)])
def test_a_few_images_show_nothing_that_a_coin_would_not(wins, shown):
    """Of so many wins without a loss a fair coin gives 25, 12.5 and 3.1 %, both sides counted."""
    assert gate([model("iter0", wins, 10), model("iter1", 0, 20)])["decided"] == shown


def test_so_many_more_labels_show_the_lead_four_times_in_five():
    few = [model("iter0", 8, 10, of=20), model("iter2", 6, 30, of=20, other=1)]
    total = 20 + gate(few)["more_labels"]
    random, shown = np.random.default_rng(0), 0
    for _ in range(300):
        drawn = random.integers(20, size=total)
        shown += gate([replace(each, right=each.right[drawn]) for each in few])["name"] == "iter2"
    assert 0.7 < shown / 300 < 0.9


def held_out(name: str, wrong: int) -> pd.DataFrame:
    predicted = ["b"] * wrong + ["a"] * (LABELS - wrong)
    return pd.DataFrame({"id": [f"{row}" for row in range(LABELS)], "actual": "a", name: predicted})


@pytest.fixture
def history() -> History:
    rows = pd.DataFrame({"iteration": ["iter0", "iter1"], "parameters": [10, 30], "weights_sha256": ["a", "b"]})
    rows["folder"] = ["models/iter0", "models/iter1"]
    both = held_out("iter0", 40).merge(held_out("iter1", 12), on=["id", "actual"])
    return History(rows.reindex(columns=HISTORY_COLUMNS), pd.DataFrame(), pd.DataFrame(), both)


def result(name: str, parameters: int, wrong: int, **more: str) -> EvaluationResult:
    figures = {"name": name, "parameters": parameters, "folder": f"models/{name}", "weights_sha256": name, **more}
    shuffled = held_out("predicted", wrong).sample(frac=1, random_state=0)  # matched by id
    return EvaluationResult(figures, pd.DataFrame(), shuffled)


def test_models_of_this_history_that_see_no_truth_are_candidates_the_smallest_first(history):
    controls = {"supervised": result("same_size", 30, 36), "oracle": result("truth", 30, 0)}
    distilled = {"small": result("small", 5, 20, teacher="iter1"), "other": result("other", 1, 0, teacher="iter7")}
    found = candidates(history, controls, distilled)
    assert [each.name for each in found] == ["small", "iter0", "same_size", "iter1"]
    assert [int((~each.right).sum()) for each in found] == [20, 40, 36, 12]
    deploy = gate(found)
    assert (deploy["folder"], deploy["weights_sha256"]) == ("models/iter1", "b")
    assert deploy["compared_with"] == "small"


def test_a_model_that_was_evaluated_on_other_images_is_refused(history):
    control = result("same_size", 30, 36)
    for wrong in (control.held_out[1:], pd.concat([control.held_out, control.held_out[:1]])):
        with pytest.raises(UserError, match="same_size was evaluated on other held-out images"):
            candidates(history, {"supervised": control._replace(held_out=wrong)}, {})


def test_the_test_split_chooses_nothing(history):
    other = replace(history, predictions=pd.DataFrame({"id": ["x"], "actual": ["a"], "iter1": ["b"]}))
    assert gate(candidates(history, {}, {})) == gate(candidates(other, {}, {}))


def test_the_named_model_is_compared_with_each_other_one():
    own, teacher, alone = leads([GOOD, TEACHER, ALONE], "iter2")
    assert own == {"name": "iter2", "accuracy": 0.94}
    assert (teacher["name"], teacher["accuracy"], teacher["lead"]) == ("iter0", 0.8, pytest.approx(0.14))
    assert 0 < teacher["lead_low"] < teacher["lead"] < teacher["lead_high"]
    assert alone["lead"] == pytest.approx(0.12)
