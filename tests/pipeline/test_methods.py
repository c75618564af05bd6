"""The methods in the table of docs/methods.md: each is a parameter, passes the check, and runs through the pipeline."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from test_dvc import TINY

from benchmarks.study import run_without_dvc
from noisy_student.check import Params, check
from noisy_student.core.config import ParamsFile, changed

ROOT = Path(__file__).parents[2]
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())
PLAIN = {"training.objective": "pseudo_labels"}  # to mix two images
SOFT = {"pseudo_labels.kind": "soft"}
MODELS = ("iterations.iter1.model", "iterations.iter2.model")
FEATURES = {"labeling.features": True, "pseudo_labels.ood_quantile": 0.9, "pseudo_labels.ood_neighbors": 3}
PRETRAINED = {
    "pretraining.source": "fashion_mnist",
    "pretraining.models": ["cnn_4"],
    "pretraining.training.steps": 4,
    **dict.fromkeys(("teacher.model", *MODELS), "cnn_4"),
}
KINDS = ("unnoised", "oracle", "random_errors", "shuffled", "half_pool")  # of pool controls
DISTILLED = {"small": {"teacher": "iter2", "model": "cnn_2"}}
METHODS = [
    {"noise.operations": 2, "noise.magnitude": 10},
    {"noise.operations": 2, "noise.magnitude": 12, "noise.dropout": 0.3, "noise.stochastic_depth": 0.2},
    {"noise.affine": 10, "noise.jitter": 10, "noise.crop": 1, "noise.cutout": 0.3},
    {"noise.mix": "mixup", "noise.mix_alpha": 0.5, **PLAIN},
    {"noise.mix": "cutmix", **PLAIN},
    {"noise.mix": "fmix", **PLAIN},
    {"teacher.ensemble_size": 2, "labeling.tta": "shifts"},
    {"pseudo_labels.target_temperature": 0.5, **SOFT},
    {"pseudo_labels.calibrate": False, "pseudo_labels.precision": None, "pseudo_labels.threshold": 0.1},
    {"pseudo_labels.balance": True, "pseudo_labels.per_class": 5},
    {"pseudo_labels.ood_quantile": 0.9},
    FEATURES,
    {"training.objective": "consistency", "training.consistency_threshold": 0.2},
    {"training.objective": "combined", "training.consistency_temperature": 0},
    {"training.pool_ratio": 1, "training.pool_weight": 2},
    {"training.finetune": 0.5},
    {"training.initial": "warm", **dict.fromkeys(("teacher.model", *MODELS), "cnn_4")},
    {"training.resolution": 0.75, "training.resolution_fix": 0.25},
    {"training.optimizer": "sgd"},
    {"training.optimizer": "muon"},
    {"pool_controls": {kind: {"kind": kind, "of": "iter1"} for kind in KINDS}},
    {"training.initial": "pretrained", "training.body_rate": 0.1, "training.frozen": 0.5, **PRETRAINED},
    {"training.initial": "pretrained", "training.layer_decay": 0.6, **PRETRAINED},
    {"distilled": DISTILLED, "distillation.images": "pool", "distillation.weight": 0.5},
    {"distilled": DISTILLED, "distillation.kind": "hard", "distillation.temperature": 1},
]  # fmt: skip
TOGETHER = [  # numbers of METHODS: as many as go together, so that few runs have them all
    [1, 2, 6, 7, 9, 10, 13, 18, 23],
    [3, 8, 11, 15, 19],
    [12, 14, 16, 24],
    [0, 4, 17, 20],
    [5],
    [21],
    [22],
]


def table() -> str:
    return (ROOT / "docs/methods.md").read_text()


def keys(*sections: str) -> set[str]:
    """All keys that params.yaml may have in these sections, by their types."""
    return {f"{section}.{key}" for section in sections for key in Params.model_fields[section].annotation.model_fields}


def with_changes(base: dict, *methods: dict) -> dict:
    params = copy.deepcopy(base)
    for method in methods:
        changed(params, method)
    return params


def test_every_key_of_the_table_is_a_parameter():
    sections = "noise|labeling|pseudo_labels|training|teacher|distillation"
    named = set(re.findall(rf"`(?:\+\+)?((?:{sections})\.[a-z_]+)", table()))
    assert len(named) > 25
    assert named <= keys(*sections.split("|"))


def test_every_parameter_that_is_a_method_stands_in_the_table():
    plumbing = {"training.steps", "training.batch_size", "training.accumulation", "training.validations"}
    plumbing |= {"training.learning_rate", "training.warmup", "training.momentum", "training.weight_decay"}
    every = keys("noise", "labeling", "pseudo_labels", "training", "distillation")
    words = set(re.findall(r"[a-z_]+", table()))
    assert {key for key in every - plumbing if key.split(".")[1] not in words} == set()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: "-".join(method))
def test_every_method_is_a_change_of_parameters_that_the_check_takes(tmp_path, method):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(with_changes(DEFAULTS, method)))
    assert check(ParamsFile(tmp_path / "params.yaml")).recipes()


@pytest.mark.slow
@pytest.mark.parametrize("numbers", TOGETHER, ids=str)
def test_methods_run_together_through_the_whole_pipeline(numbers):
    params = with_changes(DEFAULTS, TINY, {"controls": {}}, *(METHODS[number] for number in numbers))
    history, summary = run_without_dvc("methods", params)
    assert summary["iteration"] == params["current"]
    assert history["accuracy"].between(0, 1).all()


def test_every_method_is_among_those_that_run_together():
    assert {number for group in TOGETHER for number in group} == set(range(len(METHODS)))
