"""The labeling page in headless Chromium, with a server that dies midway: `make test-browser`."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from untrained import make_untrained

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, make_split, runtime) -> Path:
    """A project of 40 pool images and a model that was not trained."""
    make_untrained(tmp_path, make_split(0, 40), runtime)
    return tmp_path


class Command(subprocess.Popen):
    """`noisy-student label`, and the address that it printed."""

    def __init__(self, folder: Path):
        words = [sys.executable, "-m", "commands.label", "--images", "30", "--no-browser"]
        env = {"PYTHONPATH": str(ROOT), "PATH": ""}
        super().__init__(words, cwd=folder, env=env, stdout=subprocess.PIPE, text=True)
        self.url = next(found[0] for line in self.stdout if (found := re.search(r"http://\S+", line)))


@pytest.fixture
def start(here) -> Iterator:
    started: list[Command] = []

    def begin() -> Command:
        started.append(Command(here))
        return started[-1]

    yield begin
    for each in started:
        each.kill()
        each.wait()


def said(tab, name: str, text: str) -> None:
    """Wait until the element of that name contains the text."""
    from playwright.sync_api import expect

    expect(tab.locator(f"#{name}")).to_contain_text(text)


def left(tab) -> int:
    return int(re.search(r"(\d+) images left", tab.locator("#progress").inner_text())[1])


def test_thirty_images_by_keyboard_and_nothing_is_lost_when_the_server_dies(here, start, browser):
    tab = browser.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    first = start()
    tab.goto(first.url)
    for number in range(12):
        assert left(tab) == 30 - number
        tab.keyboard.press(str(number % 3 + 1))
        said(tab, "progress", f"{29 - number} images left")
    tab.keyboard.press("Backspace")
    said(tab, "progress", "19 images left")
    first.kill()
    first.wait()
    tab.keyboard.press("1")
    said(tab, "trouble", "The command has ended.")
    labeled = pd.read_csv(here / "corrections.csv")
    assert len(labeled) == 11
    assert labeled["label"].tolist() == (["zero", "one", "two"] * 4)[:11]

    second = start()
    tab.goto(second.url)
    shown = tab.evaluate("JSON.parse(document.getElementById('given').textContent).images.map((each) => each.id)")
    assert not set(shown) & set(labeled["id"])
    tab.keyboard.press(" ")
    said(tab, "progress", "0 labels given, 28 images left")
    for _ in shown[1:]:
        before = left(tab)
        tab.keyboard.press("Enter")
        said(tab, "progress", f" {before - 1} images left")
    assert "That was the last one" in tab.locator("#guess").inner_text()
    assert len(pd.read_csv(here / "corrections.csv")) == 11 + len(shown) - 1
    second.send_signal(signal.SIGINT)
    assert f"{len(shown) - 1} labels were added to corrections.csv" in second.communicate(timeout=20)[0]
    assert second.returncode == 0
    assert not wrong


def test_a_key_is_for_the_button_that_has_the_focus_and_counts_once(here, start, browser):
    tab = browser.new_page()
    tab.goto(start().url)
    tab.locator("#classes button").nth(1).focus()
    tab.keyboard.press("Enter")
    said(tab, "progress", "1 label given")
    tab.locator("#undo").focus()
    tab.keyboard.press("Enter")
    said(tab, "progress", "0 labels given, 30 images left")
    tab.locator("#classes button").nth(2).click()
    said(tab, "progress", "1 label given")
    tab.keyboard.down("1")
    tab.keyboard.down("1")  # as a key that is held down
    tab.keyboard.up("1")
    said(tab, "progress", "2 labels given, 28 images left")
    assert pd.read_csv(here / "corrections.csv")["label"].tolist() == ["two", "zero"]
    tab.reload()
    said(tab, "progress", "2 labels given, 28 images left")


def test_axe_finds_no_serious_fault_in_light_and_dark(start, browser):
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        tab = browser.new_context(color_scheme=scheme).new_page()
        tab.goto(start().url)
        found = Axe().run(tab).response["violations"]
        assert not [
            (each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")
        ]
