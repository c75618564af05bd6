import numpy as np
import pandas as pd
import pytest

from benchmarks.baselines import NETS, cost, features, markdown, pixels
from noisy_student.models.classifier import new_classifier
from noisy_student.models.registry import check_name


def test_every_net_is_a_model():
    for name in NETS:
        check_name(name)


def test_neighbors_cost_the_memory_of_what_they_are_compared_with(make_split):
    split = make_split(0, 60)
    found = cost(pixels(split), split.labels, pixels(make_split(100, 120)))
    assert found["megabytes"] == pytest.approx(60 * 64 * 4 / 1e6)
    assert found["images_per_second"] > 0


def test_neighbors_are_found_in_pixels_and_in_features(make_split):
    split = make_split(0, 20)
    assert pixels(split).shape == (20, 64)
    assert pixels(split).max() <= 1
    assert features(new_classifier("cnn_2", split), split).shape == (20, 8)


def test_the_table_says_how_far_the_taught_model_is_ahead_by_seed():
    baselines = pd.DataFrame(
        {
            "baseline": ["pixels"] * 3 + ["mlp_22"] * 3,
            "seed": [0, 1, 2] * 2,
            "accuracy": [0.7, 0.7, 0.7, 0.8, 0.81, 0.82],
            "parameters": [np.nan] * 3 + [18_000] * 3,
            "megabytes": 0.3,
            "train_seconds": [np.nan] * 3 + [4.0] * 3,
            "images_per_second": 1000.0,
        }
    )
    distilled = {"pool_4": 0.9, "alone": 0.85}
    distillation = pd.DataFrame(
        [
            {"iteration": name, "seed": seed, "accuracy": accuracy, "parameters": 17_890}
            for name, accuracy in distilled.items()
            for seed in (0, 1, 2)
        ]
    )
    lines = markdown(baselines, distillation).splitlines()
    assert "| nearest neighbors on pixels | 3 |  | 0.30 | 70.00 ± 0.00 |  | 1,000 | +20.00 ± 0.00 |" in lines
    assert "| mlp_22 | 3 | 18,000 | 0.30 | 81.00 ± 2.48 | 4 | 1,000 | +9.00 ± 2.48 |" in lines
    assert lines[-1] == "| cnn_8, taught by iter2 | 3 | 17,890 | | 90.00 ± 0.00 | | | |"
