"""Fetch or train the weights for models whose training.initial is pretrained.

Reads   a library's weights, a file, or the labeled images of a source (never those of `data`)
Writes  a folder with a subfolder for each model: weights, description, and the learning curve if they were trained
Params  seed, runtime, pretraining
"""

from pathlib import Path

import torch

from noisy_student.core import ranks
from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_json
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import Work, work, work_folder
from noisy_student.models.checkpoint import folder_of, save_model
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.pretraining import PretrainingParams, fetched, labeled_images
from noisy_student.training.loop import TrainingData, TrainingRun, fit, save_trained
from noisy_student.training.recipes import pretraining_recipe


@command
@ranked
def main(*, out: Path) -> None:
    params = ParamsFile()
    seed = params.section("seed", Seed)
    runtime = params.section("runtime", RuntimeParams)
    pretraining = params.section("pretraining", PretrainingParams)

    device = setup(runtime)
    count = ranks.world_size() if pretraining.trains else 1
    with work(out, __file__, params, {"path": pretraining.reads()}, machine(device, count)) as job:
        if not job.finished:
            if pretraining.trains:
                train(job, pretraining, runtime, device, seed)
            if ranks.is_first():
                for model in () if pretraining.trains else pretraining.models:
                    save_model(folder_of(job.part, model), *fetched(pretraining, model))
                write_json(job.part / "pretrained.json", {"source": pretraining.source, "models": pretraining.models})


def train(job: Work, params: PretrainingParams, runtime: RuntimeParams, device: torch.device, seed: int) -> None:
    """Train each model on the images of the source, and write its folder."""
    data = ranks.after_first(lambda: TrainingData(*labeled_images(params, seed, work_folder())))
    for model in params.models:
        recipe = pretraining_recipe(params.noise, params.training, model)
        run = TrainingRun(f"pretrained {model}", recipe, runtime, device, seed)
        trained = fit(run, data, folder_of(job.checkpoints, model))
        if ranks.is_first():
            save_trained(folder_of(job.part, model), trained, data)


if __name__ == "__main__":
    main()
