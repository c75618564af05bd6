"""Train an iteration's noised student on labeled and pseudo-labeled images.

Reads   the labeled split, the pool, the iteration's pseudo-labels, the validation split, its teacher's folder,
        pretrained weights
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, noise, training, iterations.<iteration>
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import work
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import read_split
from noisy_student.training.augmentation.policy import NoiseOptions
from noisy_student.training.init import pretrained_folder
from noisy_student.training.loop import TrainingData, fit, save_trained, taught
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import IterationParams, iteration_recipe


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iteration", required=True)
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--pseudo-labels", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    seed = params.section("seed", Seed)
    runtime = params.section("runtime", RuntimeParams)
    noise, training = params.section("noise", NoiseOptions), params.section("training", TrainingParams)
    iteration = params.section(f"iterations.{args.iteration}", IterationParams)
    recipe = iteration_recipe(noise, training, iteration, args.iteration)

    device = setup(runtime)
    pretrained = pretrained_folder(recipe, args.pretrained)
    inputs = {
        "labeled": args.labeled,
        "pool": args.pool,
        "pseudo_labels": args.pseudo_labels,
        "teacher": args.teacher,
        "validation": args.validation,
        "pretrained": pretrained,
    }
    with work(args.out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            pool = taught(read_split(args.pool), read_pseudo_labels(args.pseudo_labels))
            data = TrainingData(read_split(args.labeled), read_split(args.validation), pool)
            init_from = pretrained or args.teacher
            trained = fit(args.iteration, recipe, data, runtime, device, seed, job.checkpoints, init_from)
            save_trained(job.part, trained, data)


if __name__ == "__main__":
    main()
