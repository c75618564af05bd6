"""Which model to deploy: larger ones only where held-out labels show that they are better, and in a person's words."""

import numpy as np
import pandas as pd
import pytest

from noisy_student.evaluation.gate import Candidate, candidates, gate, more_labels, sentence
from noisy_student.evaluation.history import HISTORY_COLUMNS, History, Measured

LABELS = 200


def model(name: str, wrong: int, parameters: int, of: int = LABELS, first: int = 0) -> Candidate:
    """A model that is wrong on so many held-out images, from the one numbered `first` on."""
    right = np.ones(of, bool)
    right[first : first + wrong] = False
    return Candidate(name, f"models/{name}", parameters, right)


SMALL = model("iter0", 40, 10)
ALONE = model("same_size", 36, 30)
GOOD = model("iter2", 12, 30)


@pytest.mark.parametrize(
    ("models", "named", "told"),
    [
        ([SMALL, ALONE, GOOD], "iter2", "on 200 held-out labels it leads iter0 by 14.0 points (95 % interval +9."),
        ([SMALL, model("small", 12, 10), GOOD], "small", "Deploy models/small: on 200 held-out labels it leads iter0"),
        ([SMALL, model("same_size", 12, 30), GOOD], "same_size", "Deploy models/same_size"),  # the pool adds nothing
        ([SMALL, model("iter1", 60, 20)], "iter0", "no larger model is right more often on 200 held-out labels"),
        ([SMALL], "iter0", "Deploy models/iter0: no larger model"),
        ([SMALL, model("iter1", 40, 20)], "iter0", "no larger model"),  # a student without steps
        (
            [model("iter0", 8, 10, of=20), model("iter2", 6, 30, of=20)],
            "iter0",
            "Deploy models/iter0, the smallest: iter2 leads iter0 by 10.0 points (95 % interval -3.",
        ),
    ],
    ids=["good", "distilled", "control", "worse", "alone", "equal", "few labels"],
)
def test_a_larger_model_is_named_where_it_is_shown_to_be_better(models, named, told):
    deploy = gate(models)
    assert (deploy["name"], deploy["folder"]) == (named, f"models/{named}")
    assert told in sentence(deploy)


def test_a_person_is_told_how_many_labels_would_show_the_lead():
    few, many = ([model("iter0", n // 5, 10, of=n), model("iter2", n // 5 - n // 20, 30, of=n)] for n in (20, 200))
    deploy = gate(few)
    assert f"about {deploy['more_labels']:,} more would." in sentence(deploy)
    assert deploy["more_labels"] == 53  # (1.96 * 0.218 / 0.05)^2 is 73
    assert gate(many)["name"] == "iter2"  # a lead of 5 points, shown by 200


def test_no_more_labels_are_asked_for_than_a_point_needs():
    right = np.arange(LABELS) % 10 > 0
    assert more_labels(right, np.roll(right, 1)) == pytest.approx((1.96 / 0.01) ** 2 * 0.2 - LABELS, abs=2)


def table(name: str, wrong: int, shuffled: bool = False) -> pd.DataFrame:
    predicted = ["b"] * wrong + ["a"] * (LABELS - wrong)
    found = pd.DataFrame({"id": [f"{row}" for row in range(LABELS)], "actual": "a", name: predicted})
    return found.sample(frac=1, random_state=0) if shuffled else found


def test_all_models_but_controls_that_see_the_pool_are_candidates_the_smallest_first():
    rows = pd.DataFrame({"iteration": ["iter0", "iter1"], "parameters": [10, 30]}).reindex(columns=HISTORY_COLUMNS)
    held_out = table("iter0", 40).merge(table("iter1", 12), on=["id", "actual"])
    history = History(rows, pd.DataFrame(), pd.DataFrame(), held_out)

    def measured(name: str, parameters: int, wrong: int) -> Measured:
        figures = {"name": name, "parameters": parameters}
        return Measured(figures, pd.DataFrame(), table("predicted", wrong, shuffled=True))  # matched by id

    controls = {"supervised": measured("same_size", 30, 36), "oracle": measured("truth", 30, 0)}
    found = candidates(history, controls, {"small": measured("small", 5, 20)})
    assert [each.name for each in found] == ["small", "iter0", "same_size", "iter1"]
    assert [int((~each.right).sum()) for each in found] == [20, 40, 36, 12]
    assert found[0].folder == "models/distilled/small"
    assert (gate(found)["name"], gate(found)["compared_with"]) == ("iter1", "small")
