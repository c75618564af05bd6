"""What the tests in Chromium share."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium")
    assert found, "there is no chromium; install it: apt install chromium"
    with sync_playwright() as tool:
        sandbox = os.geteuid() != 0  # chromium refuses to make one as root
        chromium = tool.chromium.launch(executable_path=found, args=QUIET, chromium_sandbox=sandbox)
        yield chromium
        chromium.close()
