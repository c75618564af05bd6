"""Watch the trainings of the run in progress: python -m commands.watch

Shows each model with its loss and its accuracy on the validation split over the steps: finished ones from models/, the
one in training from its last checkpoint. Nothing of it costs the training time. --once prints the table once. Ctrl-C
ends it.
"""

import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, read_json
from noisy_student.core.signals import Stopped, raise_on_signal
from noisy_student.core.workspace import holder_runs, work_folder
from noisy_student.models.checkpoint import DESCRIPTION, glance

MODELS = Path("models")
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # characters of a curve
LAST = 20  # steps whose mean loss is shown while a model trains
MOST_SECONDS = 3600


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="print the table once")
    parser.add_argument("--seconds", type=float, default=2, help="between two looks")
    args = parser.parse_args(argv)
    if not 0 < args.seconds <= MOST_SECONDS:
        raise UserError(f"--seconds was {args.seconds}; it must be above 0 and at most {MOST_SECONDS}")
    if args.once:
        Console().print(table(trainings()))
        return
    with raise_on_signal(), Live(table(trainings()), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(args.seconds)
                live.update(table(trainings()), refresh=True)
        except Stopped:  # Ctrl-C is how it ends
            return


class Training(NamedTuple):
    """A training so far."""

    name: str
    state: str
    step: int
    loss: float | None
    losses: list[float]
    accuracies: list[float]  # on the validation split
    written: float  # when something of it was written last, in seconds


def trainings() -> list[Training]:
    """The finished trainings and those in progress, the earliest first. What goes away meanwhile is left out."""
    looks: list[Callable[[], Training | None]] = [partial(finished, file) for file in MODELS.glob("**/curve.csv")]
    folders = {file.parent for file in work_folder().glob("*/checkpoints/**/*.safetensors")}
    looks += [partial(in_progress, folder) for folder in sorted(folders)]
    found = []
    for look in looks:
        with suppress(OSError, UserError):
            found.append(look())
    return sorted(filter(None, found), key=lambda each: each.written)


def finished(file: Path) -> Training:
    """The training whose curve is in the `file` of a model's folder."""
    name, curve = read_json(file.with_name(DESCRIPTION))["name"], read_csv(file)
    losses, accuracies = (curve[column].tolist() for column in ("loss", "validation_accuracy"))
    return Training(name, "done", int(curve["step"].iloc[-1]), losses[-1], losses, accuracies, file.stat().st_mtime)


def in_progress(folder: Path) -> Training | None:
    """The training whose checkpoints are in the `folder`; None where none can be read."""
    seen = glance(folder)
    if not seen:
        return None
    work = folder.relative_to(work_folder()).parts[0]
    trains = "trains" if holder_runs(work) else "stopped"
    state = "done" if seen.rest["step"] == seen.steps else trains  # a member of an ensemble
    recent = seen.losses[-LAST:]
    accuracies = [row["validation_accuracy"] for row in seen.rest["curve"]]
    loss, name = fmean(recent) if recent else None, seen.rest.get("name", work)
    return Training(name, state, seen.rest["step"], loss, seen.losses, accuracies, folder.stat().st_mtime)


def table(found: Sequence[Training]) -> Table:
    """A row for each training."""
    shown = Table(caption=None if found else "No model was trained here, and none has a checkpoint yet.")
    for column in ("model", "", "step", "loss", "", "validation", ""):
        shown.add_column(column, justify="right" if column in ("step", "loss", "validation") else "left", no_wrap=True)
    for each in found:
        loss = "" if each.loss is None else f"{each.loss:.3f}"
        accuracy = f"{100 * each.accuracies[-1]:.1f} %" if each.accuracies else ""
        curves = curve(each.losses), curve(each.accuracies)
        shown.add_row(each.name, each.state, f"{each.step:,}", loss, curves[0], accuracy, curves[1])
    return shown


def curve(values: Sequence[float]) -> str:
    """`values` over time as blocks of text, at most WIDTH of them, each the mean of its part."""
    parts = min(WIDTH, len(values))
    edges = [len(values) * place // parts for place in range(parts + 1)] if parts else []
    means = [fmean(values[start:end]) for start, end in pairwise(edges)]
    low, high = (min(means), max(means)) if means else (0, 0)
    levels = ((value - low) / (high - low) if high > low else 0.5 for value in means)
    return "".join(BLOCKS[min(int(level * len(BLOCKS)), len(BLOCKS) - 1)] for level in levels)


if __name__ == "__main__":
    main()
