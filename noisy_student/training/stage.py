"""The part that all training stages share: take over finished work or train, then write the model's folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

from noisy_student.core import ranks
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
    """Train the model of `run` on the images that `load_data` reads, and write it to the folder `out`.

    `stage` is the stage's file, and `params` has the sections that it read. With the inputs and the machine they decide
    whether earlier work is resumed, see `work`.
    """
    with work(out, stage, params, inputs, machine(run.device, ranks.world_size())) as job:
        if not job.finished:
            data = load_data()
            trained = fit(run, data, job.checkpoints)
            if ranks.is_first():
                save_trained(job.part, trained, data)
