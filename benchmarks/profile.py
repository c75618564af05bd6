"""Where the time goes: python -m benchmarks.profile

    step       one training step of a student, by its parts, on the CPU
    pipeline   the default run, by its stages, each beside the bare start of its program

Writes benchmarks/profile.md.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks import work
from benchmarks.expand import commands
from benchmarks.processes import ROOT, hardware, pipeline, run
from benchmarks.speed import NETS
from benchmarks.study import copy_project
from noisy_student.core.files import write_bytes
from noisy_student.models.classifier import Classifier
from noisy_student.training import batches, loop, objectives, optim

PROFILE = ROOT / "benchmarks" / "profile.md"
STEP = "cnn_32"
WIDTH = 120  # characters of a line
BATCH = "choosing and noising the batch"
OPTIMIZERS: dict[str, Any] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "muon": optim.Muon}
PARTS: dict[str, tuple[Any, str]] = {  # each a function that a step calls, and none calls another
    BATCH: (batches.Batches, "_make"),
    "seeding model noise": (loop, "reseed_torch"),
    "forward pass": (Classifier, "forward"),
    "loss": (objectives, "weighted_cross_entropy"),
    "backward pass": (torch.Tensor, "backward"),
    "optimizer": (OPTIMIZERS[pipeline()[1]["training"]["optimizer"]], "step"),
    "average of the weights": (optim.EMA, "update"),
}
LAST, ABOUT_MODELS = "page", ("evaluate", "audit", "page")  # the last stage, and those that say how models do
WHOLE = (loop.Trainer, "take_step")
IMPORT = "import importlib, sys; importlib.import_module(sys.argv[1])"


def main() -> None:
    step, stages = step_table(STEP), pipeline_table()
    text = f"""# Where the time goes

{hardware()}.

## One step of {STEP}

{fill(about_step(step, pipeline()[1]["training"]), WIDTH)}

{markdown(step, "part")}

## The default run

{fill(about_run(stages), WIDTH)}

{markdown(stages, "stage")}
"""
    write_bytes(PROFILE, text.encode())
    print(text)


def about_step(step: pd.DataFrame, training: dict[str, Any]) -> str:
    """What the table of a step says; `training` is that section of params.yaml."""
    shares = step["share"].drop("the step")
    return (
        f"Milliseconds of a step with a batch of {training['batch_size']} images of {NETS[STEP][1]} pixels, with the "
        "noise of a student and the objective pseudo_labels, which has one forward pass; the objective in params.yaml "
        f"is {training['objective']}. Most of it, {shares.max():.0%}, is: {shares.idxmax()}; {BATCH} is "
        f"{shares[BATCH]:.0%}."
    )


def about_run(stages: pd.DataFrame) -> str:
    """What the table of a run says."""
    total, start = stages["seconds"].sum(), stages["start"].sum()
    trainings = stages[stages.index.str.startswith("train_")]
    steps = trainings["seconds"].sum() - trainings["start"].sum()
    saying = stages["seconds"][stages.index.str.startswith(ABOUT_MODELS)].sum()
    return (
        "Seconds of each program of dvc.yaml, and how many of them a program takes that only imports the same; DVC's "
        f"own time is not in it. The run takes {total:.0f} s, of which {start / total:.0%} are starts of Python and "
        f"its imports, {steps / total:.0%} the {len(trainings)} trainings without their starts, and "
        f"{1 - (start + steps) / total:.0%} all else. Evaluations, audits and the page, with their starts, take "
        f"{saying / total:.0%}."
    )


def step_table(model: str) -> pd.DataFrame:
    """Milliseconds and share of each part of a step of `model`."""
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        for name, place in {**PARTS, "whole": WHOLE}.items():
            stack.enter_context(timed(*place, name, seconds))
        work.main("training", *NETS[model], "device=cpu")
    steps = len(seconds["whole"])
    rows = {name: 1000 * sum(seconds[name]) / steps for name in PARTS}
    whole = 1000 * sum(seconds["whole"]) / steps
    table = pd.DataFrame({"ms": {**rows, "all else": whole - sum(rows.values()), "the step": whole}})
    return table.assign(share=table["ms"] / whole)


@contextmanager
def timed(owner: Any, attribute: str, name: str, seconds: defaultdict[str, list[float]]) -> Iterator[None]:
    """Within the block, what each call of `owner.attribute` takes is appended to `seconds[name]`."""
    original: Callable[..., Any] = getattr(owner, attribute)

    def measured(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            seconds[name].append(time.perf_counter() - started)

    with patch.object(owner, attribute, measured):
        yield


def pipeline_table() -> pd.DataFrame:
    """Seconds of each stage's programs in their order, and seconds of their imports."""
    rows, imports = {}, {}
    params = pipeline()[1]
    with tempfile.TemporaryDirectory() as folder:
        for name, lines in commands(copy_project(Path(folder), params), params, last=LAST):
            programs = [line.split()[1:] for line in lines]
            for program in programs:
                if program[1] not in imports:
                    imports[program[1]] = 1 / run(Path(folder), sys.executable, "-c", IMPORT, program[1]).speed
            took = [1 / run(Path(folder), sys.executable, *program).speed for program in programs]
            rows[name] = {"seconds": sum(took), "start": sum(imports[program[1]] for program in programs)}
            print(f"{name}: {sum(took):.2f} s", flush=True)
    return pd.DataFrame(rows).T


def markdown(table: pd.DataFrame, index: str) -> str:
    """The table with two decimals, shares in per cent."""
    lines = [f"| {index} | {' | '.join(table.columns)} |", f"|---|{'---:|' * len(table.columns)}"]
    for name, row in table.iterrows():
        cells = [f"{value:.0%}" if column == "share" else f"{value:.2f}" for column, value in row.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
