"""The forecast that `make repro` begins with."""

import pytest
import torch

from commands.plan import clock, to_run
from noisy_student.core.errors import UserError
from noisy_student.training.forecast import forecast
from noisy_student.training.params import DistillationParams

DIGITS = ((28, 28, 1), 10)  # the shape of the images, and the number of their classes


def test_a_forecast_grows_with_the_steps(runtime, make_recipe):
    short, long = (
        forecast(make_recipe("cnn_2", steps=steps, batch_size=16), *DIGITS, runtime, torch.device("cpu"))
        for steps in (10, 1000)
    )
    assert 0 < 10 * short < long  # a hundred times as many steps


def test_a_distilled_model_has_a_forecast_too(make_recipe, runtime):
    distillation = DistillationParams(images="both", kind="soft", temperature=4, weight=0.5)
    recipe = make_recipe("cnn_2", steps=3, batch_size=16).model_copy(update={"distillation": distillation})
    assert forecast(recipe, *DIGITS, runtime, torch.device("cpu"), with_pool=True) > 0


def test_pretrained_weights_see_images_at_their_own_size(make_recipe, runtime):
    def fastest(size: tuple[int, int] | None) -> float:  # of several, for the machine may be busy now and then
        recipe = make_recipe("cnn_2", batch_size=16)
        return min(forecast(recipe, *DIGITS, runtime, torch.device("cpu"), input_size=size) for _ in range(3))

    assert fastest((224, 224)) > 2 * fastest(None)


def test_seconds_are_said_as_a_person_says_them():
    assert [clock(seconds) for seconds in (3.2, 89, 300)] == ["3 s", "89 s", "5.0 min"]


def test_outside_of_a_dvc_project_a_person_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="DVC cannot say what is to be run"):
        to_run()
