"""Train a control that sees the pool. It differs from its iteration in the noise, or in the pool and its labels.

Reads   the labeled and the validation split, the pool, the iteration's pseudo-labels, the pool's truth (for two
        kinds), pretrained weights and their features
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, noise, pseudo_labels, training, pool_controls.<control>, iterations.<the iteration it is of>
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed, generator
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import read_features
from noisy_student.pseudo_labeling.selection import (
    PseudoLabelParams,
    half_of,
    of_iteration,
    shuffled,
    true_labels,
    with_random_errors,
)
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import read_split, read_truth
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import TrainingData, TrainingRun
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import IterationParams, PoolControlParams, PretrainedInputs, pool_control_recipe
from noisy_student.training.stage import train_stage

KNOW_THE_TRUTH = ("oracle", "random_errors")  # kinds


@command
@ranked
def main(
    *,
    control: str,
    of: str,
    labeled: Path,
    pool: Path,
    pseudo_labels: Path,
    pool_truth: Path,
    validation: Path,
    pretrained: Path,
    labeled_features: Path,
    pool_features: Path,
    out: Path,
) -> None:
    params = ParamsFile()
    seed, runtime = params.section("seed", Seed), params.section("runtime", RuntimeParams)
    noise, training = params.section("noise", NoiseParams), params.section("training", TrainingParams)
    iteration = params.section(f"iterations.{of}", IterationParams)
    kind = params.section(f"pool_controls.{control}", PoolControlParams)
    recipe = pool_control_recipe(noise, training, iteration, kind)
    labeling = of_iteration(params.section("pseudo_labels", PseudoLabelParams), iteration.pseudo_labels, of)

    body = PretrainedInputs.of(recipe, pretrained, labeled_features, pool_features)
    run = TrainingRun(control, recipe, runtime, setup(runtime), seed, body.weights)
    inputs = {
        "labeled": labeled,
        "pool": pool,
        "pseudo_labels": pseudo_labels,
        "validation": validation,
        **body.by_role(),
        "pool_truth": pool_truth if kind.kind in KNOW_THE_TRUTH else None,
    }

    def load_data() -> TrainingData:
        with_labels, chosen = read_split(labeled), read_pseudo_labels(pseudo_labels)
        if kind.kind == "oracle":
            draw = generator(seed, f"balance of {of}")
            chosen = true_labels(read_truth(pool_truth), labeling, draw)
        shuffling = generator(seed, f"shuffling of {control}")
        if kind.kind == "random_errors":
            chosen = with_random_errors(chosen, read_truth(pool_truth), shuffling)
        if kind.kind == "shuffled":
            chosen = shuffled(chosen, shuffling)
        if kind.kind == "half_pool":
            chosen = half_of(chosen, generator(seed, f"half of the pool of {control}"))
        labeled_pool = LabeledImages.from_pseudo_labels(read_split(pool), chosen, read_features(body.pool_features))
        return TrainingData(
            with_labels, read_split(validation), labeled_pool, features=read_features(body.labeled_features)
        )

    train_stage(__file__, params, run, inputs, load_data, out)


if __name__ == "__main__":
    main()
