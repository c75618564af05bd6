"""Train a control that sees the pool as its iteration did, but for its noise or for what it is told of the pool.

Reads   the labeled and the validation split, the pool, the iteration's pseudo-labels, the pool's truth (oracle alone),
        pretrained weights
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, noise, pseudo_labels, training, pool_controls.<control>, iterations.<the iteration it is of>
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.randomness import Seed, generator
from noisy_student.core.workspace import work
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.pseudo_labeling.selection import PseudoLabelParams, of_iteration, shuffled, true_labels
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import read_split, read_truth
from noisy_student.training.augmentation.policy import NoiseOptions
from noisy_student.training.init import pretrained_folder
from noisy_student.training.loop import TrainingData, fit, save_trained, taught
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import IterationParams, PoolControlParams, pool_control_recipe


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--control", required=True)
    parser.add_argument("--of", required=True)
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--pseudo-labels", type=Path, required=True)
    parser.add_argument("--pool-truth", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    seed = params.section("seed", Seed)
    runtime = params.section("runtime", RuntimeParams)
    noise, training = params.section("noise", NoiseOptions), params.section("training", TrainingParams)
    iteration = params.section(f"iterations.{args.of}", IterationParams)
    control = params.section(f"pool_controls.{args.control}", PoolControlParams)
    recipe = pool_control_recipe(noise, training, iteration, control)
    defaults = params.section("pseudo_labels", PseudoLabelParams)
    pseudo_labels = of_iteration(defaults, iteration.pseudo_labels, args.of)

    device = setup(runtime)
    pretrained = pretrained_folder(recipe, args.pretrained)
    inputs = {
        "labeled": args.labeled,
        "pool": args.pool,
        "pseudo_labels": args.pseudo_labels,
        "validation": args.validation,
        "pretrained": pretrained,
    }
    if control.kind == "oracle":
        inputs["pool_truth"] = args.pool_truth
    with work(args.out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            labeled, told = read_split(args.labeled), read_pseudo_labels(args.pseudo_labels)
            if control.kind == "oracle":
                draw = generator(seed, f"balance of {args.of}")
                told = true_labels(read_truth(args.pool_truth), len(labeled.classes), pseudo_labels, draw)
            if control.kind == "shuffled":
                told = shuffled(told, generator(seed, f"shuffling of {args.control}"))
            data = TrainingData(labeled, read_split(args.validation), taught(read_split(args.pool), told))
            trained = fit(args.control, recipe, data, runtime, device, seed, job.checkpoints, pretrained)
            save_trained(job.part, trained, data)


if __name__ == "__main__":
    main()
