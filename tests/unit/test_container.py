"""The container file: no linter's complaint, nobody's root, and the packages of the lock."""

import re
import subprocess

import pytest

from benchmarks.processes import ROOT

DOCKERFILE = ROOT / "Dockerfile"


def complaints(text: str) -> str:
    """What hadolint says of the text of a container file."""
    found = subprocess.run(["hadolint", "--no-color", "-"], input=text, capture_output=True, text=True, check=False)
    return found.stdout


def test_it_has_the_locked_packages_and_no_root():
    text = DOCKERFILE.read_text()
    assert re.findall(r"^USER (\S+)$", text, re.MULTILINE) == ["1000"]
    assert "COPY requirements.lock /environment/" in text
    assert re.search(r"^ENV .*\bUSER=", text, re.MULTILINE), "DVC asks for the name of who runs it, who may have none"


def test_the_linter_finds_nothing():
    assert complaints(DOCKERFILE.read_text()) == ""


@pytest.mark.parametrize(
    ("there", "instead", "rule"),
    [
        ("USER 1000", "USER root", "DL3002"),
        (r"python:\S+", "python", "DL3006"),
        ("git=1:2.39.*", "git", "DL3008"),
        ("--requirement /environment/requirements.lock", "torch", "DL3013"),
    ],
)
def test_the_linter_finds_what_is_planted(there, instead, rule):
    planted, count = re.subn(there if "\\" in there else re.escape(there), instead, DOCKERFILE.read_text())
    assert count == 1
    assert rule in complaints(planted)


def test_it_has_the_python_that_the_project_asks_for():
    (version,) = re.findall(r"FROM python:(\d+\.\d+)", DOCKERFILE.read_text())
    assert f'requires-python = ">={version}"' in (ROOT / "pyproject.toml").read_text()
