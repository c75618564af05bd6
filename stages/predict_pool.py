"""Predict a teacher's logits for the pool, the calibration and the labeled split, in eval mode and without noise.

A teacher whose body is a pretrained network uses its features and reads no image.

Reads   the teacher's folder, the pool, the calibration and the labeled split, features of pretrained networks
Writes  a folder of logits, float32 (n,K), pool-00000.npy and so on, one for each shard of a split,
        and with labeling.features, float16 (n,F), features-pool-00000.npy and so on
Params  runtime, labeling
"""

from pathlib import Path

from noisy_student.core import ranks
from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json
from noisy_student.core.launch import ranked
from noisy_student.core.workspace import Work, work
from noisy_student.models.checkpoint import DESCRIPTION, folder_of
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.models.features import logits_of, pretrained_body, read_features
from noisy_student.models.prediction import LabelingParams, predict_split
from noisy_student.store.selection import Selection
from noisy_student.store.splits import Split, read_split


@command
@ranked
def main(*, teacher: Path, pool: Path, calibration: Path, labeled: Path, features: Path, out: Path) -> None:
    params = ParamsFile()
    runtime, labeling = params.section("runtime", RuntimeParams), params.section("labeling", LabelingParams)
    device = setup(runtime)
    splits = {"pool": pool, "calibration": calibration, "labeled": labeled}
    model = pretrained_body(read_json(teacher / DESCRIPTION)) if labeling.tta == "one" else None
    features_of_model = {name: folder_of(features / name, model) if model else None for name in splits}
    inputs = {
        "teacher": teacher,
        **splits,
        **{f"{name}_features": folder for name, folder in features_of_model.items()},
    }
    with work(out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            classifier, description = load_classifier(teacher, device)
            for name, folder in splits.items():
                if (found := read_features(features_of_model[name])) is not None:
                    label_by_features(job, classifier, found, name, labeling)
                else:
                    title = f"{description['name']} predicts the {name} split"
                    label(job, classifier, read_split(folder), name, runtime, labeling, title)


def label_by_features(job: Work, teacher: Classifier, features: Selection, name: str, labeling: LabelingParams) -> None:
    """Make the files of the split called `name`, whose `features` are known, an array for each of its shards."""
    for number in ranks.share_of(len(features.arrays)):
        of_shard = features.arrays[number]
        job.add(f"{name}-{number:05}.npy", logits_of(teacher, of_shard))
        if labeling.features:
            job.add(f"features-{name}-{number:05}.npy", of_shard)


def label(
    job: Work,
    teacher: Classifier,
    split: Split,
    name: str,
    runtime: RuntimeParams,
    labeling: LabelingParams,
    title: str,
) -> None:
    """Make the files of the split called `name` for each of its shards that has none yet."""
    kinds = ("", "features-") if labeling.features else ("",)

    def has(number: int) -> bool:
        return all(job.has(f"{kind}{name}-{number:05}.npy") for kind in kinds)

    for number, predictions in predict_split(teacher, split, runtime, title, has, labeling):
        job.add(f"{name}-{number:05}.npy", predictions.logits)
        if predictions.features is not None:
            job.add(f"features-{name}-{number:05}.npy", predictions.features)


if __name__ == "__main__":
    main()
