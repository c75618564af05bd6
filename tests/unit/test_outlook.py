"""What more may bring: the factor of the last step once more, only where a run tells it, in a person's words."""

import numpy as np
import pandas as pd
import pytest

from noisy_student.core.errors import UserError
from noisy_student.evaluation.history import EvaluationResult, History
from noisy_student.evaluation.outlook import next_gain, outlook, sentence

LABELS = 2000
IDS = [f"image {number}" for number in range(LABELS)]


def predictions(wrong: int) -> list[str]:
    """Classes of LABELS images, all of which are cats, the first ones taken for dogs."""
    return ["dog"] * wrong + ["cat"] * (LABELS - wrong)


def history(**wrong: int) -> History:
    """Iterations, each the teacher of the next, with their errors."""
    held_out = pd.DataFrame({"id": IDS, "actual": "cat", **{name: predictions(each) for name, each in wrong.items()}})
    rows = pd.DataFrame({"iteration": list(wrong), "teacher": [None, *list(wrong)[:-1]]})
    return History(rows, pd.DataFrame(), pd.DataFrame(), held_out)


def control(wrong: int) -> EvaluationResult:
    held_out = pd.DataFrame({"id": IDS, "actual": "cat", "predicted": predictions(wrong)})[::-1]
    return EvaluationResult({"name": "control"}, pd.DataFrame(), held_out)


def right(wrong: int, images: int = LABELS) -> np.ndarray:
    return np.arange(images) >= wrong


def test_the_next_step_divides_the_error_as_the_last_one_did():
    gain, low, high = next_gain(right(400), right(200))  # 20 % to 10 %, so 5 % is next
    assert gain == pytest.approx(0.05, abs=1e-3)
    assert 0.04 < low < gain < high < 0.06


def test_a_step_that_hurt_promises_no_gain():
    gain, low, high = next_gain(right(200), right(300))
    assert low < gain < high < 0


@pytest.mark.parametrize(("before", "after", "images"), [(0, 0, 20), (20, 20, 20), (1, 0, 20), (0, 1, 1)])
def test_few_images_and_models_without_errors_give_figures(before, after, images):
    gain, low, high = next_gain(right(before, images), right(after, images))
    assert -1 <= low <= gain <= high <= 1


def test_few_images_without_a_difference_prove_nothing():
    gain, low, high = next_gain(right(4, 200), right(4, 200))
    assert low < gain == 0 < high


def test_the_interval_covers_the_true_gain_about_as_often_as_it_says():
    draw, covered = np.random.default_rng(0), 0
    for _ in range(200):
        before, after = (draw.random(500) > error for error in (0.2, 0.1))
        _, low, high = next_gain(before, after)
        covered += low <= 0.05 <= high
    assert 180 <= covered <= 199


def test_an_outlook_has_what_the_runs_tell_and_no_more():
    assert outlook(history(iter0=400), "iter0", {}) == {}
    iterations = history(iter0=400, iter1=200, iter2=150)
    alone = outlook(iterations, "iter2", {"supervised": control(300)})
    assert set(alone) == {"held_out_labels", "iteration"}
    assert alone["iteration"]["gain"] == pytest.approx(0.075 - 0.075**2 / 0.1, abs=1e-3)
    kinds = {"supervised": control(300), "half_labels": control(400), "half_pool": control(200)}
    all_of_them = outlook(iterations, "iter2", kinds)
    assert all_of_them["labels"]["gain"] == pytest.approx(0.15 - 0.15**2 / 0.2, abs=1e-3)
    assert all_of_them["pool"]["gain"] == pytest.approx(0.075 - 0.075**2 / 0.1, abs=1e-3)


def test_a_control_of_other_held_out_images_is_refused():
    other = control(300)
    other.held_out["id"] += "?"
    with pytest.raises(UserError, match="control was evaluated on other held-out images"):
        outlook(history(iter0=400, iter1=200), "iter1", {"half_pool": other})


def test_the_sentence_names_each_with_its_interval():
    found = {
        "held_out_labels": 1200,
        "labels": {"gain": 0.031, "low": 0.012, "high": 0.05},
        "iteration": {"gain": -0.002, "low": -0.01, "high": 0.006},
    }
    assert sentence(found) == (
        "By 1,200 held-out labels, another iteration may bring -0.2 points (95 % interval -1.0 to +0.6); "
        "twice the labels, without the pool, may bring +3.1 points (95 % interval +1.2 to +5.0)."
    )
