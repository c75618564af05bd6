"""The console script: what it lists, whom it calls, and what it says when that cannot be done."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from commands import cli, table

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def own_argv(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["noisy-student"])  # `run` writes the program's name there


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command_with_what_it_does(argv, capsys):
    cli.main(argv)
    lines = capsys.readouterr().out.splitlines()
    for name in cli.COMMANDS:
        (line,) = (line for line in lines if line.startswith(f"  {name} "))
        assert line.removeprefix(f"  {name}").strip() == cli.summary(name)
    assert cli.summary("predict") == "Say what a folder of images shows"
    assert all(map(cli.summary, cli.COMMANDS))


def test_help_imports_no_command():
    code = "import sys; from commands.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_words_go_to_the_module_of_that_name(monkeypatch):
    called = []
    monkeypatch.setattr(
        cli, "import_module", lambda name: SimpleNamespace(main=lambda argv: called.append((name, argv)))
    )
    cli.main(["label-next", "out", "--images", "3"])
    assert called == [("commands.label_next", ["out", "--images", "3"])]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_under_its_own_name(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0
    assert f"usage: noisy-student {name} [-h]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("predcit", "did you mean predict?"),
        ("label_next", "did you mean label-next?"),
        ("xyz", "it may be one of plan,"),
    ],
)
def test_an_unknown_command_is_refused_with_one_sentence(name, hint, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: the command {name} is unknown; {hint}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(("missing", "package"), [("dvc.repo", "dvc"), ("networkx", "networkx")])
def test_a_missing_package_of_the_pipeline_is_named_with_its_extra(missing, package, monkeypatch, capsys):
    monkeypatch.setattr(cli, "import_module", lambda _: lacking(missing))
    with pytest.raises(SystemExit) as end:
        cli.main(["plan"])
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said == (
        f"error: noisy-student plan needs {package}, which is not installed; "
        "run pip install '.[pipeline]' in the project's folder\n"
    )


def test_a_module_that_is_missing_for_another_reason_is_not_excused(monkeypatch):
    monkeypatch.setattr(cli, "import_module", lambda _: lacking("commands.plan"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["plan"])


def lacking(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_the_table_says_where_a_model_comes_from_that_is_not_here(tmp_path, monkeypatch, capsys):
    tables = [str(ROOT / "metrics" / name) for name in ("history.csv", "summary.json", "confusion.csv")]
    monkeypatch.chdir(tmp_path)
    table.main(tables)
    folder = json.loads((ROOT / "metrics" / "summary.json").read_text())["deploy"]["folder"]
    assert f"{folder} is not here yet: `make repro` trains it" in capsys.readouterr().err
    (tmp_path / folder).mkdir(parents=True)
    table.main(tables)
    assert "not here yet" not in capsys.readouterr().err
