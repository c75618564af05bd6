"""Compute the features of a split's images by each pretrained network, once for all models that begin with it.

Reads   pretrained weights, the split
Writes  a folder for each network: float16 (n,F), 00000.npy and so on, one for each shard of the split; none where no
        model is pretrained
Params  runtime
"""

from pathlib import Path

from noisy_student.core import ranks
from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json, write_json
from noisy_student.core.launch import ranked
from noisy_student.core.workspace import Work, work
from noisy_student.models.checkpoint import folder_of
from noisy_student.models.classifier import Classifier
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.models.features import ONE_VIEW
from noisy_student.models.init import from_pretrained
from noisy_student.models.prediction import predict_split
from noisy_student.store.splits import Split, read_split


@command
@ranked
def main(*, pretrained: Path, images: Path, out: Path) -> None:
    params = ParamsFile()
    runtime = params.section("runtime", RuntimeParams)
    device = setup(runtime)
    with work(out, __file__, params, {"pretrained": pretrained, "images": images}, machine(device)) as job:
        if not job.finished:
            models = read_json(pretrained / "pretrained.json")["models"]
            if ranks.is_first():
                write_json(job.part / "features.json", {"models": models})
            if models:
                split = read_split(images)
            for model in models:
                body = from_pretrained(model, split, 0.0, 0.0, folder_of(pretrained, model), device)
                title = f"{model}, features of the {images.name} split"
                extract(job, body, split, folder_of(Path(), model), runtime, title)


def extract(job: Work, body: Classifier, split: Split, folder: Path, runtime: RuntimeParams, title: str) -> None:
    """Make the file in `folder` of each shard of `split` that has none yet."""

    paths = [str(folder / f"{number:05}.npy") for number in range(len(split.shards))]

    def has(number: int) -> bool:
        return job.has(paths[number])

    for number, predictions in predict_split(body, split, runtime, title, has, ONE_VIEW):
        if predictions.features is not None:
            job.add(paths[number], predictions.features)


if __name__ == "__main__":
    main()
