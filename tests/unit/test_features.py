"""What pretrained networks see in the images, which is computed once and stands for them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from noisy_student.core.errors import UserError
from noisy_student.core.files import write_array
from noisy_student.core.workspace import Work
from noisy_student.models.classifier import new_classifier
from noisy_student.models.extraction import extract
from noisy_student.models.features import features_of, logits_of, pretrained_body, read_features
from noisy_student.models.prediction import predict_logits


def test_logits_by_features_are_those_of_the_images(make_split, runtime):
    torch.manual_seed(0)
    split = make_split(0, 40)
    classifier = new_classifier("cnn_4", split)
    features = features_of(classifier, split.selection(), runtime)
    assert features.dtype == np.float16
    logits = logits_of(classifier, features)
    np.testing.assert_allclose(logits, predict_logits(classifier, split.images(), runtime), atol=2e-3)


def test_features_of_several_shards_are_one_array(tmp_path):
    first, second = np.ones((2, 3), np.float16), np.zeros((1, 3), np.float16)
    for number, array in enumerate((first, second)):
        write_array(tmp_path / f"{number:05}.npy", array)
    assert np.array_equal(read_features(tmp_path)[:], np.concatenate([first, second]))


def test_a_folder_without_features_is_a_sentence(tmp_path):
    assert read_features(None) is None
    with pytest.raises(UserError, match="holds no features"):
        read_features(tmp_path)


@pytest.mark.parametrize(
    ("training", "more", "body"),
    [
        ({"initial": "pretrained", "steps": 0}, {}, "cnn_4"),
        ({"initial": "pretrained", "steps": 5}, {}, None),
        ({"initial": "scratch", "steps": 5}, {}, None),
        ({"initial": "pretrained", "steps": 0}, {"ensemble_size": 2}, None),
    ],
)
def test_only_a_body_that_nothing_trained_is_the_pretrained_one(training, more, body):
    assert pretrained_body({"model": "cnn_4", "training": training, **more}) == body


def test_a_shard_that_is_done_is_not_seen_again(tmp_path, make_split, runtime):
    torch.manual_seed(0)
    split, job = make_split(0, 20, shards=2), Work(tmp_path)
    body = new_classifier("cnn_4", split)
    extract(job, body, split, Path("pool/cnn_4"), runtime, "sees")
    whole = read_features(job.part / "pool" / "cnn_4")[:]
    assert np.array_equal(whole, features_of(body, split.selection(), runtime))
    (job.part / "pool" / "cnn_4" / "00001.npy").unlink()
    seen = []
    body.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    extract(job, body, split, Path("pool/cnn_4"), runtime, "sees")
    assert sum(seen) == 10
    assert np.array_equal(read_features(job.part / "pool" / "cnn_4")[:], whole)
