"""Add an iteration's row to its teacher's history.

Reads   the iteration's results and model folder; the teacher's history, but for iter0
Writes  a folder: history.csv (a row per iteration), curves.csv (learning curves), predictions.csv (on the test split)
Params  none
"""

from pathlib import Path

from noisy_student.core.command_line import command
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.history import read_history, save_history, single


@command
def main(*, results: Path, model: Path, teacher: str | None = None, before: Path | None = None, out: Path) -> None:
    inputs = {"results": results, "model": model, "before": before}
    with guarded(__file__, None, inputs):
        history = single(results, model, teacher)
        if before:
            history = read_history(before).extended(history)
        save_history(out, history)


if __name__ == "__main__":
    main()
