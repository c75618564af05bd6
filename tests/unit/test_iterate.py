"""The next iteration: its name, its model, and what goes with it."""

import copy
from pathlib import Path

import pytest
import yaml

from benchmarks.study import changed
from commands import iterate
from commands.iterate import larger, next_iteration
from noisy_student.check import check
from noisy_student.core.config import ParamsFile
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
    assert changes == [
        "++iterations.iter3={teacher: iter2, model: cnn_42}",
        "current=iter3",
        "controls.same_size.of=iter3",
        "distilled.small.teacher=iter3",
    ]


def test_what_the_iteration_before_sets_by_hand_stays(tmp_path):
    own = {"teacher": "iter0", "model": "cnn_24", "training": {"steps": 50}}
    control = {"kind": "supervised", "of": "iter1", "noise": {}, "training": {"steps": 50}}
    given = params(tmp_path, iterations={"iter1": own}, current="iter1", controls={"same_size": control})
    assert next_iteration(given)[1][0] == "++iterations.iter2={teacher: iter1, model: cnn_32, training: {steps: 50}}"
    assert next_iteration(given, "wrn_10_1")[1][0].endswith("{teacher: iter1, model: wrn_10_1, training: {steps: 50}}")


def test_after_iter0_comes_the_first_free_name(tmp_path):
    name, changes = next_iteration(params(tmp_path, current="iter0"))
    assert (name, changes[0]) == ("iter3", "++iterations.iter3={teacher: iter0, model: cnn_22}")


@pytest.mark.parametrize(
    ("named", "rounds", "said"), [("iter2", 1, "iter3 is not shown to be better"), (None, 2, "2 rounds were run")]
)
def test_it_goes_on_while_the_new_iteration_is_the_one_to_deploy(tmp_path, monkeypatch, capsys, named, rounds, said):
    monkeypatch.chdir(tmp_path)
    ran = []

    def run_next(model):
        ran.append(f"iter{3 + len(ran)}")
        deploy = {"name": named or ran[-1], "folder": "models/x", "held_out_labels": 200, "decided": True}
        write_json(tmp_path / "metrics/summary.json", {"iteration": ran[-1], "deploy": deploy})
        return ran[-1]

    monkeypatch.setattr(iterate, "run_next", run_next)
    iterate.main(["--at-most", "2"])
    assert len(ran) == rounds
    assert said in capsys.readouterr().out
