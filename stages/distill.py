"""Distill an iteration's model into another one, to be deployed in its place (Hinton et al. 2015).

Reads   the labeled split, the pool, the teacher's logits for both, the validation split, pretrained weights and
        their features
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, noise, training, distillation, distilled.<model>
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import read_features
from noisy_student.store.pseudo_labels import read_logits
from noisy_student.store.splits import read_split
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.loop import TrainingData, TrainingRun
from noisy_student.training.params import DistillationParams, TrainingParams
from noisy_student.training.recipes import DistilledParams, PretrainedInputs, distilled_recipe
from noisy_student.training.stage import train_stage


@command
@ranked
def main(
    *,
    distilled: str,
    labeled: Path,
    pool: Path,
    logits: Path,
    validation: Path,
    pretrained: Path,
    labeled_features: Path,
    pool_features: Path,
    out: Path,
) -> None:
    params = ParamsFile()
    seed, runtime = params.section("seed", Seed), params.section("runtime", RuntimeParams)
    noise, training = params.section("noise", NoiseParams), params.section("training", TrainingParams)
    distillation = params.section("distillation", DistillationParams)
    model = params.section(f"distilled.{distilled}", DistilledParams)
    recipe = distilled_recipe(noise, training, distillation, model, distilled)

    body = PretrainedInputs.of(recipe, pretrained, labeled_features, pool_features)
    run = TrainingRun(distilled, recipe, runtime, setup(runtime), seed, body.weights)
    inputs = {
        "labeled": labeled,
        "pool": pool,
        "logits": logits,
        "validation": validation,
        **body.by_role(),
    }

    def distillation_data() -> TrainingData:
        distilled_pool = None
        if recipe.distillation and recipe.distillation.images != "labeled":
            distilled_pool = LabeledImages.from_logits(
                read_split(pool), read_logits(logits, "pool"), read_features(body.pool_features)
            )
        return TrainingData(
            read_split(labeled),
            read_split(validation),
            distilled_pool,
            read_logits(logits, "labeled"),
            read_features(body.labeled_features),
        )

    train_stage(__file__, params, run, inputs, distillation_data, out)


if __name__ == "__main__":
    main()
