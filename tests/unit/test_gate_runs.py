"""Good and spoiled runs of which the gate is asked: that they can be run, and their table."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from benchmarks import gate, pictures
from commands.configure import values
from noisy_student.check import check
from noisy_student.core.config import ParamsFile, changed

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder with the Parquet file of three of them."""
    pd.DataFrame({"jpeg": [pictures.encoded(number, 32) for number in range(3)]}).to_parquet(
        tmp_path / "cifar10-train.parquet"
    )
    return tmp_path


def test_in_the_spoiled_pool_there_is_no_digit_and_no_label_is_left_for_it(photographs):
    folder = gate.other_pool(photographs, photographs / "images")
    assert {file.parent.name for file in (folder / "pool").rglob("*.png")} == {"others"}
    labeled = [len(list(of_class.iterdir())) for of_class in (folder / "labeled").iterdir()]
    spoiled = {key: value for key, value in gate.RUNS["a pool of other images"].items() if not key.startswith("guards")}
    data = changed(values(), spoiled)["data"]
    wanted = data["test"] + data["calibration"] + data["validation"] + 10 * data["labeled_per_class"]
    assert sum(labeled) == wanted
    assert len(labeled) == 10


@pytest.mark.parametrize("name", gate.RUNS)
def test_the_check_accepts_every_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    for folder in ("labeled/a", "labeled/b", "pool"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / "1.png").write_bytes(b"")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(values(), dict(gate.RUNS[name]))))
    assert check(ParamsFile()).seed in range(6)


def test_the_table_has_what_the_gate_said(monkeypatch):
    accuracies = pd.DataFrame({"iteration": ["iter0", "iter1", "iter2"], "accuracy": [0.9, 0.95, 0.97]})
    deploy = {"name": "iter1", "folder": "models/iter1", "held_out_labels": 200, "decided": True}
    deploy |= {"lead": 0.03, "lead_low": 0.01, "lead_high": 0.05, "compared_with": "iter0"}
    monkeypatch.setattr(
        gate, "run_without_dvc", lambda *_, **__: (accuracies, {"control": {"accuracy": 0.96}, "deploy": deploy})
    )
    row = gate.table(pd.DataFrame([{"run": "good", **gate.figures({})}])).splitlines()[-1]
    assert row.startswith("| good | 90.0 % | 95.0 % | 97.0 % | 96.0 % | iter1 | Deploy models/iter1: on 200 held-out")
