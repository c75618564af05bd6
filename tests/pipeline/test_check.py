"""A params.yaml that cannot be run is refused with one line that names the key, before anything is touched."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.configure import composed, dumped
from noisy_student.check import check, orphans
from noisy_student.core.config import ParamsFile, changed, flat
from noisy_student.core.errors import UserError

ROOT = Path(__file__).parents[2]
DEFAULTS = yaml.safe_load((ROOT / "params.yaml").read_text())
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def refusal(tmp_path: Path, params) -> str:
    path = tmp_path / "params.yaml"
    path.write_text(params if isinstance(params, str) else yaml.safe_dump(params, sort_keys=False))
    with pytest.raises(UserError) as caught:
        check(ParamsFile(path))
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_configuration_is_accepted(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/labeled").mkdir(parents=True)
    (tmp_path / "params.yaml").write_bytes(dumped(composed(path)))
    assert check(ParamsFile(tmp_path / "params.yaml")).recipes()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("trainig", {}, "trainig is unknown"),
        ("training.stepz", 3, "did you mean steps"),
        (
            "pseudo_labels",
            {"kind": "soft", "calibrate": True, "treshold": 0, "balance": True},
            "did you mean threshold",
        ),
        ("teacher.noise.magnitud", 3, "did you mean magnitude"),
        ("iterations.iter1.techer", "iter0", "did you mean teacher"),
        ("iterations.iter1.noise", {"magnitud": 3}, "iterations.iter1.noise.magnitud is unknown"),
        ("iterations.iter1.pseudo_labels", {"treshold": 0.3}, "iterations.iter1.pseudo_labels.treshold is unknown"),
        ("controls.same_size.training", {"step": 3}, "controls.same_size.training.step is unknown"),
        ("training.steps", "many", "training.steps was 'many'"),
        ("training.steps", 2.5, "training.steps was 2.5"),
        ("noise.flip", 1, "noise.flip was 1"),
        ("iterations.iter2.teacher", "iter7", "iterations.iter2.teacher was 'iter7'"),
        ("iterations.iter1.teacher", "iter2", "goes in a circle"),
        ("iterations.second", {"teacher": "iter0", "model": "cnn"}, "iterations.second must be named like iter3"),
        ("controls.iter3", {}, "controls.iter3"),
        ("current", "iter9", "current was 'iter9'"),
        (
            "pool_controls",
            {"same_size": {"kind": "oracle", "of": "iter2"}},
            "same_size stands in controls and in",
        ),
        ("pool_controls", {"oracle": {"kind": "oracle", "of": "iter7"}}, "pool_controls.oracle.of was 'iter7'"),
        ("robustness", {"iter7": {}}, "robustness.iter7 was 'iter7'"),
        ("robustness", {"iter0": {}, "iter2": {"images": 9}}, "robustness.iter2 is not as robustness.iter0"),
        ("pool_controls", {"oracle": {"kind": "truth", "of": "iter2"}}, "pool_controls.oracle.kind"),
        (
            "iterations.iter2",
            {"teacher": "iter1", "model": "cnn", "ensemble_size": 2},
            "set controls.same_size.ensemble_size to 2",
        ),
        ("noise.mix", "cutmix", "iterations.iter1 would have noise.mix cutmix with training.objective combined"),
        (
            "labeling",
            {"tta": "mirrored", "features": False},
            "labeling.tta was mirrored, and mnist_5k has digits; set it to shifts",
        ),
        ("iterations.iter2.training", {"initial": "warm"}, "cannot start from the weights of iter1"),
        ("controls.same_size.of", "iter9", "controls.same_size.of was 'iter9'"),
        ("pseudo_labels.threshold", 1.2, "pseudo_labels.threshold was 1.2"),
        ("pseudo_labels.threshold", -0.1, "pseudo_labels.threshold was -0.1"),
        ("data.labeled_per_class", 600, "data.labeled_per_class"),
        ("data.validation", 100_000, "data.validation"),
        ("teacher.model", "cnm_16", "teacher.model"),
        ("iterations.iter2.model", "torchvision/resnet81", "iterations.iter2.model"),
        ("data.source", "mnist_6k", "data.source was 'mnist_6k'"),
        ("training.pool_ratio", -1, "training.pool_ratio was -1"),
        ("training.pool_ratio", 100_000, "pool_ratio"),
        ("training.accumulation", 3, "accumulation"),
        ("training.accumulation", 128, "two images in each part"),
        ("training.pool_ratio", 0, "training.pool_ratio was 0"),
        ("training.pool_ratio", 0.001, "pool images in a batch"),
        ("training.pool_weight", 0, "training.pool_weight was 0"),
        ("training.steps", 10**13, "training.steps was 10000000000000"),
        ("training.validations", 10**12, "training.validations was 1000000000000"),
        ("training.batch_size", 10**400, "training.batch_size was"),
        ("data.test", 1, "data.test was 1"),
        ("data.path", "~nosuchuser/x", "data.path was '~nosuchuser/x'"),
        ("data.path", "a\0b", "data.path was"),
        ("noise.flip", True, "noise.flip was True"),
        ("seed", -1, "seed was -1"),
        ("runtime.precision", "float64", "runtime.precision was 'float64'"),
        ("seed", None, "seed is missing"),
        ("a\nb", 1, "the key a\\nb is unknown"),
        ("iterations.iter2.training", {"steps": 9}, "set controls.same_size.training.steps to 9"),
        ("noise.crop", 28, "noise.crop was 28"),
        ("noise.magnitude", "much", "noise.magnitude was 'much': Input should be a valid number"),
        ("noise.dropout", 1.5, "noise.dropout was 1.5: Input should be less than 1"),
        (
            "iterations.iter1",
            {"teacher": "iter0", "model": "cnn_x", "noise": {"dropout": 0.1}},
            "iterations.iter1.model: the model 'cnn_x' is unknown",
        ),
        ("training.resolution", 0.2, "training.resolution: it was 0.2, which makes images of 6 pixels; cnn_16 takes 8"),
        (
            "pseudo_labels",
            {
                "kind": "hard",
                "calibrate": True,
                "threshold": 0,
                "balance": True,
                "ood_quantile": 0.9,
                "ood_neighbors": 3,
            },
            "iterations.iter1.pseudo_labels has ood_neighbors, which need features; set labeling.features to true",
        ),
        ("teacher.training.finetune", 0.5, "teacher.training.finetune has no effect"),
        ("training.finetune", 0.9999, "training must leave steps before and after finetune 0.9999 begins, of 700"),
        (
            "pool_controls",
            {"pool_controls": {"kind": "oracle", "of": "iter2"}},
            "pool_controls.pool_controls must be named like oracle",
        ),
        ("runtime.device", "cuda", "runtime.device is cuda"),
    ],
)
def test_what_cannot_be_run_is_named(tmp_path, key, value, said):
    message = refusal(tmp_path, changed(copy.deepcopy(DEFAULTS), {key: value}))
    assert said in message
    assert "\n" not in message


def test_a_rate_that_the_model_has_no_place_for_is_refused(tmp_path):
    changes = {"iterations.iter1.model": "mlp", "iterations.iter1.noise": {"stochastic_depth": 0.2}}
    assert "iterations.iter1.noise" in refusal(tmp_path, changed(copy.deepcopy(DEFAULTS), changes))


def test_a_number_too_long_to_print_is_refused(tmp_path):
    text = (ROOT / "params.yaml").read_text().replace("  pool: null", f"  pool: 0x{'f' * 5000}")
    assert "data.pool was a number of thousands of digits" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["", "just words", "- a\n- list\n", "seed: [1", "seed: 0\nseed: 1\n", "a: !!python/object:x {}"]
)
def test_a_file_that_is_no_mapping_is_one_line(tmp_path, text):
    assert "\n" not in refusal(tmp_path, text)


WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just([]), st.just({"x": 1})
)


def refusal_of(path: Path) -> str:
    try:
        check(ParamsFile(path))
    except UserError as refused:
        return str(refused)
    return ""


@settings(max_examples=150, deadline=None)
@given(key=st.sampled_from(sorted(flat(DEFAULTS))), value=WRONG)
def test_any_value_in_place_of_another_is_accepted_or_refused_in_one_line(tmp_path_factory, key, value):
    path = tmp_path_factory.mktemp("mutated") / "params.yaml"
    params = copy.deepcopy(DEFAULTS)
    *parents, last = key.split(".")
    section = params
    for parent in parents:
        section = section[parent]
    section[last] = value
    path.write_text(yaml.safe_dump(params))
    said = refusal_of(path)
    assert "\n" not in said
    assert not said or key.split(".")[0] in said or last in said


def test_the_outputs_of_a_removed_iteration_are_refused_by_name(tmp_path):
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    for folder in ("models/iter0", "models/iter1", "models/iter2", "models/same_size", "metrics/controls/same_size"):
        (tmp_path / folder).mkdir(parents=True)
    everything = check(ParamsFile(ROOT / "params.yaml"))
    assert orphans(everything, tmp_path / "dvc.yaml") == []
    (tmp_path / "models/iter3").mkdir()
    (tmp_path / "metrics/controls/old").mkdir()
    assert orphans(everything, tmp_path / "dvc.yaml") == [tmp_path / "metrics/controls/old", tmp_path / "models/iter3"]


def test_the_check_stage_says_it_in_one_line_and_leaves_everything_as_it_is(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed(copy.deepcopy(DEFAULTS), {"training.steps": "many"})))
    before = sorted(tmp_path.iterdir())
    environment = {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "stages.check", "--out", "data/check.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith("error: params.yaml: training.steps was 'many'")
    assert sorted(tmp_path.iterdir()) == before
