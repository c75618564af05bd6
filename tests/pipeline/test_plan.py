"""The forecast that `make repro` begins with."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import plan
from commands.configure import composed, dumped
from commands.plan import clock, to_run
from noisy_student.check import check
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError
from noisy_student.models.prediction import LabelingParams
from noisy_student.training.forecast import forecast, forecast_predictions
from noisy_student.training.params import DistillationParams

CONFIGS = Path(__file__).parents[2] / "configs"
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


def test_predictions_take_as_long_as_there_are_images_and_views(make_recipe, runtime):
    def fastest(images: int, tta: str) -> float:
        recipe, labeling = make_recipe("cnn_8"), LabelingParams(tta=tta)
        given = (*DIGITS, runtime, torch.device("cpu"), labeling, images)
        return min(forecast_predictions(recipe, *given) for _ in range(3))

    assert fastest(10_000, "one") > 10 * fastest(100, "one")  # a hundred times as many images
    assert fastest(1000, "shifts") > 1.5 * fastest(1000, "one")  # five views


def test_a_teacher_that_knows_the_features_does_not_see_the_pool_again(tmp_path, monkeypatch):
    for folder in ("labeled/cat", "labeled/dog", "pool"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / folder / f"{number}.png")
    (tmp_path / "params.yaml").write_bytes(dumped(composed(CONFIGS / "photos.yaml")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "forecast_predictions", lambda *given: 1.0)
    params = check(ParamsFile())
    stages = (
        "extract_features@labeled",
        "extract_features@pool",
        "predict_pool@iter1",
        "predict_pool@iter2",
        "predict_for_distilled@small",
    )
    forecasts = plan.Forecast(params, torch.device("cpu"))
    found = [each for stage in stages for each in forecasts.work_of(stage)]
    lite0, lite1 = params.pretraining.models
    assert [(each.stage, each.recipe.model, each.images) for each in found] == [
        ("extract_features@pool", lite0, 12),
        ("extract_features@pool", lite1, 12),
        ("predict_for_distilled@small", lite1, 12),
    ]


def test_seconds_are_said_as_a_person_says_them():
    assert [clock(seconds) for seconds in (3.2, 89, 300)] == ["3 s", "89 s", "5.0 min"]


def test_outside_of_a_dvc_project_a_person_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="DVC cannot say what is to be run"):
        to_run()
