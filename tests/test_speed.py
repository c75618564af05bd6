"""The table of ratios: how it is computed, and when it fails."""

import json
import sys

import pytest

from benchmarks import speed
from noisy_student.errors import Refusal


def measured(*speeds: float):
    left = list(speeds)
    return lambda: speed.Measured(left.pop(0), 100.0, "")


def test_a_ratio_is_the_median_over_rounds_of_own_speed_over_the_limits(capsys):
    row = speed.compared("training", "cnn_16", measured(90, 1, 97), measured(100, 100, 100))
    assert (row["ratio"], row["images_per_second"], row["peak_mb"]) == (0.9, 90, 100)
    row = speed.compared("noop", None, measured(0.5, 0.5, 0.5), measured(1, 1, 1))
    assert (row["ratio"], row["images_per_second"], row["seconds"]) == (0.5, None, 2.0)


def test_a_ratio_that_fell_by_more_than_a_tenth_is_refused():
    before = [{"work": "training", "model": "cnn_16", "ratio": 0.8}]
    speed.refuse_slower([{"work": "training", "model": "cnn_16", "ratio": 0.73}], before)
    speed.refuse_slower([{"work": "noise", "model": "cnn_16", "ratio": 0.01}], before)  # not measured before
    with pytest.raises(Refusal, match=r"training cnn_16 fell from 0\.8 of its limit to 0\.71"):
        speed.refuse_slower([{"work": "training", "model": "cnn_16", "ratio": 0.71}], before)


def test_a_process_that_fails_says_its_last_words(tmp_path):
    assert speed.run(tmp_path, sys.executable, "-c", "print('done')").output == "done\n"
    with pytest.raises(Refusal, match="no such luck"):
        speed.run(tmp_path, sys.executable, "-c", "raise SystemExit('no such luck')")


def test_the_empty_pipeline_has_the_same_stages_and_nothing_to_do(tmp_path):
    folder = speed.empty_pipeline(tmp_path / "empty")
    stages = len(speed.expanded(*speed.pipeline()))
    status = speed.run(folder, sys.executable, "-m", "dvc", "status", "--json").output
    assert json.loads(status.splitlines()[-1]) == {}
    assert len(list(folder.glob("models/[!.]*"))) == 4
    assert stages == 17


@pytest.mark.usefixtures("torch_settings")
@pytest.mark.parametrize("kind", ["training", "labeling", "noise"])
def test_work_and_limit_give_images_a_second(kind, capsys, monkeypatch):
    from benchmarks import limits, work

    monkeypatch.setattr(limits, "SECONDS", 0.01)
    for module in (limits, work):
        module.main(kind, "cnn_2", "28", "1")
        assert json.loads(capsys.readouterr().out.splitlines()[-1])["images_per_second"] > 1
