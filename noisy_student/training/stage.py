"""What all stages that train have in common: they take over finished work, else train, and write a model's folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.workspace import work
from noisy_student.models.device import machine
from noisy_student.training.loop import TrainingData, TrainingRun, fit, save_trained


def train_stage(
    stage: str,
    params: ParamsFile,
    run: TrainingRun,
    inputs: Mapping[str, Path | None],
    load_data: Callable[[], TrainingData],
    out: Path,
) -> None:
    """Train the model of `run` into the folder `out`, on what `load_data` reads out of the `inputs`.

    `stage` is the stage's file and `params` the sections that it read: with the inputs and the machine they decide
    whether earlier work is gone on with, see `work`.
    """
    with work(out, stage, params, inputs, machine(run.device)) as job:
        if not job.finished:
            data = load_data()
            save_trained(job.part, fit(run, data, job.checkpoints), data)
