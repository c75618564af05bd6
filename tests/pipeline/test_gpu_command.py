"""The command for a GPU, in little and on a CPU, so that on the day only its figures are new."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import gpu
from noisy_student.core.errors import UserError
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


def fails(*_) -> None:
    raise UserError("no such luck")


def test_a_piece_that_fails_is_told_and_the_others_are_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "tested", fails)
    monkeypatch.setattr(gpu, "rated", lambda out, size, model, precision: print("rated", precision))
    with pytest.raises(SystemExit):
        gpu.main(["--dry", "--out", str(tmp_path)])
    said = capsys.readouterr()
    assert said.err.startswith("error: no such luck\nerror: 1 of the pieces failed")
    assert said.out == "rated float32\nrated bfloat16\n"


def test_what_other_hardware_had_is_measured_anew(tmp_path, capsys, monkeypatch):
    write_json(tmp_path / "tests.json", {"passed": True, "said": ["1 passed"], "hardware": "another"})
    rows = [{"model": "cnn_4", "precision": each, "hardware": "another"} for each in gpu.PRECISIONS]
    pd.DataFrame(rows).to_csv(tmp_path / "rates.csv")
    for name in ("tested", "rated"):
        monkeypatch.setattr(gpu, name, lambda *_, name=name: print(name))
    gpu.main(["--dry", "--out", str(tmp_path)])
    assert capsys.readouterr().out.split() == ["tested", "rated", "rated"]
    gpu.main(["--dry", "--out", str(tmp_path), "--parts", "cifar10"])
    assert capsys.readouterr().out == ""


def test_after_its_time_nothing_new_is_begun(cifar10, capsys):
    out = cifar10 / "out"
    for part in gpu.PARTS:
        gpu.main(["--dry", "--minutes", "0", "--cifar10", str(cifar10), "--out", str(out), "--parts", part])
        assert "minutes are over" in capsys.readouterr().out
    assert not out.exists()


def test_without_a_gpu_it_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path)])
    assert "torch finds no GPU; take a machine with one, or --dry" in capsys.readouterr().err
