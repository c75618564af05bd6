"""The history of an iteration: a table row, a learning curve and the test predictions of it and of all its teachers."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError
from noisy_student.core.files import read_csv, read_json, write_csv
from noisy_student.store.splits import Split

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
    "nll",
    "ece",
    "pseudo_label_precision",
    "kept_fraction",
]


@dataclass(frozen=True)
class History:
    """All iterations from iter0 to one of them, each the teacher of the next."""

    rows: pd.DataFrame  # a row an iteration, columns HISTORY_COLUMNS
    curves: pd.DataFrame  # iteration, step, loss, validation_loss, validation_accuracy
    predictions: pd.DataFrame  # id, actual, and a column of predicted classes for each iteration

    def extended(self, later: "History") -> "History":
        """This history with `later`, that of a single iteration, behind it."""
        return History(
            pd.concat([self.rows.astype(object), later.rows.astype(object)], ignore_index=True),
            pd.concat([self.curves, later.curves], ignore_index=True),
            self.predictions.merge(later.predictions, on=["id", "actual"], validate="one_to_one"),
        )


def single(results: Path, model: Path, teacher: str | None) -> History:
    """The history of one iteration alone, out of the folder of its `results` and of its `model`."""
    result = read_json(results / "results.json")
    iteration = result["name"]
    curve = read_csv(model / "curve.csv")
    curve.insert(0, "iteration", iteration)
    predictions = read_predictions(results).rename(columns={"predicted": iteration})
    return History(
        pd.DataFrame([{**result, "iteration": iteration, "teacher": teacher}]).reindex(columns=HISTORY_COLUMNS),
        curve,
        predictions,
    )


def read_history(folder: Path) -> History:
    """The history that `save_history` wrote. Raises `UserError` when it cannot be read."""
    rows, curves = read_csv(folder / "history.csv"), read_csv(folder / "curves.csv")
    return History(rows, curves, read_csv(folder / "predictions.csv", text=True))


def save_history(folder: Path, history: History) -> None:
    """Write the three tables of `history`."""
    write_csv(folder / "history.csv", history.rows)
    write_csv(folder / "curves.csv", history.curves)
    write_csv(folder / "predictions.csv", history.predictions)


def save_predictions(results: Path, split: Split, predicted: np.ndarray) -> None:
    """Write id, actual and predicted class of each image of `split`, classes by name."""
    names = np.array(split.classes)
    table = pd.DataFrame({"id": split.ids, "actual": names[split.labels], "predicted": names[predicted]})
    write_csv(results / "predictions.csv", table)


def read_predictions(results: Path) -> pd.DataFrame:
    """id, actual and predicted class (names) of each test image, out of the folder of a model's results."""
    return read_csv(results / "predictions.csv", text=True)


def read_distilled(folder: Path, names: list[str]) -> dict[str, tuple[dict[str, Any], pd.DataFrame]]:
    """The metrics and the predictions of each distilled model; `names` are those in params.yaml.

    Raises `UserError` for results of a model with another name.
    """
    found = {results.name: (result, read_predictions(results)) for results, result in _results(folder, names, "model")}
    return {name: found[name] for name in names if name in found}


def read_controls(folder: Path, names: list[str], iteration: str) -> dict[str, tuple[dict[str, Any], pd.DataFrame]]:
    """The metrics and the predictions of each control of `iteration`, by the control's kind; `names` are the controls
    of params.yaml.

    Raises `UserError` for results of a control with another name, and for two controls of one kind, since a gain over
    the control would not say over which.
    """
    found: dict[str, tuple[dict[str, Any], pd.DataFrame]] = {}
    for results, result in _results(folder, names, "control"):
        if result["of"] == iteration:
            if result["kind"] in found:
                raise UserError(f"{iteration} has two controls of kind {result['kind']} in {folder}; keep one of them")
            found[result["kind"]] = result, read_predictions(results)
    return found


def _results(folder: Path, names: list[str], what: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each folder in `folder` that holds results, with the results; its name must be one of `names`."""
    for file in sorted(folder.glob("*/results.json")):
        if file.parent.name not in names:
            raise UserError(f"{file.parent} is left from a {what} that params.yaml no longer has; remove it")
        yield file.parent, read_json(file)
