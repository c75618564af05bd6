"""Watch the trainings of the run in progress: python -m commands.watch

Shows each model with its loss and its accuracy on the validation split over the steps: finished ones from models/, the
one in training from its last checkpoint, which comes every ten seconds. Nothing of it costs the training time. --once
prints the table once. Ctrl-C ends it.
"""

import time
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.table import Table

from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, read_json
from noisy_student.core.signals import Stopped, raise_on_signal
from noisy_student.core.workspace import work_folder
from noisy_student.models.checkpoint import DESCRIPTION, glance

MODELS = Path("models")
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # characters of a curve
RECENT = 60  # seconds: a checkpoint of before is of a run that has stopped


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--once", action="store_true", help="print the table once")
    parser.add_argument("--seconds", type=float, default=2, help="between two looks")
    args = parser.parse_args(argv)
    if args.seconds <= 0:
        raise UserError(f"--seconds was {args.seconds}; it must be above 0")
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
    losses: list[float]
    accuracies: list[float]  # on the validation split


def trainings() -> list[Training]:
    """The finished trainings and those in progress, the earliest first."""
    found = [*finished(), *in_progress()]
    return [training for _, training in sorted(found, key=lambda each: each[0])]


def finished() -> Iterator[tuple[float, Training]]:
    """Each model in MODELS that was trained, and when it was written."""
    for file in MODELS.glob("**/curve.csv"):
        description, curve = read_json(file.with_name(DESCRIPTION)), read_csv(file)
        figures = (curve[column].tolist() for column in ("loss", "validation_accuracy"))
        yield file.stat().st_mtime, Training(description["name"], "done", int(curve["step"].iloc[-1]), *figures)


def in_progress() -> Iterator[tuple[float, Training]]:
    """Each training of which there are checkpoints, and when the last one was written."""
    for folder in {file.parent for file in work_folder().glob("*/checkpoints/**/*.safetensors")}:
        if seen := glance(folder):
            written = max((file.stat().st_mtime for file in folder.glob("*.safetensors")), default=0.0)
            state = "trains" if time.time() - written < RECENT else "stopped"
            accuracies = [row["validation_accuracy"] for row in seen.rest["curve"]]
            yield written, Training(seen.rest["name"], state, seen.rest["step"], seen.losses, accuracies)


def table(found: Sequence[Training]) -> Table:
    """A row for each training."""
    shown = Table(caption=None if found else "No model was trained here, and none has a checkpoint yet.")
    for column in ("model", "", "step", "loss", "", "validation", ""):
        shown.add_column(column, justify="right" if column in ("step", "loss", "validation") else "left", no_wrap=True)
    for each in found:
        loss = f"{mean(each.losses[-WIDTH:]):.3f}" if each.losses else ""
        accuracy = f"{100 * each.accuracies[-1]:.1f} %" if each.accuracies else ""
        curves = curve(each.losses), curve(each.accuracies)
        shown.add_row(each.name, each.state, f"{each.step:,}", loss, curves[0], accuracy, curves[1])
    return shown


def curve(values: Sequence[float]) -> str:
    """`values` over time as blocks of text, at most WIDTH of them, each the mean of its part."""
    parts = min(WIDTH, len(values))
    edges = [len(values) * place // parts for place in range(parts + 1)] if parts else []
    means = [mean(values[start:end]) for start, end in pairwise(edges)]
    low, high = (min(means), max(means)) if means else (0, 0)
    levels = ((value - low) / (high - low) if high > low else 0.5 for value in means)
    return "".join(BLOCKS[min(int(level * len(BLOCKS)), len(BLOCKS) - 1)] for level in levels)


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
