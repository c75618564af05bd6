"""The command for a GPU, in little and on a CPU, so that on the day only its figures are new."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import gpu
from noisy_student.core.files import read_csv, read_json, write_json


@pytest.fixture
def cifar10(tmp_path):
    """Tables of CIFAR-10's form: images of a color for each class."""
    colors = np.random.default_rng(0).integers(256, size=(10, 3))
    for part, count in (("train", 500), ("test", 100)):
        rows = []
        for number in range(count):
            noise = np.random.default_rng(number).integers(-20, 20, size=(32, 32, 3))
            file = io.BytesIO()
            Image.fromarray((colors[number % 10] + noise).clip(0, 255).astype(np.uint8)).save(file, "JPEG")
            rows.append({"path": f"{number}.jpg", "label": f"class {number % 10}", "jpeg": file.getvalue()})
        pd.DataFrame(rows).to_parquet(tmp_path / f"cifar10-{part}.parquet")
    return tmp_path


@pytest.mark.slow
def test_all_of_it_is_done_once(cifar10, capsys):
    out = cifar10 / "out"
    flags = ["--dry", "--minutes", "60", "--cifar10", str(cifar10), "--out", str(out)]
    gpu.main(flags)
    assert read_json(out / "tests.json")["passed"]
    rates, stages = read_csv(out / "rates.csv"), read_csv(out / "cifar10.csv")
    assert list(rates.precision) == ["float32", "bfloat16"]
    assert (rates[["ours", "limit", "loader", "floor"]] > 0).all(axis=None)
    assert stages.set_index("stage").accuracy["evaluate@iter1"] >= 0
    assert "| evaluate@iter1 |" in (out / "gpu.md").read_text()
    capsys.readouterr()
    gpu.main(flags)
    assert capsys.readouterr().out == ""


def test_a_test_that_fails_is_told_after_all_else_is_done(tmp_path, capsys):
    write_json(tmp_path / "tests.json", {"passed": False, "said": ["1 failed"], "hardware": "none"})
    pd.DataFrame([{"model": "cnn_4", "precision": each} for each in gpu.PRECISIONS]).to_csv(tmp_path / "rates.csv")
    with pytest.raises(SystemExit):
        gpu.main(["--dry", "--out", str(tmp_path)])
    assert "a test failed" in capsys.readouterr().err


def test_after_its_time_nothing_new_is_begun(tmp_path, capsys):
    gpu.main(["--dry", "--minutes", "0", "--out", str(tmp_path)])
    assert "minutes are over" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "torch finds no GPU; take a machine with one, or --dry" in capsys.readouterr().err
