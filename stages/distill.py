"""Teach an iteration's model into another one, to be deployed in its place (Hinton et al. 2015).

Reads   the labeled split, the pool, the teacher's logits for both, the validation split, pretrained weights
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, noise, training, distillation, distilled.<model>
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.randomness import Seed
from noisy_student.core.workspace import work
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.store.pseudo_labels import read_logits
from noisy_student.store.splits import read_split
from noisy_student.training.augmentation.policy import NoiseOptions
from noisy_student.training.init import pretrained_folder
from noisy_student.training.loop import distilled, fit, save_trained
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import DistillationParams, DistilledParams, distilled_recipe


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--distilled", required=True)
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--logits", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    seed = params.section("seed", Seed)
    runtime = params.section("runtime", RuntimeParams)
    noise, training = params.section("noise", NoiseOptions), params.section("training", TrainingParams)
    distillation = params.section("distillation", DistillationParams)
    model = params.section(f"distilled.{args.distilled}", DistilledParams)
    recipe = distilled_recipe(noise, training, distillation, model, args.distilled)

    with_labels_alone = recipe.distillation is not None and recipe.distillation.images == "labeled"

    device = setup(runtime)
    pretrained = pretrained_folder(recipe, args.pretrained)
    inputs = {
        "labeled": args.labeled,
        "pool": args.pool,
        "logits": args.logits,
        "validation": args.validation,
        "pretrained": pretrained,
    }
    with work(args.out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            logits = read_logits(args.logits, "labeled"), read_logits(args.logits, "pool")
            pool = None if with_labels_alone else read_split(args.pool)
            data = distilled(read_split(args.labeled), read_split(args.validation), pool, logits)
            trained = fit(args.distilled, recipe, data, runtime, device, seed, job.checkpoints, pretrained)
            save_trained(job.part, trained, data)


if __name__ == "__main__":
    main()
