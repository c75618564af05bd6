"""The page as one HTML file that needs no network."""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from noisy_student.page.charts import styled
from noisy_student.page.contents import Run, contents

TEMPLATES = Path(__file__).parent


def page(run: Run) -> str:
    """The page about `run`. Names of classes and files stand there as text, whatever they contain."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    with styled():
        return environment.get_template("page.html").render(contents(run))
