"""Which images get a label, and the table of what the labels bring."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from benchmarks import labels_by_hand
from benchmarks.labels_by_hand import LABELS, NONE, RANDOM, UNSURE, corrections, table
from noisy_student.store.splits import pixel_hash, write_split, write_truth

CLASSES = ["cat", "dog"]


@pytest.fixture
def finished(tmp_path):
    images = np.random.default_rng(0).integers(256, size=(50, 4, 4, 1), dtype=np.uint8)
    index = pd.DataFrame({"id": [f"image {row}" for row in range(50)], "sha256": pixel_hash(images)})
    write_split(tmp_path / "data/pool", images, index, CLASSES, {}, 1000)
    write_truth(tmp_path / "data/pool_truth.parquet", index["id"], np.where(np.arange(50) < 10, -1, np.arange(50) % 2))
    return tmp_path


@pytest.mark.parametrize("how", [UNSURE, RANDOM])
def test_chosen_images_get_their_true_labels(finished, how, monkeypatch):
    def to_label(model, folder, count, known):
        assert (count, set(known)) == (LABELS, {f"image {row}" for row in range(10)})
        return SimpleNamespace(table=pd.DataFrame({"id": [f"image {row}" for row in range(10, 10 + count)]}))

    monkeypatch.setattr(labels_by_hand, "to_label", to_label)
    header, *lines = corrections(finished, how, seed=0).splitlines()
    assert header == "id,label"
    assert len(set(lines)) == LABELS
    for line in lines:
        name, label = line.split(",")
        row = int(name.removeprefix("image "))
        assert row >= 10
        assert label == CLASSES[row % 2]


def test_labels_are_held_against_the_run_of_the_same_seed_without_them():
    accuracies = {NONE: (0.90, 0.92), UNSURE: (0.95, 0.97), RANDOM: (0.91, 0.93)}
    rows = [
        {"seed": seed, "labels": how, "training_labels": 100, "teacher": 0.8, "student": student}
        for how, students in accuracies.items()
        for seed, student in enumerate(students)
    ]
    of_none, of_unsure, of_random = table(pd.DataFrame(rows)).splitlines()[-3:]
    assert of_none.endswith("| 91.00 ± 12.71 |  |")
    assert of_unsure.endswith("| +5.00 ± 0.00 |")
    assert of_random.endswith("| +1.00 ± 0.00 |")
