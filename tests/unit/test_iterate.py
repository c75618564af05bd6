"""The next iteration: its name, its model, and what goes with it."""

import copy
from pathlib import Path

import pytest
import yaml

from commands import iterate
from commands.iterate import inline, is_better, larger, next_iteration
from noisy_student.check import check
from noisy_student.core.config import ParamsFile, changed
from noisy_student.core.files import write_json

DEFAULTS = yaml.safe_load((Path(__file__).parents[2] / "configs/default.yaml").read_text())


@pytest.mark.parametrize(
    ("model", "next_model"),
    [
        ("cnn_16", "cnn_22"),
        ("cnn_32", "cnn_42"),
        ("cnn_2", "cnn_4"),
        ("cnn", "cnn_22"),
        ("mlp_256", "mlp_342"),
        ("wrn_28_2", "wrn_28_3"),
        ("timm/resnet18", "timm/resnet18"),
        ("torchvision/mobilenet_v3_small", "torchvision/mobilenet_v3_small"),
    ],
)
def test_the_next_model_is_wider_and_one_of_a_library_stays(model, next_model):
    assert larger(model) == next_model


def params(folder: Path, **changes):
    path = folder / "params.yaml"
    path.write_text(
        yaml.safe_dump(
            changed(copy.deepcopy(DEFAULTS), {key.replace("__", "."): each for key, each in changes.items()})
        )
    )
    return check(ParamsFile(path))


def test_the_next_iteration_takes_its_control_and_its_small_model_along(tmp_path):
    small = {"small": {"teacher": "iter2", "model": "cnn_8"}, "other": {"teacher": "iter1", "model": "cnn_8"}}
    name, changes = next_iteration(params(tmp_path, distilled=small))
    assert name == "iter3"
    assert changes == {
        "iterations.iter3": {"teacher": "iter2", "model": "cnn_42"},
        "current": "iter3",
        "controls.same_size.of": "iter3",
        "distilled.small.teacher": "iter3",
    }


def test_what_the_iteration_before_sets_by_hand_stays(tmp_path):
    own = {"teacher": "iter0", "model": "cnn_24", "training": {"steps": 50}}
    control = {"kind": "supervised", "of": "iter1", "noise": {}, "training": {"steps": 50}}
    given = params(tmp_path, iterations={"iter1": own}, current="iter1", controls={"same_size": control})
    following = {"teacher": "iter1", "model": "cnn_32", "training": {"steps": 50}}
    assert next_iteration(given)[1]["iterations.iter2"] == following
    assert next_iteration(given, "wrn_10_1")[1]["iterations.iter2"] == {**following, "model": "wrn_10_1"}


def test_after_iter0_comes_the_first_free_name_with_the_control_of_another_iteration(tmp_path):
    name, changes = next_iteration(params(tmp_path, current="iter0"))
    assert (name, changes["iterations.iter3"]) == ("iter3", {"teacher": "iter0", "model": "cnn_22"})
    assert changes["controls.same_size.of"] == "iter3"


def test_values_are_written_on_one_line():
    assert inline({"teacher": "iter2", "training": {"steps": 50}}) == "{teacher: iter2, training: {steps: 50}}"
    assert inline("iter3") == "iter3"


@pytest.mark.parametrize(
    ("deploy", "better"),
    [
        ({"name": "iter3", "decided": True, "lead_low": 0.01}, True),
        ({"name": "iter3", "decided": True}, False),  # the smallest, and none is right more often
        ({"name": "iter3", "decided": False, "lead_low": -0.01}, False),
        ({"name": "iter2", "decided": True, "lead_low": 0.01}, False),
    ],
)
def test_an_iteration_is_better_where_held_out_labels_show_it(deploy, better):
    assert is_better(deploy, "iter3") == better


@pytest.mark.parametrize(
    ("named", "rounds", "said"), [("iter2", 1, "iter3 is not shown to be better"), (None, 2, "2 rounds were run")]
)
def test_it_goes_on_while_the_new_iteration_is_better(tmp_path, monkeypatch, capsys, named, rounds, said):
    monkeypatch.chdir(tmp_path)
    ran = []

    def run_next(model):
        ran.append(f"iter{3 + len(ran)}")
        deploy = {"name": named or ran[-1], "folder": "models/x", "held_out_labels": 200, "decided": True}
        deploy |= {"compared_with": "iter0", "lead": 0.05, "lead_low": 0.01, "lead_high": 0.09}
        write_json(tmp_path / "metrics/summary.json", {"iteration": ran[-1], "deploy": deploy})
        return ran[-1]

    monkeypatch.setattr(iterate, "run_next", run_next)
    iterate.main(["--at-most", "2"])
    assert len(ran) == rounds
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "summary", "said"),
    [
        (["--model", "nonsense"], "iter2", "the model 'nonsense' is unknown"),
        ([], "iter1", "the run of iter2 has not ended; run `dvc repro` first"),
        ([], None, "the run of iter2 has not ended"),
        (["--at-most", "0"], "iter2", "--at-most was 0"),
        ([], "iter2", "dvc could not run iter3, and params.yaml is as it was"),  # there is no repository
    ],
)
def test_a_round_that_cannot_be_run_leaves_params_as_they_were(tmp_path, monkeypatch, capsys, words, summary, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("# mine\n" + yaml.safe_dump(DEFAULTS))
    before = (tmp_path / "params.yaml").read_bytes()
    if summary:
        write_json(tmp_path / "metrics/summary.json", {"iteration": summary})
    with pytest.raises(SystemExit):
        iterate.main(words)
    assert said in capsys.readouterr().err
    assert (tmp_path / "params.yaml").read_bytes() == before
