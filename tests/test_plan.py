"""The forecast that `make repro` begins with."""

import pytest
import torch

from commands.plan import clock, forecast, to_run
from noisy_student.config import Params
from noisy_student.errors import Refusal
from noisy_student.sources import DataParams


def test_a_forecast_grows_with_the_steps(runtime, make_recipe):
    data = Params().section("data", DataParams)
    short, long = (
        forecast(make_recipe("cnn_2", steps=steps, batch_size=16), data, runtime, torch.device("cpu"))
        for steps in (10, 1000)
    )
    assert 0 < 10 * short < long  # a hundred times as many steps


def test_seconds_are_said_as_a_person_says_them():
    assert [clock(seconds) for seconds in (3.2, 89, 300)] == ["3 s", "89 s", "5.0 min"]


def test_outside_of_a_dvc_project_a_person_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refusal, match="DVC cannot say what is to be run"):
        to_run()
