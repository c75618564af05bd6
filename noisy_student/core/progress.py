"""Progress of a stage: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from noisy_student.core import ranks

PLAIN_SECONDS = 10.0  # between two plain lines


class Meter:
    """Counts images towards a total and shows their rate, the time left and the caller's figures."""

    def __init__(
        self,
        title: str,
        total: int,
        bar: Progress | None,
        counter: ranks.Counter | None = None,
        unit: str = "images",
    ):
        self.title, self.total, self.bar, self.counter, self.unit = title, total, bar, counter, unit
        self.done, self.started, self.spoke = 0, time.monotonic(), time.monotonic()
        self.before = 0  # images that an earlier run did
        self.figures: list[str] = []
        self.task = bar.add_task(title, total=total, figures="") if bar else None

    def resume(self, images: int, text: str) -> None:
        """Count the `images` of an earlier run, which do not enter the rate, and print `text`."""
        self.before = self.done = self.counter.add(images) if self.counter else images
        self.started = time.monotonic()
        self.say(text)

    def show(self, figures: Mapping[str, float]) -> None:
        """Show these `figures` by name, with three decimals, from now on."""
        self.figures = [f"{name} {value:.3f}" for name, value in figures.items()]
        self.advance(0)

    def advance(self, images: int) -> None:
        """Count `images` more."""
        self.done = self.counter.add(images) if self.counter else self.done + images
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=self.done, figures=self.text())
        elif time.monotonic() - self.spoke > PLAIN_SECONDS:
            self.say(f"{self.text()}  {(self.total - self.done) / self.rate():.0f} s left")

    def rate(self) -> float:
        """Images a second since the start."""
        return max(self.done - self.before, 1) / max(time.monotonic() - self.started, 1e-9)

    def text(self) -> str:
        """The figures and the rate, which work without images does not have."""
        return "  ".join([*self.figures, *([f"{self.rate():,.0f} {self.unit}/s"] if self.total else [])])

    def say(self, text: str) -> None:
        """Print a plain line."""
        self.spoke = time.monotonic()
        print(f"{self.title}: {self.done / self.total if self.total else 1:4.0%}  {text}", flush=True)


class SilentMeter(Meter):
    """A meter of work that nobody waits for by its figures, such as a measurement."""

    def __init__(self) -> None:
        super().__init__("", 0, None)

    def say(self, text: str) -> None:
        """Print nothing."""


@contextmanager
def meter(title: str, total: int, counter: ranks.Counter | None = None, unit: str = "images") -> Iterator[Meter]:
    """A `Meter` for `total` images, or of another `unit`, whose bar stays on the screen when the work is done.

    With a `counter`, each rank counts the images of its share. All wait for the last one.
    """
    with _meter(title, total, counter, unit) as found:
        yield found
        if counter:
            ranks.wait_for_all(meanwhile=lambda: found.advance(0))
            found.advance(0)


@contextmanager
def _meter(title: str, total: int, counter: ranks.Counter | None, unit: str) -> Iterator[Meter]:
    if not sys.stdout.isatty():
        plain = Meter(title, total, None, counter, unit)
        yield plain
        plain.say(plain.text())
        return
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TaskProgressColumn())
    with Progress(*columns, TextColumn("{task.fields[figures]}"), TimeRemainingColumn(), console=Console()) as bar:
        yield Meter(title, total, bar, counter, unit)
