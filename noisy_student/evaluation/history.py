"""What evaluations found, and the history of an iteration: a table row, a learning curve and the predictions of it and
of all its teachers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from noisy_student.core.errors import UserError
from noisy_student.core.files import read_csv, read_json, read_parquet, write_csv, write_json, write_parquet
from noisy_student.store.splits import Split

RESULTS, PREDICTIONS, HELD_OUT = "results.json", "predictions.csv", "held_out.csv"  # in the folder of a model's results
MISTAKES = "mistakes.parquet"  # beside them

HISTORY_COLUMNS = [  # of history.csv, in order
    "iteration",
    "teacher",
    "model",
    "parameters",
    "training_labels",
    "held_out_labels",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "validation_accuracy",
    "validation_loss",
    "macro_f1",
    "nll",
    "ece",
    "ece_calibrated",
    "pseudo_label_precision",
    "kept_fraction",
    "folder",
    "weights_sha256",
]


class EvaluationResult(NamedTuple):
    """What the evaluation of a model left."""

    figures: dict[str, Any]
    predictions: pd.DataFrame  # id, actual, predicted, confidence of each test image, classes by name
    held_out: pd.DataFrame  # the same of each held-out image, of calibration and of validation


@dataclass(frozen=True)
class History:
    """All iterations from iter0 to one of them, each the teacher of the next."""

    rows: pd.DataFrame  # a row an iteration, columns HISTORY_COLUMNS
    curves: pd.DataFrame  # iteration, step, loss, validation_loss, validation_accuracy
    predictions: pd.DataFrame  # id, actual, and a column of predicted classes for each iteration
    held_out: pd.DataFrame  # the same of held-out images

    def extended(self, later: "History") -> "History":
        """This history with `later`, that of a single iteration, behind it."""
        return History(
            pd.concat([self.rows.astype(object), later.rows.astype(object)], ignore_index=True),
            pd.concat([self.curves, later.curves], ignore_index=True),
            self.predictions.merge(later.predictions, on=["id", "actual"], validate="one_to_one"),
            self.held_out.merge(later.held_out, on=["id", "actual"], validate="one_to_one"),
        )


def single(results: Path, model: Path, teacher: str | None) -> History:
    """The history of one iteration alone, out of the folder of its `results` and of its `model`."""
    figures, predictions, held_out = read_result(results)
    iteration = figures["name"]
    curve = read_csv(model / "curve.csv")
    curve.insert(0, "iteration", iteration)
    return History(
        pd.DataFrame([{**figures, "iteration": iteration, "teacher": teacher}]).reindex(columns=HISTORY_COLUMNS),
        curve,
        *(each.drop(columns="confidence").rename(columns={"predicted": iteration}) for each in (predictions, held_out)),
    )


def read_history(folder: Path) -> History:
    """The history that `save_history` wrote. Raises `UserError` when it cannot be read."""
    rows, curves = read_csv(folder / "history.csv"), read_csv(folder / "curves.csv")
    predictions, held_out = (read_csv(folder / name, text=True) for name in (PREDICTIONS, HELD_OUT))
    return History(rows, curves, predictions, held_out)


def save_history(folder: Path, history: History) -> None:
    """Write the tables of `history`."""
    write_csv(folder / "history.csv", history.rows)
    write_csv(folder / "curves.csv", history.curves)
    write_csv(folder / PREDICTIONS, history.predictions)
    write_csv(folder / HELD_OUT, history.held_out)


def predictions_on(split: Split, probabilities: np.ndarray) -> pd.DataFrame:
    """id, actual and predicted class, and confidence of each image of `split`, classes by name.

    `probabilities` are (N,K).
    """
    names, predicted = np.array(split.classes), probabilities.argmax(axis=1)
    of_images = {"id": split.ids, "actual": names[split.labels], "predicted": names[predicted]}
    return pd.DataFrame({**of_images, "confidence": probabilities.max(axis=1).round(4)})


def save_result(results: Path, result: EvaluationResult, mistaken: pd.DataFrame) -> None:
    """Write what an evaluation found to the folder `results`, with the table of `mistakes`."""
    write_parquet(results / MISTAKES, pa.Table.from_pandas(mistaken, preserve_index=False))
    write_json(results / RESULTS, result.figures)
    write_csv(results / PREDICTIONS, result.predictions)
    write_csv(results / HELD_OUT, result.held_out)


def read_result(results: Path) -> EvaluationResult:
    """What `save_result` wrote. Raises `UserError` when it cannot be read."""
    tables = (read_csv(results / name, text=True) for name in (PREDICTIONS, HELD_OUT))
    predictions, held_out = (table.astype({"confidence": float}) for table in tables)
    return EvaluationResult(read_json(results / RESULTS), predictions, held_out)


def read_mistakes(results: Path) -> pd.DataFrame:
    """The table of mistakes that `save_result` wrote. Raises `UserError` when it cannot be read."""
    return read_parquet(results / MISTAKES).to_pandas()


def read_distilled(folder: Path, names: list[str]) -> dict[str, EvaluationResult]:
    """The results of each distilled model, by its name; `names` are those in params.yaml.

    Raises `UserError` for results of a model with another name.
    """
    found = _evaluated(folder, names, "model")
    return {name: read_result(folder / name) for name in names if name in found}


def read_controls(folder: Path, names: list[str], iteration: str) -> dict[str, EvaluationResult]:
    """The results of each control of `iteration`, by the control's kind; `names` are the controls of params.yaml.

    Raises `UserError` for results of a control with another name, and for two controls of one kind, since a gain over
    the control would not say over which.
    """
    found: dict[str, EvaluationResult] = {}
    for name in _evaluated(folder, names, "control"):
        figures = read_json(folder / name / RESULTS)
        if figures["of"] == iteration:
            if figures["kind"] in found:
                raise UserError(f"{iteration} has two controls of kind {figures['kind']} in {folder}; keep one of them")
            found[figures["kind"]] = read_result(folder / name)
    return found


def _evaluated(folder: Path, names: list[str], what: str) -> list[str]:
    """The folders in `folder` that hold results, each of which must be one of `names`."""
    found = sorted(file.parent.name for file in folder.glob(f"*/{RESULTS}"))
    for name in found:
        if name not in names:
            raise UserError(f"{folder / name} is left from a {what} that params.yaml no longer has; remove it")
    return found
