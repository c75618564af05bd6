"""What the stage that labels the pool leaves, and what of it is made anew after an interruption."""

import numpy as np
import pytest
import torch

from noisy_student.core.workspace import Work
from noisy_student.models.classifier import new_classifier
from noisy_student.models.prediction import LabelingParams
from stages.predict_pool import label


@pytest.mark.parametrize("kind", ["", "features-"])
def test_a_shard_is_done_when_all_of_its_files_are_whole(tmp_path, make_split, runtime, kind):
    torch.manual_seed(0)
    split, job = make_split(0, 20, shards=2), Work(tmp_path)
    teacher = new_classifier("cnn_4", split)
    asked = LabelingParams(tta="one", features=True)
    label(job, teacher, split, "pool", runtime, asked, "looks")
    whole = {file.name: file.read_bytes() for file in job.part.iterdir()}
    assert sorted(whole) == [f"{each}pool-{number:05}.npy" for each in ("features-", "") for number in range(2)]
    damaged = job.part / f"{kind}pool-00001.npy"
    damaged.write_bytes(whole[damaged.name][:-1] + b"x")
    label(job, teacher, split, "pool", runtime, asked, "looks")
    assert {file.name: file.read_bytes() for file in job.part.iterdir()} == whole


def test_without_features_there_are_logits_alone(tmp_path, make_split, runtime):
    split, job = make_split(0, 20), Work(tmp_path)
    label(job, new_classifier("mlp_8", split), split, "pool", runtime, LabelingParams(tta="one"), "looks")
    (file,) = job.part.iterdir()
    assert np.load(file).shape == (20, 3)
