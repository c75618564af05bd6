"""Let a teacher look at the pool, the calibration and the labeled split, in eval mode and without noise.

Reads   the teacher's folder, the pool, the calibration and the labeled split
Writes  a folder of logits, float32 (n,K), pool-00000.npy and so on, one for each shard of a split,
        and with labeling.features, float16 (n,F), features-pool-00000.npy and so on
Params  runtime, labeling
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.workspace import Work, work
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, machine, setup
from noisy_student.models.prediction import LabelingParams, predict_split
from noisy_student.store.splits import Split, read_split


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--labeled", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    runtime, labeling = params.section("runtime", RuntimeParams), params.section("labeling", LabelingParams)
    device = setup(runtime)
    splits = {"pool": args.pool, "calibration": args.calibration, "labeled": args.labeled}
    inputs = {"teacher": args.teacher, **splits}
    with work(args.out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            teacher, description = load_classifier(args.teacher, device)
            for name, folder in splits.items():
                title = f"{description['name']} looks at the {name} split"
                label(job, teacher, read_split(folder), name, runtime, labeling, title)


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
    shards = range(len(split.shards))
    done = {number for number in shards if all(job.has(f"{kind}{name}-{number:05}.npy") for kind in kinds)}
    for number, seen in predict_split(teacher, split, runtime, title, done, labeling):
        job.add(f"{name}-{number:05}.npy", seen.logits)
        if seen.features is not None:
            job.add(f"features-{name}-{number:05}.npy", seen.features)


if __name__ == "__main__":
    main()
