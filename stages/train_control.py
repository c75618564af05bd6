"""Train a control: an iteration's model for as many steps on labels alone. Was it the pool, or just the bigger net?
On half of the labels it tells what more of them may bring.

Reads   the labeled and the validation split, pretrained weights and their features
Writes  the model's folder: weights, description, learning curve
Params  seed, runtime, training, controls.<control>, iterations.<the iteration it is of>.model
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.launch import ranked
from noisy_student.core.randomness import Seed, generator
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.features import read_features
from noisy_student.store.splits import half, read_split
from noisy_student.training.loop import TrainingData, TrainingRun
from noisy_student.training.params import TrainingParams
from noisy_student.training.recipes import ControlParams, PretrainedInputs, control_recipe
from noisy_student.training.stage import train_stage


@command
@ranked
def main(
    *, control: str, of: str, labeled: Path, validation: Path, pretrained: Path, labeled_features: Path, out: Path
) -> None:
    params = ParamsFile()
    seed, runtime = params.section("seed", Seed), params.section("runtime", RuntimeParams)
    training, model = params.section("training", TrainingParams), params.section(f"iterations.{of}.model", str)
    kind = params.section(f"controls.{control}", ControlParams)
    recipe = control_recipe(training, model, kind, control)

    body = PretrainedInputs.of(recipe, pretrained, labeled_features)
    run = TrainingRun(control, recipe, runtime, setup(runtime), seed, body.weights)
    inputs = {
        "labeled": labeled,
        "validation": validation,
        **body.by_role(),
    }

    def load_data() -> TrainingData:
        images, features = read_split(labeled), read_features(body.labeled_features)
        if kind.kind == "half_labels":
            rows = half(images.labels, generator(seed, f"half of the labels of {control}"))
            images, features = images.at(rows), features.at(rows) if features else None
        return TrainingData(images, read_split(validation), features=features)

    train_stage(__file__, params, run, inputs, load_data, out)


if __name__ == "__main__":
    main()
