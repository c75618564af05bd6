import re
import subprocess
from pathlib import Path

import pytest
import yaml

from commands import configure
from noisy_student.core.errors import UserError

ROOT = Path(__file__).parents[2]
OVERLAYS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "default")


def overlay(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "overlay.yaml"
    path.write_text(text)
    return path


def comments(text: str) -> set[str]:
    """What stands behind each # of a YAML text."""
    return {line.partition("#")[2].strip() for line in text.splitlines() if "#" in line}


def test_the_defaults_come_back_byte_for_byte_and_are_what_the_repository_runs(tmp_path):
    text = (ROOT / "configs/default.yaml").read_bytes()
    assert configure.dumped(configure.composed(None)) == text
    assert (ROOT / "params.yaml").read_bytes() == text


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_has_only_what_differs_and_keeps_the_comments(path):
    defaults, wanted = configure.values(), configure.values(path)
    named = [key for key, _, _ in configure.differences({}, yaml.safe_load(path.read_text()))]
    assert named
    assert configure.differences(defaults, wanted)
    text = configure.dumped(configure.composed(path)).decode()
    assert comments(configure.dumped(configure.composed(None)).decode()) <= comments(text)
    assert yaml.safe_load(text) == wanted
    assert re.findall(r"\n +\S.*\n\S.*", text) == []  # no section begins right below another


def test_a_new_key_stands_inside_its_section(tmp_path):
    text = configure.dumped(configure.composed(overlay(tmp_path, "pretraining: {noise: {crop: 2}}"))).decode()
    pretraining = next(part for part in text.split("\n\n") if part.startswith("pretraining:"))
    assert "crop: 2" in pretraining
    assert "\n\nnoise:" in text


def test_a_new_key_brings_its_comment_along(tmp_path):
    path = overlay(tmp_path, "noise:\n  mix: cutmix             # two images become one\n")
    lines = configure.dumped(configure.composed(path)).decode().splitlines()
    assert "  mix: cutmix             # two images become one" in lines


def test_make_configure_needs_a_file_and_names_those_there_are():
    asked = ["make", "-C", ROOT, "-o", ".venv/installed", "configure", "CONFIG="]  # -o: nothing is installed
    before = (ROOT / "params.yaml").read_bytes()
    made = subprocess.run(asked, capture_output=True, text=True)
    assert made.returncode != 0
    assert "error: CONFIG is empty; write make configure CONFIG=FILE with one of " in made.stderr
    assert all(f"configs/{path.name}" in made.stderr for path in OVERLAYS)
    assert (ROOT / "params.yaml").read_bytes() == before


def test_it_says_what_it_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    configure.main(["--out", "params.yaml"])
    capsys.readouterr()
    configure.main(
        [
            str(overlay(tmp_path, "training: {steps: 9, frozen: 0.5}\ndata: {source: folder}\n")),
            "--out",
            "params.yaml",
        ]
    )
    said = capsys.readouterr().out
    assert "training.steps: 700 -> 9\n" in said
    assert "data.source: mnist_5k -> folder\n" in said
    assert said.endswith(
        "wrote params.yaml, 3 keys changed; params.yaml.bak has what it was before; `make repro` is next\n"
    )


def test_what_a_person_wrote_is_kept_beside_it(tmp_path, capsys):
    out = tmp_path / "params.yaml"
    configure.main(["--out", str(out)])
    assert not out.with_name("params.yaml.bak").exists()
    by_hand = out.read_text().replace("steps: 700", "steps: 9  # for a first try")
    out.write_text(by_hand)
    configure.main(["--out", str(out)])
    configure.main(["--out", str(out)])  # changes nothing, so the copy stays
    assert out.with_name("params.yaml.bak").read_text() == by_hand
    assert capsys.readouterr().out.endswith("0 keys changed; `make repro` is next\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainig: {steps: 9}", "overlay.yaml: the key trainig is unknown; did you mean training?"),
        ("teacher: {modl: cnn}", "the key teacher.modl is unknown; did you mean model?"),
        ("- 1", "has no keys"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_what_is_no_overlay_is_said_in_a_sentence(tmp_path, text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        configure.composed(overlay(tmp_path, text))


def test_a_file_that_is_not_there_is_said_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*nothing.yaml"):
        configure.composed(tmp_path / "nothing.yaml")
