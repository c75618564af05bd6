from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from dvc.utils.serialize import modify_yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import Field

from commands.configure import composed, dumped
from noisy_student.core.config import MAX_BYTES, ParamsFile, ParamsModel, overlay, validated
from noisy_student.core.errors import UserError, cli_main
from noisy_student.models.device import RuntimeParams
from noisy_student.pseudo_labeling.selection import PseudoLabelParams
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.params import TrainingParams

ROOT = Path(__file__).parents[2]
SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())
SECTIONS: dict[str, type[ParamsModel]] = {
    "runtime": RuntimeParams,
    "noise": NoiseParams,
    "pseudo_labels": PseudoLabelParams,
    "training": TrainingParams,
}
LEAVES = [(name, key) for name in SECTIONS for key in SHIPPED[name]]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text() | st.integers(), SCALARS, max_size=3)


class Crop(ParamsModel):
    pixels: int = Field(ge=0)
    fill: float


class SmallStudent(ParamsModel):
    kind: Literal["soft", "hard"]
    crop: Crop
    crops: dict[str, Crop]


VALID = {"kind": "soft", "crop": {"pixels": 2, "fill": 0}, "crops": {}}


def params_file(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text)
    return path


def refusal(*arguments: Any, call=validated) -> str:
    with pytest.raises(UserError) as caught:
        call(*arguments)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_valid_section_is_read_by_its_dotted_name(tmp_path):
    path = params_file(tmp_path, yaml.safe_dump({"students": {"small": VALID}, "seed": 3}))
    params = ParamsFile(path)
    assert params.section("students.small", SmallStudent).crop == Crop(pixels=2, fill=0)
    assert params.section("students", dict[str, SmallStudent])["small"].kind == "soft"
    assert params.section("seed", int) == 3


def test_a_section_never_changes():
    with pytest.raises(ValueError, match="frozen"):
        Crop(pixels=1, fill=0).pixels = 2


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"knid": "soft"}, "s.knid is unknown; did you mean kind?"),
        ({"crop": {"pixels": 2, "fill": 0, "pixel": 3}}, "s.crop.pixel is unknown; did you mean pixels?"),
        ({"crops": {"a": {"pixels": 2, "fill": 0, "fil": 3}}}, "s.crops.a.fil is unknown; did you mean fill?"),
        ({"crop": {"pixels": 2, "fill": 0, "zzz": 3}}, "s.crop.zzz is unknown; it may be one of pixels, fill"),
        ({"crop": {"pixels": 2}}, "s.crop.fill is missing; add it"),
        ({"crop": {"pixels": "2", "fill": 0}}, "s.crop.pixels was '2': Input should be a valid integer"),
        ({"crop": {"pixels": 2.0, "fill": 0}}, "s.crop.pixels was 2.0: Input should be a valid integer"),
        ({"crop": {"pixels": True, "fill": 0}}, "s.crop.pixels was True: Input should be a valid integer"),
        ({"crop": {"pixels": -1, "fill": 0}}, "s.crop.pixels was -1: Input should be greater than or equal to 0"),
        ({"kind": "firm"}, "s.kind was 'firm': Input should be 'soft' or 'hard'"),
        ({"crop": 3}, "s.crop was 3: Input should be a valid dictionary"),
    ],
)
def test_a_bad_key_is_named_with_what_it_was_and_what_it_may_be(change, expected):
    assert expected in refusal(SmallStudent, {**VALID, **change}, "s")


def test_a_value_that_holds_itself_many_times_is_shown_in_no_time(tmp_path):
    names = "abcdefghijkl"
    lines = [f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in pairwise(names)]
    (tmp_path / "params.yaml").write_text("a: &a [1]\n" + "\n".join(lines) + "\nseed: *l\n")
    with pytest.raises(UserError, match="seed was"):
        ParamsFile(tmp_path / "params.yaml").section("seed", int)


def test_a_long_value_is_cut_short():
    assert len(refusal(SmallStudent, {**VALID, "kind": "x" * 10_000}, "s")) < 200


@pytest.mark.parametrize("value", ["3", True, 3.0, None])
def test_a_bare_value_is_as_strict_as_a_section(value):
    assert "seed was" in refusal(int, value, "seed")


@given(leaf=st.sampled_from(LEAVES), value=VALUES)
def test_any_value_of_any_key_is_taken_or_refused_in_one_line_that_names_it(leaf, value):
    section, key = leaf
    try:
        validated(SECTIONS[section], {**SHIPPED[section], key: value}, section)
    except UserError as refused:
        message = str(refused)
        assert len(message.splitlines()) == 1
        whole = message.startswith(f"params.yaml: {section} must ")  # keys that do not go together
        assert whole or message.startswith((f"params.yaml: {section}.{key} ", f"params.yaml: {section}.{key}."))


