"""The page in headless Chromium: `make test-browser`, which needs Debian's package chromium.

It opens the page of the last run, metrics/page.html, and those whose paths NOISY_STUDENT_PAGES names, separated by a
colon; and a page of hostile names.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile_run import hostile_run

from noisy_student.page.render import page as rendered

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[2]
PAGES = ["hostile", "metrics/page.html", *filter(None, os.environ.get("NOISY_STUDENT_PAGES", "").split(":"))]
SIZES = {"wide": (1280, 900), "phone": (390, 844)}


@pytest.fixture(params=PAGES)
def file(request, tmp_path) -> Path:
    if request.param == "hostile":
        (tmp_path / "page.html").write_text(rendered(hostile_run()), encoding="utf-8")
        return tmp_path / "page.html"
    path = ROOT / request.param
    assert path.exists(), f"{path} is not there; run `make repro`"
    return path


@pytest.fixture(params=[("wide", "light"), ("phone", "light"), ("wide", "dark")], ids="-".join)
def opened(request, browser, file) -> Iterator[tuple[Any, list[str]]]:
    """The page, and what went wrong or asked for the network since it was opened."""
    size, scheme = request.param
    width, height = SIZES[size]
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    tab, wrong = context.new_page(), []
    tab.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("dialog", lambda dialog: wrong.append(dialog.message))
    tab.on("request", lambda each: None if each.url.startswith(("file:", "data:")) else wrong.append(each.url))
    tab.goto(file.as_uri())
    yield tab, wrong
    context.close()


def test_nothing_goes_wrong_nothing_is_fetched_and_every_image_loads(opened):
    tab, wrong = opened
    tab.evaluate("document.querySelectorAll('img').forEach((image) => { image.loading = 'eager'; })")
    tab.wait_for_function("[...document.images].every((image) => image.complete)")
    assert tab.evaluate("[...document.images].filter((image) => !image.naturalWidth).length") == 0
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert not wrong


def test_axe_finds_no_serious_fault(opened):
    from axe_playwright_python.sync_playwright import Axe

    tab, _ = opened
    found = Axe().run(tab).response["violations"]
    assert not [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")]


def test_a_class_filters_the_pictures_and_all_brings_them_back(opened):
    tab, wrong = opened
    buttons = tab.locator(".filter button")
    everything = tab.locator(".picture:visible").count()
    buttons.nth(1).click()
    name = buttons.nth(1).get_attribute("data-filter")
    assert buttons.nth(1).get_attribute("aria-pressed") == "true"
    classes = tab.evaluate(
        "[...document.querySelectorAll('.picture')].filter((each) => !each.hidden)"
        ".map((each) => JSON.parse(each.dataset.classes))"
    )
    assert 0 < len(classes) < everything
    assert all(name in each for each in classes)
    buttons.nth(0).click()
    assert tab.locator(".picture:visible").count() == everything
    assert not wrong


def test_a_cell_of_the_confusion_shows_its_images(opened):
    tab, _ = opened
    cell = tab.locator(".confusion button").first
    cell.focus()
    tab.keyboard.press("Enter")
    actual, predicted = cell.get_attribute("data-actual"), cell.get_attribute("data-predicted")
    shown = tab.locator("#mistake-sheet .picture:visible")
    assert shown.count() >= 1
    for each in shown.all():
        assert f"is {actual}" in each.inner_text()
        assert each.inner_text().startswith(predicted)
    tab.keyboard.press("Enter")
    assert tab.locator("#mistake-sheet .picture:visible").count() == tab.locator("#mistake-sheet .picture").count()


def place(tab: Any) -> str:
    """Where the chosen mark of the map is."""
    return tab.locator("#points > .chosen").get_attribute("transform")


def test_the_map_is_walked_by_keyboard_and_colored_three_ways(opened):
    tab, wrong = opened
    points = tab.locator("#points")
    points.focus()
    tab.keyboard.press("ArrowRight")
    first = tab.locator("#shown").inner_text()
    assert "predicted" in first
    assert tab.locator("#shown img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0
    if points.locator("> *").count() > 100:  # the hostile page has all its images in one place
        for key in ("ArrowLeft", "ArrowUp", "PageDown", "PageUp"):
            before = place(tab)
            tab.keyboard.press(key)
            assert place(tab) != before
    colors = set()
    for button in tab.locator(".choice button").all():
        button.click()
        colors.add(
            tab.evaluate("[...document.querySelectorAll('#points > *')].map((each) => each.style.cssText).join()")
        )
    assert len(colors) == 3
    assert not wrong
