"""Files that other tools read: the workflow, the citation, the hooks, the license, and what is installed."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from commands import configure

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OVERLAYS = sorted(path for path in (ROOT / "configs").glob("*.yaml") if path.stem != "default")


@pytest.mark.parametrize(
    ("schema", "file"),
    [("vendor.github-workflows", ".github/workflows/ci.yml"), ("vendor.citation-file-format", "CITATION.cff")],
)
def test_a_file_follows_its_schema(schema, file):
    checker = Path(sys.executable).with_name("check-jsonschema")
    subprocess.run([checker, "--builtin-schema", schema, ROOT / file], check=True, capture_output=True)


def test_the_citation_names_the_version_and_the_license_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    for key in ("version", "license"):
        assert citation[key] == PROJECT["project"][key]


def test_the_license_names_its_holder():
    assert "Copyright 2026 the noisy-student authors" in (ROOT / "LICENSE").read_text()


def test_the_hooks_need_no_remote_repository():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repo["repo"] for repo in repos} == {"local"}
    assert {hook["language"] for repo in repos for hook in repo["hooks"]} == {"system", "pygrep"}


def test_the_defaults_are_installed_with_the_command_that_reads_them():
    setuptools = PROJECT["tool"]["setuptools"]
    assert configure.DEFAULTS.parent.name in setuptools["packages"]["find"]["include"]
    assert setuptools["package-data"][configure.DEFAULTS.parent.name] == ["*.yaml"]


@pytest.mark.parametrize("path", ["images/labeled/cat/1.png", "images/pool/1.png", "labels.csv", "params.yaml.bak"])
def test_a_commit_of_everything_leaves_out_what_is_a_persons_own(path):
    subprocess.run(["git", "-C", ROOT, "check-ignore", "--no-index", "--quiet", path], check=True)


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_every_line_of_an_overlay_differs_from_the_defaults(path):
    assert repeated(yaml.safe_load(path.read_text()), configure.values()) == []


def repeated(overlay: dict, defaults: dict, prefix: str = "") -> list[str]:
    """The dotted keys of `overlay` whose value is that of the `defaults`."""
    found = []
    for key, value in overlay.items():
        nested = isinstance(value, dict) and isinstance(defaults.get(key), dict) and prefix + key not in configure.ITEMS
        if nested:
            found += repeated(value, defaults[key], f"{prefix}{key}.")
        elif key in defaults and defaults[key] == value:
            found.append(prefix + key)
    return found