@given(section=st.sampled_from(list(SECTIONS)), key=st.text() | st.integers())
def test_any_key_that_is_not_there_is_refused_in_one_line(section, key):
    assume(key not in SHIPPED[section])
    assert f" {section}." in refusal(SECTIONS[section], {**SHIPPED[section], key: 1}, section)


@pytest.mark.parametrize("leaf", ["learning_rate", "pool_weight", "weight_decay", "pool_ratio"])
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_what_is_not_finite_is_refused(leaf, value):
    assert "training" in refusal(TrainingParams, {**SHIPPED["training"], leaf: value}, "training")


@pytest.mark.parametrize("name", ["students.large", "students.small.crop.pixels.x", "nothing"])
def test_a_missing_key_is_named(tmp_path, name):
    params = ParamsFile(params_file(tmp_path, yaml.safe_dump({"students": {"small": VALID}})))
    assert f"the key {name} is missing" in refusal(name, SmallStudent, call=params.section)


def test_an_overlay_replaces_what_it_names_and_keeps_the_rest():
    base = Crop(pixels=2, fill=0.5)
    assert overlay(base, {"pixels": 3}, "here") == Crop(pixels=3, fill=0.5)
    assert base == overlay(base, {}, "here")
    assert "here.pixls is unknown; did you mean pixels?" in refusal(base, {"pixls": 3}, "here", call=overlay)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 0\nnoise:\n  crop: 1\n  crop: 2\n", "the key 'crop' stands twice"),
        ("seed: 0\nseed: 0\n", "the key 'seed' stands twice"),
        ("a: [1, 2", "not valid YAML"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("[1]: 2", "not valid YAML"),
        ("!!map [a]", "not valid YAML"),
        ("- 1\n- 2\n", "must hold sections"),
        ("", "must hold sections"),
        ("a: 1 #" + "x" * MAX_BYTES, "larger than"),
    ],
)
def test_a_file_that_holds_no_parameters_is_refused(tmp_path, text, expected):
    path = params_file(tmp_path, text)
    message = refusal(path, call=ParamsFile)
    assert expected in message
    assert str(path) in message


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    assert "cannot read" in refusal(tmp_path / "params.yaml", call=ParamsFile)
    assert "cannot read" in refusal(tmp_path, call=ParamsFile)
    (tmp_path / "params.yaml").write_bytes(b"a: \xff\xfe")
    assert "not valid YAML" in refusal(tmp_path / "params.yaml", call=ParamsFile)


def test_the_default_file_is_the_one_in_the_current_folder(tmp_path, monkeypatch):
    params_file(tmp_path, "seed: 7")
    monkeypatch.chdir(tmp_path)
    assert ParamsFile().section("seed", int) == 7


def test_a_command_ends_with_a_sentence_and_no_traceback(capsys):
    @cli_main
    def main(sentence: str) -> None:
        raise UserError(sentence)

    with pytest.raises(SystemExit) as ended:
        main("the pool is empty; fill it")
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: the pool is empty; fill it\n"


def test_a_command_that_the_machine_refuses_something_says_what(tmp_path, capsys):
    @cli_main
    def main() -> None:
        (tmp_path / "not there" / "file").write_text("x")

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: No such file or directory: {tmp_path}/not there/file; ")
    assert said.count("\n") == 1


def test_a_command_lets_pass_what_is_no_refusal():
    @cli_main
    def main(fails: bool) -> None:
        if fails:
            raise ZeroDivisionError

    main(fails=False)
    with pytest.raises(ZeroDivisionError):
        main(fails=True)


@pytest.mark.parametrize("section", ["iterations", "controls"])
def test_dvc_can_take_out_the_last_item_of_a_section(section, tmp_path):
    """With a comment behind the section's key, what ruamel writes of an empty section is no YAML."""
    for source in (ROOT / "configs").glob("*.yaml"):
        path = tmp_path / source.name
        path.write_bytes(dumped(composed(source)))
        with modify_yaml(path) as values:
            values[section].clear()
            values["seed"] = 1
        assert ParamsFile(path).values[section] == {}


@pytest.mark.parametrize(("text", "number"), [("5e-05", 5e-05), ("1e-3", 1e-3), ("-2E+2", -200.0), (".5e1", 5.0)])
def test_numbers_that_yaml_1_1_takes_for_text_are_numbers(tmp_path, text, number):
    assert ParamsFile(params_file(tmp_path, f"rate: {text}")).section("rate", float) == number
    assert ParamsFile(params_file(tmp_path, f"rate: '{text}'")).values == {"rate": text}


def test_a_small_number_that_dvc_writes_is_read(tmp_path):
    path = params_file(tmp_path, (ROOT / "params.yaml").read_text())
    with modify_yaml(path) as values:
        values["training"]["weight_decay"] = 5e-05
    assert ParamsFile(path).section("training", TrainingParams).weight_decay == 5e-05
