import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from preparing import DATA, NO_CORRECTIONS, OUTPUTS, SPLITS, run_prepare

from noisy_student.data.sources import LOADERS, Dataset, Images
from noisy_student.store.splits import pixel_hash, read_split, read_truth


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project to run the stage in."""
    monkeypatch.chdir(tmp_path)
    Path("corrections.csv").write_text(NO_CORRECTIONS)


def run(seed=0, out="out", **changes):
    run_prepare({**DATA, "shard_megabytes": 1} | changes, seed, out)
    return out


def contents(root):
    """The bytes of every file under `root`, by path."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names]
    found = {}
    for path in paths:
        with open(path, "rb") as file:
            found[os.path.relpath(path, root)] = file.read()
    return found


def splits_of(out, tmp_path):
    return {name: read_split(tmp_path / out / name) for name in SPLITS}


def small_source(monkeypatch, copies, unlabeled=0):
    """In place of mnist_5k: 200 images of 4 classes, in which `copies` maps a row to the row that it repeats."""
    images = np.random.default_rng(0).integers(0, 256, (200 + unlabeled, 4, 4, 1), dtype=np.uint8)
    for copy, original in copies.items():
        images[copy] = images[original]
    ids = pd.Series([f"small/{row:05}" for row in range(len(images))])
    extra = Images(images[200:], np.full(unlabeled, -1), ids[200:]) if unlabeled else None
    dataset = Dataset(images[:200], np.arange(200) % 4, ids[:200], classes=list("abcd"), unlabeled=extra)
    monkeypatch.setitem(LOADERS, "mnist_5k", lambda params: dataset)
    return dataset


SMALL = {"test": 40, "labeled_per_class": 5, "calibration": 20, "validation": 20}


def test_digits_are_split_as_asked(tmp_path):
    splits = splits_of(run(), tmp_path)
    assert {name: len(split) for name, split in splits.items()} == {
        "labeled": 100,
        "pool": 3700,
        "calibration": 100,
        "validation": 100,
        "test": 1000,
    }
    for name in ("labeled", "calibration", "validation", "test"):
        assert np.ptp(np.bincount(splits[name].labels)) == 0
    assert splits["pool"].labels is None
    assert len(splits["pool"].shards) == 3  # of at most a megabyte
    hashes = [found for split in splits.values() for found in pixel_hash(split.images())]
    assert len(set(hashes)) == 5000

    dataset = LOADERS["mnist_5k"](None)
    where = {name: row for row, name in enumerate(dataset.ids)}
    for split in splits.values():
        rows = [where[name] for name in split.ids]
        assert np.array_equal(split.images(), dataset.images[rows])
        assert split.labels is None or np.array_equal(split.labels, dataset.labels[rows])
    truth = read_truth(tmp_path / "out" / "pool_truth.parquet")
    assert np.array_equal(truth, dataset.labels[[where[name] for name in splits["pool"].ids]])


def test_the_report_counts_what_was_written(tmp_path):
    run()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["source"] == "mnist_5k"
    assert (report["training_labels"], report["held_out_labels"]) == (100, 200)
    assert report["images"] == {"labeled": 100, "pool": 3700, "calibration": 100, "validation": 100, "test": 1000}
    assert report["duplicates_dropped"] == report["duplicates_with_conflicting_labels"] == 0


def test_the_same_seed_gives_the_same_bytes_also_in_place_of_another():
    first = contents(run(seed=3))
    assert {path.partition(os.sep)[0] for path in first} == set(OUTPUTS)
    run(seed=4, out="again")
    assert contents(run(seed=3, out="again")) == first


def test_no_position_in_the_pool_tells_a_class(tmp_path):
    classes = read_truth(tmp_path / run() / "pool_truth.parquet")  # the source has them one after the other
    assert (np.diff(classes) != 0).mean() > 0.8


def test_another_seed_leaves_the_test_split_alone():
    first, other = contents(run(seed=0)), contents(run(seed=1, out="other"))
    changed = {path.partition(os.sep)[0] for path in first if first[path] != other.get(path)}
    assert changed == {"labeled", "pool", "calibration", "validation", "pool_truth.parquet", "card"}
    moved = contents(run(seed=0, out="moved", test_seed=1))
    assert any(first[path] != moved[path] for path in first if path.startswith("test"))


@pytest.mark.parametrize("seed", range(5))
def test_planted_copies_never_stand_in_two_splits(tmp_path, monkeypatch, seed):
    copies = {100 + row: row for row in range(0, 60, 3)} | {200: 1, 201: 200, 202: 203}  # row % 4 stays: no conflict
    small_source(monkeypatch, copies | {199: 0}, unlabeled=20)
    splits = splits_of(run(seed=seed, **SMALL), tmp_path)
    assert max(Counter(found for split in splits.values() for found in pixel_hash(split.images())).values()) == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["duplicates_dropped"] == 24
    assert report["duplicates_with_conflicting_labels"] == 1
    assert sum(map(len, splits.values())) == 220 - 24


def test_images_without_labels_join_the_pool_and_have_no_truth(tmp_path, monkeypatch):
    small_source(monkeypatch, {}, unlabeled=20)
    pool = read_split(tmp_path / run(**SMALL) / "pool")
    truth = read_truth(tmp_path / "out" / "pool_truth.parquet")
    assert len(pool) == len(truth) == 220 - 40 - 20 - 40
    assert [name >= "small/00200" for name in pool.ids] == (truth == -1).tolist()
    assert (truth == -1).sum() == 20
    assert len(read_split(tmp_path / run(**SMALL, pool=30) / "pool")) == 30


def refused(capsys, **changes):
    with pytest.raises(SystemExit) as ended:
        run(**changes)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_more_labels_than_images_are_refused_before_anything_is_loaded(capsys, monkeypatch):
    monkeypatch.setitem(LOADERS, "mnist_5k", None)
    assert "data.labeled_per_class was 500; only 400 images" in refused(capsys, labeled_per_class=500)
    assert not os.path.exists("out")


def test_more_labels_than_different_images_are_refused_and_nothing_is_written(capsys, monkeypatch):
    small_source(monkeypatch, {100 + row: row for row in range(100)})  # half of them are copies
    assert "data.labeled_per_class was 16; only 15 images" in refused(capsys, **SMALL | {"labeled_per_class": 16})
    assert not os.path.exists("out")


def test_a_failing_disk_leaves_no_half_written_output(capsys, monkeypatch):
    real, calls = os.fsync, []

    def full_after_eight(descriptor):
        calls.append(descriptor)
        if len(calls) > 8:
            raise OSError("no space left")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full_after_eight)
    with pytest.raises(SystemExit):
        run()
    assert "error: no space left; fix that and run again" in capsys.readouterr().err
    left = os.listdir("out")
    assert 0 < len(left) < len(OUTPUTS)
    for name in left:
        assert len(read_split(Path("out") / name)) > 0
