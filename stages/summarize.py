"""Sum up the current iteration: the table of iterations, the gains over its teacher and its control, the plots.

Reads   the current iteration's history, the results of the controls and of what iterations were distilled into
Writes  summary.json, history.csv, curves.csv (learning curves), confusion.csv (actual and predicted class)
Params  current, controls, pool_controls, distilled
"""

from argparse import ArgumentParser
from pathlib import Path

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_csv, write_json
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.history import read_controls, read_distilled, read_history
from noisy_student.evaluation.results import distilled_figures, summary


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--controls", type=Path, required=True)
    parser.add_argument("--distilled", type=Path, required=True)
    parser.add_argument("--summary-out", type=Path, required=True)
    parser.add_argument("--history-out", type=Path, required=True)
    parser.add_argument("--curves-out", type=Path, required=True)
    parser.add_argument("--confusion-out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    current = params.section("current", str)
    controls = [*params.section("controls", dict), *params.section("pool_controls", dict)]
    names = list(params.section("distilled", dict))
    inputs = {"history": args.history, "controls": args.controls, "distilled": args.distilled}
    with guarded(__file__, params, inputs):
        history = read_history(args.history)
        figures = summary(history, current, read_controls(args.controls, controls, current))
        figures |= distilled_figures(history, read_distilled(args.distilled, names))
        confusion = history.predictions[["actual", current]].rename(columns={current: "predicted"})

        write_json(args.summary_out, figures)
        write_csv(args.history_out, history.rows)
        write_csv(args.curves_out, history.curves)
        write_csv(args.confusion_out, confusion)


if __name__ == "__main__":
    main()
