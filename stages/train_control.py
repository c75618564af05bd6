"""Train a control: an iteration's model for as many steps on labels alone. Was it the pool, or just the bigger net?

Reads   the labeled and the validation split, pretrained weights
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, training, controls.<control>, iterations.<the iteration it is of>.model
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import work
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.store.splits import read_split
from noisy_student.training.init import pretrained_folder
from noisy_student.training.loop import TrainingData, fit, save_trained
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import ControlParams, control_recipe


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--control", required=True)
    parser.add_argument("--of", required=True)
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    seed = params.section("seed", Seed)
    runtime = params.section("runtime", RuntimeParams)
    training = params.section("training", TrainingParams)
    model = params.section(f"iterations.{args.of}.model", str)
    control = params.section(f"controls.{args.control}", ControlParams)
    recipe = control_recipe(training, model, control, args.control)

    device = setup(runtime)
    pretrained = pretrained_folder(recipe, args.pretrained)
    inputs = {"labeled": args.labeled, "validation": args.validation, "pretrained": pretrained}
    with work(args.out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            data = TrainingData(read_split(args.labeled), read_split(args.validation))
            trained = fit(args.control, recipe, data, runtime, device, seed, job.checkpoints, pretrained)
            save_trained(job.part, trained, data)


if __name__ == "__main__":
    main()
