"""README.md and docs/ against the repository: figures, links, commands, and the length of the first page."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides, get_hydra_sweeps

from commands.docs import FIGURES, FIGURES_BLOCK, PICTURES, ROOT, fill, main, pages
from noisy_student.core.markdown import markdown_table

PAGES = [str(path.relative_to(ROOT)) for path in pages()]


def text(page: str) -> str:
    return (ROOT / page).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_figure_is_that_of_the_committed_files(page):
    assert fill(text(page)) == text(page), "run `make docs`"
    assert (
        text(page).count("<!-- figures:") == text(page).count("<!-- end -->") == len(FIGURES_BLOCK.findall(text(page)))
    )


@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_is_that_of_the_committed_files(picture):
    assert PICTURES[picture]() == text(picture), "run `make docs`"


def test_check_names_the_file_that_differs(tmp_path, monkeypatch, capsys):
    page = tmp_path / "README.md"
    page.write_text("<!-- figures: datasets -->\nold\n<!-- end -->\n")
    monkeypatch.setattr("commands.docs.ROOT", tmp_path)
    monkeypatch.setattr("commands.docs.PICTURES", {})
    monkeypatch.setitem(FIGURES, "datasets", lambda: "new")
    with pytest.raises(SystemExit) as stopped:
        main(["--check"])
    assert stopped.value.code == 1
    assert "README.md" in capsys.readouterr().err
    assert "old" in page.read_text()
    main([])
    assert page.read_text() == "<!-- figures: datasets -->\nnew\n<!-- end -->\n"
    main(["--check"])


def test_a_column_of_figures_stands_to_the_right():
    assert markdown_table(["name", "%"], [["a", "+1.5"]]) == "| name | % |\n| --- | ---: |\n| a | +1.5 |"


def test_the_first_page_is_short():
    assert len(text("README.md").split()) <= 1200


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them of plain words."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_file_that_is_named_exists(page):
    """Only the recipe of a new stage names one that is not there."""
    for module in re.findall(r"python\s+-m\s+((?:commands|benchmarks|stages)\.\w+)", text(page)):
        assert module == "stages.again" or (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    named = re.findall(r"`((?:benchmarks|commands|configs|noisy_student|stages|tests)/[\w/.]+\.\w+)`", text(page))
    for path in named:
        assert path == "stages/again.py" or (ROOT / path).is_file(), path
    for target in re.findall(r"`make ([a-z-]+)", text(page)) + re.findall(r"^    make ([a-z-]+)", text(page), re.M):
        assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE), target


def test_the_python_that_a_page_shows_can_be_imported():
    lines = re.findall(r"^    (from noisy_student.+ import .+)$", text("docs/outputs.md"), re.MULTILINE)
    assert len(lines) == 5
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_page_stands_in_the_navigation():
    listed = re.findall(r": (\S+\.md)$", text("mkdocs.yml"), re.MULTILINE)
    assert {f"docs/{page}" for page in listed} | {"README.md"} == set(PAGES)
    assert yaml.safe_load(text("mkdocs.yml"))["theme"]["font"] is False


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_every_page_is_linked_from_the_first_one(page):
    linked = set(re.findall(r"\]\((?:docs/)?([a-z-]+\.md)", text(page)))
    assert {Path(each).name for each in PAGES} - {"README.md", "index.md"} <= linked


def test_files_that_code_comments_name_exist():
    names = {path.name for folder in ("noisy_student", "stages", "commands") for path in (ROOT / folder).rglob("*.py")}
    for folder in ("noisy_student", "stages", "commands"):
        for path in (ROOT / folder).rglob("*.py"):
            named = set(re.findall(r"see (\w+\.py)", path.read_text()))
            assert named <= names, path


def test_the_page_of_the_architecture_names_every_module():
    words = set(re.findall(r"\w+", text("docs/architecture.md").split("## Folders of the library")[1]))
    for path in (ROOT / "noisy_student").rglob("*.py"):
        if path.name != "__init__.py":
            assert path.stem in words, path


def settings(page: str) -> list[str]:
    """What a page says to set: after -S, or a code such as `++training.frozen=0.5`, unless it has a placeholder."""
    after_s = re.findall(r"-S\s+(?:'([^']+)'|([^\s'`]+))", text(page))
    codes = re.findall(r"`'?([+~]{0,2}[a-z_]+\.[a-z0-9_.]+=[^`']+)'?`", text(page))
    found = [quoted or bare for quoted, bare in after_s] + codes
    return [setting for setting in found if not re.search(r"[<…]|\.\.\.|key|item\.", setting)]


@pytest.mark.parametrize("page", [page for page in PAGES if settings(page)])
def test_every_setting_can_be_set(page, tmp_path):
    for setting in settings(page):
        for one in get_hydra_sweeps({"params.yaml": [setting]}):  # of a grid: each value
            shutil.copy(ROOT / "params.yaml", tmp_path)
            apply_overrides(tmp_path / "params.yaml", one["params.yaml"])
