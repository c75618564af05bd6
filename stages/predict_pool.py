"""Let a teacher look at the pool and at the calibration split, in eval mode and without noise.

Reads   the teacher's folder, the pool, the calibration split
Writes  a folder of logits, float32 (n,K),
        pool-00000.npy and calibration-00000.npy, one for each shard of the split
Params  runtime, labeling
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.config import Params
from noisy_student.errors import exits_with_a_sentence
from noisy_student.images import Split, read_split
from noisy_student.inference import Classifier, LabelingParams, load_classifier, predict_split
from noisy_student.runtime import RuntimeParams, machine, setup
from noisy_student.work import Work, work


@exits_with_a_sentence
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = Params()
    runtime, labeling = params.section("runtime", RuntimeParams), params.section("labeling", LabelingParams)
    device = setup(runtime)
    inputs = {"teacher": args.teacher, "pool": args.pool, "calibration": args.calibration}
    with work(args.out, __file__, params, inputs, machine(device)) as job:
        if not job.finished:
            teacher, description = load_classifier(args.teacher, device)
            for name, folder in (("pool", args.pool), ("calibration", args.calibration)):
                title = f"{description['name']} labels the {name}"
                label(job, teacher, read_split(folder), f"{name}-{{:05}}.npy", runtime, labeling, title)


def label(
    job: Work,
    teacher: Classifier,
    split: Split,
    file: str,
    runtime: RuntimeParams,
    labeling: LabelingParams,
    title: str,
) -> None:
    """Make a `file` of logits for each shard of `split` that has none yet; `file` takes the shard's number."""
    done = {number for number in range(len(split.shards)) if job.has(file.format(number))}
    for number, logits in predict_split(teacher, split, runtime, title, done, labeling.views):
        job.add(file.format(number), logits)


if __name__ == "__main__":
    main()
