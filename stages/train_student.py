"""Train an iteration's noised student on labeled and pseudo-labeled images.

Reads   the labeled split, the pool, the iteration's pseudo-labels, the validation split, its teacher's folder,
        pretrained weights and their features
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, noise, training, iterations.<iteration>
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import read_features
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import read_split
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import TrainingData, TrainingRun
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import IterationParams, PretrainedInputs, iteration_recipe
from noisy_student.training.stage import train_stage


@command
@ranked
def main(
    *,
    iteration: str,
    labeled: Path,
    pool: Path,
    pseudo_labels: Path,
    teacher: Path,
    validation: Path,
    pretrained: Path,
    labeled_features: Path,
    pool_features: Path,
    out: Path,
) -> None:
    params = ParamsFile()
    seed, runtime = params.section("seed", Seed), params.section("runtime", RuntimeParams)
    noise, training = params.section("noise", NoiseParams), params.section("training", TrainingParams)
    student = params.section(f"iterations.{iteration}", IterationParams)
    recipe = iteration_recipe(noise, training, student, iteration)

    body = PretrainedInputs.of(recipe, pretrained, labeled_features, pool_features)
    run = TrainingRun(iteration, recipe, runtime, setup(runtime), seed, body.weights or teacher)
    inputs = {
        "labeled": labeled,
        "pool": pool,
        "pseudo_labels": pseudo_labels,
        "teacher": teacher,
        "validation": validation,
        **body.by_role(),
    }

    def load_data() -> TrainingData:
        labeled_pool = LabeledImages.from_pseudo_labels(
            read_split(pool), read_pseudo_labels(pseudo_labels), read_features(body.pool_features)
        )
        return TrainingData(
            read_split(labeled), read_split(validation), labeled_pool, features=read_features(body.labeled_features)
        )

    train_stage(__file__, params, run, inputs, load_data, out)


if __name__ == "__main__":
    main()
