"""What the stages between prepare and evaluate make of their parameters, each run on a few real digits."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from noisy_student.core.config import ParamsFile, changed
from noisy_student.core.files import read_json, write_json
from noisy_student.core.metrics import one_hot
from noisy_student.models.checkpoint import save_model
from noisy_student.models.classifier import load_classifier, new_classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.features import read_features
from noisy_student.models.prediction import predict_logits
from noisy_student.store.pseudo_labels import read_logits, read_pseudo_labels
from noisy_student.store.splits import pixel_hash, read_split, write_split, write_truth
from noisy_student.training.augmentation.policy import NoiseParams
from stages import (
    distill,
    evaluate,
    extract_features,
    history,
    predict_pool,
    pseudo_label,
    summarize,
    train_control,
    train_pool_control,
    train_student,
    train_teacher,
)

ROOT = Path(__file__).parents[2]
CLASSES = ["zero", "one", "two"]
ROWS = {"labeled": (0, 30), "pool": (30, 230), "calibration": (230, 290), "validation": (290, 330)}
KINDS = ("unnoised", "oracle", "random_errors", "shuffled", "half_pool")  # of pool controls
TINY = {
    "runtime.threads": 1,
    "guards.collapsed": "warn",  # of so weak a teacher
    "guards.useless": "warn",
    "noise.crop": 1,
    "teacher.model": "cnn_4",
    "teacher.noise.crop": 1,
    "teacher.training": {"steps": 30, "batch_size": 16, "validations": 1},
    "training": {"steps": 3, "batch_size": 16, "validations": 1, "objective": "pseudo_labels"},
    "pseudo_labels": {"kind": "hard", "calibrate": True, "threshold": 0, "balance": False},
    "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_4"}},
    "pool_controls": {kind: {"kind": kind, "of": "iter1"} for kind in KINDS},
}


class Project:
    """A folder with the splits of a source and params.yaml, in which stages run."""

    def __init__(self, folder: Path):
        self.folder = folder

    def params(self, **changes) -> None:
        base = yaml.safe_load((ROOT / "params.yaml").read_text())
        tiny = {**TINY, "training": base["training"] | TINY["training"]}
        params = changed(
            copy.deepcopy(base), {**tiny, **{key.replace("__", "."): each for key, each in changes.items()}}
        )
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))

    def teacher(self) -> None:
        flags = [*self.splits("labeled", "validation", "pretrained"), "--labeled-features", "features/labeled"]
        train_teacher.main([*flags, "--out", "models/iter0"])

    def logits(self, out: str = "logits") -> str:
        flags = [*self.splits("pool", "calibration", "labeled", "features"), "--teacher", "models/iter0"]
        predict_pool.main([*flags, "--out", out])
        return out

    def pseudo_labels(self, logits: str, out: str = "pseudo_labels"):
        pseudo_label.main(["--iteration", "iter1", "--logits", logits, *self.splits("calibration"), "--out", out])
        return read_pseudo_labels(self.folder / out)

    FEATURES = ("--labeled-features", "features/labeled", "--pool-features", "features/pool")

    def splits(self, *names: str) -> list[str]:
        return [part for name in names for part in (f"--{name}", name)]


@pytest.fixture
def project(tmp_path, monkeypatch, digits, torch_settings) -> Project:
    images, labels = digits
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    for name, (first, last) in ROWS.items():
        index = pd.DataFrame({"id": [str(i) for i in range(first, last)], "sha256": pixel_hash(images[first:last])})
        if name != "pool":
            index["label"] = labels[first:last]
        write_split(tmp_path / name, images[first:last], index, CLASSES, {}, 64_000_000)
    first, last = ROWS["pool"]
    write_truth(tmp_path / "truth.parquet", [str(i) for i in range(first, last)], labels[first:last])
    made = Project(tmp_path)
    made.params()
    made.teacher()
    return made


def recorded(monkeypatch) -> list[dict]:
    """What a stage asks to be trained, which is not trained."""
    asked: list[dict] = []

    def fit(run, data, checkpoints=None):
        asked.append({"recipe": run.recipe, "labeled": data.labeled, "pool": data.pool, "init_from": run.init_from})
        raise KeyboardInterrupt

    monkeypatch.setattr("noisy_student.training.stage.fit", fit)
    return asked


def test_a_probe_labels_the_pool_by_its_features_as_it_would_by_the_images(project, monkeypatch):
    split = read_split(project.folder / "labeled")
    torch.manual_seed(7)
    described = {"model": "cnn_4", "input_channels": 1, "input_size": [8, 8]}
    described["normalization"] = {"mean": [0.3], "std": [0.3]}
    save_model(project.folder / "pretrained/cnn_4", new_classifier("cnn_4", split).state_dict(), described)
    write_json(project.folder / "pretrained/pretrained.json", {"source": "file", "models": ["cnn_4"]})
    exact = {"runtime__precision": "float32"}  # bfloat16 rounds more than what is compared here
    project.params(**exact)
    for name in ("labeled", "calibration", "pool"):
        extract_features.main([*project.splits("pretrained"), "--images", name, "--out", f"features/{name}"])
    project.params(teacher__training={"initial": "pretrained", "steps": 0}, labeling__features=True, **exact)
    project.teacher()
    monkeypatch.setattr(predict_pool, "predict_split", None)  # no image is read
    logits = read_logits(project.folder / project.logits(), "pool")[:]
    features = [
        read_features(project.folder / "features/pool/cnn_4")[:],
        read_logits(Path("logits"), "features-pool")[:],
    ]
    np.testing.assert_array_equal(*features)
    teacher, _ = load_classifier(project.folder / "models/iter0", torch.device("cpu"))
    runtime = ParamsFile().section("runtime", RuntimeParams)
    by_images = predict_logits(teacher, read_split(project.folder / "pool").images(), runtime)
    np.testing.assert_allclose(logits, by_images, atol=0.02)
    assert len(np.unique(logits.argmax(axis=1))) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_that_sees_the_pool_is_told_what_its_kind_says(project, monkeypatch, digits, kind):
    expected = project.pseudo_labels(project.logits())
    asked = recorded(monkeypatch)
    flags = [
        *project.splits("labeled", "pool", "validation", "pretrained"),
        *project.FEATURES,
        "--pseudo-labels",
        "pseudo_labels",
        "--pool-truth",
        "truth.parquet",
    ]
    with pytest.raises(KeyboardInterrupt):
        train_pool_control.main([*flags, "--control", kind, "--of", "iter1", "--out", "out"])
    (found,) = asked
    if kind == "half_pool":
        assert len(found["pool"]) == sum(-(-images // 2) for images in np.bincount(expected.labels))
        return
    targets = found["pool"].targets[:]
    expected = one_hot(expected.labels, 3)
    truth = digits[1][slice(*ROWS["pool"])]
    assert np.array_equal(targets, expected) == (kind == "unnoised")
    assert np.array_equal(targets.argmax(axis=1), truth) == (kind == "oracle")
    assert np.array_equal(np.sort(targets, axis=0), np.sort(expected, axis=0)) == (kind != "oracle")
    assert (found["recipe"].noise == NoiseParams.none()) == (kind == "unnoised")


def test_a_control_on_half_of_the_labels_sees_half_of_each_class(project, monkeypatch):
    options = {"kind": "half_labels", "of": "iter1", "noise": {}}
    project.params(controls={"fewer": options, "others": options}, seed=3)
    asked, whole = recorded(monkeypatch), read_split(project.folder / "labeled")
    flags = [*project.splits("labeled", "validation", "pretrained"), "--labeled-features", "features/labeled"]
    for name in ("fewer", "fewer", "others"):
        with pytest.raises(KeyboardInterrupt):
            train_control.main([*flags, "--control", name, "--of", "iter1", "--out", "out"])
    halves = [each["labeled"] for each in asked]
    assert halves[0].ids.tolist() == halves[1].ids.tolist() != halves[2].ids.tolist()
    assert np.bincount(halves[0].labels).tolist() == [-(-images // 2) for images in np.bincount(whole.labels)]
    rows = np.flatnonzero(np.isin(whole.ids, halves[0].ids))
    assert np.array_equal(halves[0].images(), whole.images(rows))
    assert np.array_equal(halves[0].labels, whole.labels[rows])


@pytest.mark.parametrize("neighbors", [None, 3])
def test_a_filter_by_evidence_leaves_pool_images_out(project, neighbors):
    project.params(labeling__features=True)
    logits = project.logits()
    assert len(project.pseudo_labels(logits).rows) == 200
    options = {**TINY["pseudo_labels"], "ood_quantile": 0.5, "ood_neighbors": neighbors}
    project.params(labeling__features=True, pseudo_labels=options)
    kept = project.pseudo_labels(logits, "filtered").rows
    assert 40 < len(kept) < 160


def test_the_two_kinds_of_evidence_keep_other_images(project):
    project.params(labeling__features=True)
    logits, kept = project.logits(), {}
    for neighbors in (None, 3):
        options = {**TINY["pseudo_labels"], "ood_quantile": 0.5, "ood_neighbors": neighbors}
        project.params(labeling__features=True, pseudo_labels=options)
        kept[neighbors] = project.pseudo_labels(logits, f"by-{neighbors}").rows
    assert not np.array_equal(kept[None], kept[3])


def test_a_teacher_looks_at_as_many_views_as_are_asked_for(project):
    one = np.load(project.folder / project.logits() / "pool-00000.npy")
    project.params(labeling__tta="shifts")
    several = np.load(project.folder / project.logits("several") / "pool-00000.npy")
    assert one.shape == several.shape
    assert not np.allclose(one, several, atol=1e-3)


@pytest.mark.parametrize("initial", ["warm", "scratch"])
def test_a_warm_student_begins_with_its_teachers_weights(project, initial):
    project.pseudo_labels(project.logits())
    barely = {"initial": initial, "steps": 1, "learning_rate": 1e-9, "ema_decay": 0.0}
    project.params(iterations={"iter1": {"teacher": "iter0", "model": "cnn_4", "training": barely}})
    flags = [
        *project.splits("labeled", "pool", "validation", "pretrained"),
        *project.FEATURES,
        "--pseudo-labels",
        "pseudo_labels",
        "--teacher",
        "models/iter0",
    ]
    train_student.main([*flags, "--iteration", "iter1", "--out", "models/iter1"])
    teacher, student = (load_classifier(project.folder / f"models/iter{k}", torch.device("cpu"))[0] for k in (0, 1))
    pairs = zip(teacher.parameters(), student.parameters(), strict=True)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs) == (initial == "warm")


def distilled(project, out: str, **options) -> Path:
    project.params(distilled={"small": {"teacher": "iter0", "model": "cnn_4", **options}})
    flags = [*project.splits("labeled", "pool", "validation", "pretrained"), *project.FEATURES]
    distill.main([*flags, "--logits", "logits", "--distilled", "small", "--out", out])
    shutil.rmtree(project.folder / "work")  # or the next run takes over what it has of the same files
    return project.folder / out


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture
def with_other_labels(monkeypatch):
    """Lets the next distillations see the labeled images in another order than their labels."""
    read = distill.read_split

    def misread(folder):
        split = read(folder)
        return replace(split, labels=split.labels[::-1].copy()) if folder.name == "labeled" else split

    return lambda: monkeypatch.setattr(distill, "read_split", misread)


def test_what_is_taught_on_the_pool_learns_what_its_teacher_says_and_from_no_label(project, digits, with_other_labels):
    logits = project.folder / project.logits() / "pool-00000.npy"
    np.save(logits, 5 * np.eye(3, dtype=np.float32)[digits[1][slice(*ROWS["pool"])]])  # a teacher that is right
    options = {
        "noise": {"affine": 0, "jitter": 0, "crop": 0, "cutout": 0, "dropout": 0},
        "training": {"steps": 150, "learning_rate": 0.02, "ema_decay": 0.9},
        "distillation": {"images": "pool"},
    }
    taught = distilled(project, "taught", **options)
    description = read_json(taught / "model.json")
    assert description["validation"]["accuracy"] > 0.85
    assert description["teacher"] == "iter0"
    with_other_labels()
    assert weights(distilled(project, "other", **options)) == weights(taught)


def test_what_is_taught_on_labeled_images_too_learns_from_their_labels(project, with_other_labels):
    project.logits()
    both = {"distillation": {"images": "both"}}
    once = weights(distilled(project, "once", **both))
    with_other_labels()
    assert weights(distilled(project, "other", **both)) != once


def test_without_weight_a_model_taught_on_labels_is_one_trained_alone(project):
    logits = project.folder / project.logits() / "labeled-00000.npy"
    alone, told = ({"images": "labeled", "weight": weight} for weight in (0.0, 0.5))
    first = [weights(distilled(project, f"first-{each['weight']}", distillation=each)) for each in (alone, told)]
    np.save(logits, np.load(logits)[::-1])
    second = [weights(distilled(project, f"second-{each['weight']}", distillation=each)) for each in (alone, told)]
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_results_grow_into_a_history_and_a_summary(project, digits):
    images, labels = digits[0][330:430], digits[1][330:430]
    index = pd.DataFrame({"id": [str(i) for i in range(100)], "label": labels, "sha256": pixel_hash(images)})
    write_split(project.folder / "test", images, index, CLASSES, {}, 64_000_000)
    write_json(project.folder / "data.json", {"training_labels": 30, "held_out_labels": 100})
    control = {"same_size": {"kind": "supervised", "of": "iter1", "noise": {}}}
    project.params(controls=control, pool_controls={}, current="iter1")
    project.pseudo_labels(project.logits())
    flags = [*project.splits("labeled", "validation", "pretrained"), "--labeled-features", "features/labeled"]
    pool = ["--pool-features", "features/pool", "--pool", "pool", "--pseudo-labels", "pseudo_labels"]
    train_student.main([*flags, *pool, "--iteration", "iter1", "--teacher", "models/iter0", "--out", "models/iter1"])
    train_control.main([*flags, "--control", "same_size", "--of", "iter1", "--out", "models/same_size"])

    given = ["--test", "test", *project.splits("calibration", "validation"), "--report", "data.json"]
    evaluate.main([*given, "--model", "models/iter0", "--out", "results/iter0"])
    truth = ["--pseudo-labels", "pseudo_labels", "--pool-truth", "truth.parquet"]
    evaluate.main([*given, *truth, "--model", "models/iter1", "--out", "results/iter1"])
    of = ["--control-of", "supervised", "iter1"]
    evaluate.main([*given, *of, "--model", "models/same_size", "--out", "controls/same_size"])
    history.main(["--results", "results/iter0", "--model", "models/iter0", "--out", "history/iter0"])
    before = ["--teacher", "iter0", "--before", "history/iter0"]
    history.main(["--results", "results/iter1", "--model", "models/iter1", *before, "--out", "history/iter1"])
    (project.folder / "distilled").mkdir()
    outs = [part for name in ("summary", "history", "curves", "confusion") for part in (f"--{name}-out", f"{name}.out")]
    summarize.main(["--history", "history/iter1", "--controls", "controls", "--distilled", "distilled", *outs])

    summary = read_json(project.folder / "summary.out")
    rows = pd.read_csv(project.folder / "history.out").set_index("iteration")
    assert list(rows.index) == ["iter0", "iter1"]
    results = {
        name: read_json(project.folder / name / "results.json") for name in ("results/iter1", "controls/same_size")
    }
    gain = results["results/iter1"]["accuracy"] - results["controls/same_size"]["accuracy"]
    assert summary["gain_over_control"] == pytest.approx(gain)
    assert summary["gain_over_teacher"] == pytest.approx(rows.accuracy["iter1"] - rows.accuracy["iter0"])
    assert len(pd.read_csv(project.folder / "confusion.out")) == 100
    assert summary["kept_fraction"] == 1
    held_out = sum(len(read_split(project.folder / name)) for name in ("calibration", "validation"))
    assert summary["deploy"]["held_out_labels"] == held_out
    assert summary["deploy"]["folder"] in ("models/iter0", "models/iter1", "models/same_size")
