"""HTML files that need no network: the page about a run, and the comparison of two."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from noisy_student.page.charts import styled
from noisy_student.page.comparison import Revision, compared
from noisy_student.page.contents import Run, contents

TEMPLATES = Path(__file__).parent


def page(run: Run) -> str:
    """The page about `run`. Names of classes and files stand there as text, whatever they contain."""
    with styled():
        return _rendered("page.html", contents(run))


def comparison(before: Revision, after: Revision) -> str:
    """The page that compares two revisions of a run."""
    return _rendered("comparison.html", compared(before, after))


def labeling_page(classes: list[str], images: list[dict[str, Any]], labels: dict[str, str], token: str) -> str:
    """The page on which a person labels `images`, each with id, guess, confidence, and picture.

    `labels` are those that were given so far, by id. It sends the `token` with each label.
    """
    return _rendered("label.html", {"given": {"classes": classes, "images": images, "labels": labels, "token": token}})


def _rendered(template: str, values: dict[str, Any]) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
