"""Add an iteration's row to its teacher's history.

Reads   the iteration's results and model folder; the teacher's history, but for iter0
Writes  a folder: history.csv (a row per iteration), curves.csv (learning curves), predictions.csv (on the test split)
Params  none
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.errors import cli_main
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.history import read_history, save_history, single


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--teacher", help="the iteration that taught this one")
    parser.add_argument("--before", type=Path, help="the teacher's history")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    inputs = {"results": args.results, "model": args.model, "before": args.before}
    with guarded(__file__, None, inputs):
        history = single(args.results, args.model, args.teacher)
        if args.before:
            history = read_history(args.before).extended(history)
        save_history(args.out, history)


if __name__ == "__main__":
    main()
