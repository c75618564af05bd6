"""Let a teacher look at the pool and at the calibration split, in eval mode and without noise.

Reads   the teacher's folder, the pool, the calibration split
Writes  a folder of logits, float32 (n,K),
        pool-00000.npy and calibration-00000.npy, one for each shard of the split
Params  runtime
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.config import Params
from noisy_student.errors import exits_with_a_sentence
from noisy_student.files import write_array
from noisy_student.images import read_split
from noisy_student.inference import load_classifier, predict_split
from noisy_student.runtime import RuntimeParams, setup


@exits_with_a_sentence
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    runtime = Params().section("runtime", RuntimeParams)
    device = setup(runtime)
    teacher, description = load_classifier(args.teacher, device)
    for name, folder in (("pool", args.pool), ("calibration", args.calibration)):
        shards = predict_split(teacher, read_split(folder), runtime, f"{description['name']} labels the {name}")
        for number, logits in enumerate(shards):
            write_array(args.out / f"{name}-{number:05}.npy", logits)


if __name__ == "__main__":
    main()
