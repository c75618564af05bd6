"""Sum up the current iteration: its table, its gains, what more may bring, the model to deploy, the plots.

Reads   the current iteration's history, the results of the controls and of the distilled models
Writes  summary.json, history.csv, curves.csv (learning curves), confusion.csv (actual and predicted class)
Params  current, controls, pool_controls, distilled
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_csv, write_json
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.gate import candidates, gate
from noisy_student.evaluation.history import read_controls, read_distilled, read_history
from noisy_student.evaluation.outlook import outlook
from noisy_student.evaluation.results import distilled_figures, summary


@command
def main(
    *,
    history: Path,
    controls: Path,
    distilled: Path,
    summary_out: Path,
    history_out: Path,
    curves_out: Path,
    confusion_out: Path,
) -> None:
    params = ParamsFile()
    current = params.section("current", str)
    names = [*params.section("controls", dict), *params.section("pool_controls", dict)]
    of_distilled = list(params.section("distilled", dict))
    inputs = {"history": history, "controls": controls, "distilled": distilled}
    with guarded(__file__, params, inputs):
        found = read_history(history)
        of_controls, small_models = read_controls(controls, names, current), read_distilled(distilled, of_distilled)
        figures = summary(found, current, of_controls) | distilled_figures(found, small_models)
        figures["deploy"] = gate(candidates(found, of_controls, small_models))
        figures["outlook"] = outlook(found, current, of_controls)
        confusion = found.predictions[["actual", current]].rename(columns={current: "predicted"})

        write_json(summary_out, figures)
        write_csv(history_out, found.rows)
        write_csv(curves_out, found.curves)
        write_csv(confusion_out, confusion)


if __name__ == "__main__":
    main()
