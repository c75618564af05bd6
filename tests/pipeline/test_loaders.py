"""No stage reads a file by a loader that can run code out of it: whole runs in which each of them raises."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.small_run import Project, Run

RAISING = str(Path(__file__).parent / "loaders")
TEACHER = "train_teacher"


@pytest.fixture(autouse=True)
def raising(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", RAISING)


@pytest.mark.slow
def test_a_whole_run_calls_no_loader_that_can_run_code(tmp_path):
    project = Project(tmp_path)
    assert (tmp_path / "metrics/summary.json").exists()
    project.forget(TEACHER)
    run = project.start(project.lines[TEACHER][0])
    assert run.until(lambda: project.checkpoints(TEACHER))
    run.kill()
    run.ended()
    assert "goes on after step" in project.finish(TEACHER)
    repeated = project.repro(TEACHER)
    repeated.ended()
    assert not repeated.returncode
    assert project.hashes(TEACHER) == project.made[TEACHER]


@pytest.mark.slow
def test_nor_does_a_folder_of_images(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(60, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "images" / ("labeled/cat", "labeled/dog", "pool")[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    sizes = {"test": 6, "calibration": 4, "validation": 4, "labeled_per_class": 4, "pool": 20}
    own = {"data.source": "folder", **{f"data.{name}": size for name, size in sizes.items()}}
    project = Project(tmp_path, ["check", "prepare"], own)
    assert "data/pool/split.json" in project.made["prepare"]


TRIES = """
import pickle, numpy, torch, yaml
from concurrent.futures import ProcessPoolExecutor
for call in (
    lambda: torch.load("x"),
    lambda: pickle.load(open("x", "rb")),
    lambda: pickle.loads(open("x", "rb").read()),
    lambda: pickle.Unpickler(open("x", "rb")),
    lambda: numpy.load("x", allow_pickle=True),
    lambda: yaml.load("a: 1", yaml.Loader),
    lambda: yaml.FullLoader("a: 1"),
    lambda: yaml.unsafe_load("a: 1"),
):
    try:
        call()
    except AssertionError:
        print("noticed")
numpy.save("a.npy", [1])
with ProcessPoolExecutor(1) as pool:
    print(numpy.load("a.npy"), yaml.safe_load("a: 1"), pool.submit(abs, -1).result())
"""


def test_the_loaders_are_noticed_and_others_left_alone(tmp_path):
    (tmp_path / "x").touch()
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/tries.py").write_text(TRIES)
    said = Run(["python", "-m", "stages.tries"], tmp_path).ended()
    assert said.splitlines() == [*["noticed"] * 8, "[1] {'a': 1} 1"]
