"""The benchmark of photographs: what it compares, and the tables that it leaves."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import photographs
from commands.configure import dumped
from noisy_student.check import check
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError
from noisy_student.store.splits import read_truth, write_split


def rows() -> pd.DataFrame:
    """Two draws of a run of three models."""
    accuracies = {"iter0": (0.7, 0.72), "iter1": (0.8, 0.84), "same_size": (0.75, 0.76)}
    return pd.DataFrame(
        [
            {"run": "hats", "draw": draw, "name": name, "model": "m", "accuracy": found[draw], "balanced_accuracy": 0.5}
            for draw in (0, 1)
            for name, found in accuracies.items()
        ]
    )


@pytest.mark.parametrize("name", photographs.RUNS)
def test_the_check_accepts_each_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/labeled").mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes(dumped(photographs.params_of(photographs.RUNS[name], 0)))
    assert check(ParamsFile(tmp_path / "params.yaml")).recipes()


def test_the_last_iteration_is_compared_with_each_other_model_by_draw():
    lines = list(photographs.differences("hats", rows()))
    assert lines[0].startswith("| hats | iter1 - iter0 | 2 | +11.00 ")
    assert lines[1].startswith("| hats | iter1 - same_size | 2 | +6.50 ")
    assert all(line.endswith("| 2 of 2 | +0.00 ± 0.00 | 0 of 2 |") for line in lines)


def test_the_time_of_a_run_is_without_its_oracle():
    stages = pd.DataFrame({"stage": ["prepare", "train_pool_control@oracle"], "seconds": [10, 90], "megabytes": [5, 9]})
    stages = stages.assign(run="hats", draw=0)
    text = photographs.markdown(rows(), stages)
    assert "| hats | iter1 | m | 2 | 82.00 ± 25.41 |" in text
    assert "| hats | train_pool_control@oracle | 90 | 9 |" in text
    assert "| hats | all | 10 | 5 |" in text


def test_a_model_is_there_when_all_stages_that_it_needs_have_run():
    seconds = {"check": 6, "prepare": 12, "pretrain": 6, "extract_features@labeled": 30, "train_teacher": 6}
    seconds |= {
        "extract_features@pool": 120,
        "evaluate_teacher": 600,
        "predict_pool@iter1": 60,
        "pseudo_label@iter1": 0,
        "train_student@iter1": 60,
    }
    stages = pd.DataFrame({"run": "hats", "draw": 0, "stage": seconds.keys(), "seconds": seconds.values()})
    first, second = photographs.minutes("hats", rows(), stages)
    assert first.startswith("| hats | iter0 | 1.0 | 71.00 ")
    assert second.startswith("| hats | iter1 | 5.0 | 82.00 ")


def test_the_truth_is_that_of_the_images_names(tmp_path):
    """Images of the pool are named by their rows, and classes are numbered as in the labeled split."""
    preparation, pixels = {"image_size": 4}, np.zeros((2, 4, 4, 3), np.uint8)
    index = pd.DataFrame({"id": ["labeled/hat/00000.jpg", "labeled/shirt/00001.jpg"], "label": [0, 1]})
    hashes = ["a" * 64, "b" * 64]
    write_split(tmp_path / "labeled", pixels, index.assign(sha256=hashes), ["hat", "shirt"], preparation, 10**6, None)
    pool = pd.DataFrame({"id": ["pool/00003.jpg", "pool/00002.jpg"], "sha256": hashes})
    write_split(tmp_path / "pool", pixels, pool, ["hat", "shirt"], preparation, 10**6, None)
    table = pd.DataFrame({"label": ["hat", "shirt", "hat", "shirt"]})
    photographs.write_pool_truth(tmp_path, table)
    assert read_truth(tmp_path / "pool_truth.parquet").tolist() == [1, 0]


def test_a_run_that_there_is_not_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no run hats; there are clothing_20, "):
        photographs.main.__wrapped__([str(tmp_path), "hats"])


def test_alignment_finds_the_frequencies_of_the_pool():
    """Of a model that is right about its odds: 90 % of the pool are of a class that were half of the labels."""
    generator = np.random.default_rng(0)
    actual = generator.random(20_000) < 0.9
    evidence = generator.normal(np.where(actual, 1, -1))  # whose log odds are twice its value
    sure = 1 / (1 + np.exp(-2 * evidence))
    found = photographs.aligned(np.stack([1 - sure, sure], axis=1), np.array([0.5, 0.5]))
    assert found.mean(axis=0)[1] == pytest.approx(0.9, abs=0.01)
    assert ((found[:, 1] > 0.5) == actual).mean() > ((sure > 0.5) == actual).mean() + 0.05
