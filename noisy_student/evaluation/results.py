"""Metrics of predictions on the test split, gains between models, and the table of iterations. Pure functions."""

from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from noisy_student.core import metrics
from noisy_student.evaluation.history import History

CONTROL_NAMES = {  # what a gain over each kind of control is called
    "supervised": "control",
    "unnoised": "unnoised_control",
    "oracle": "oracle_control",
    "shuffled": "shuffled_control",
}


def evaluation(logits: np.ndarray, labels: np.ndarray, description: dict[str, Any]) -> dict[str, Any]:
    """Figures of a model on labeled images: `logits` (N,K), `labels` int64 (N,), `description` its model.json."""
    probabilities, predicted = metrics.softmax(logits), logits.argmax(axis=1)
    accuracy = metrics.accuracy(predicted, labels)
    low, high = metrics.accuracy_interval(accuracy, len(labels))
    by_class = metrics.accuracy_by_class(predicted, labels, len(description["classes"]))
    return {
        "name": description["name"],
        "model": description["model"],
        "parameters": description["parameters"],
        "test_images": len(labels),
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_by_class": dict(zip(description["classes"], by_class, strict=True)),
        "validation_accuracy": description["validation"]["accuracy"],
        "validation_loss": description["validation"]["loss"],
        "nll": metrics.nll(probabilities, labels),
        "ece": metrics.ece(probabilities, labels),
    }


def pseudo_label_figures(rows: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """The kept fraction of the pool, and the precision of its pseudo-labels where the `truth` (N,) is known (>= 0).

    `rows` (n,) are positions in the pool and `labels` (n,) the classes that pseudo-labels give them.
    """
    known = truth[rows] >= 0
    precision = metrics.accuracy(labels[known], truth[rows][known]) if known.any() else None
    return {"pseudo_label_precision": precision, "kept_fraction": len(rows) / len(truth)}


def gain(actual: pd.Series, predicted: pd.Series, predicted_before: pd.Series, over: str) -> dict[str, float]:
    """The gain in accuracy over another model on the same test images, with its 95 % interval, named by `over`."""
    figures = metrics.paired_gain((predicted == actual).to_numpy(), (predicted_before == actual).to_numpy())
    return dict(zip((f"gain_over_{over}", f"gain_over_{over}_low", f"gain_over_{over}_high"), figures, strict=True))


def summary(history: History, iteration: str, controls: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """The summary of `iteration`, the last of `history`.

    `controls` are the predictions of its controls, by kind. A metric that is unknown is left out.
    """
    row = history.rows.astype(object).iloc[-1]  # Python's own numbers, as JSON takes them
    figures = {name: value for name, value in row.items() if not pd.isna(value)}
    predictions = history.predictions
    if not pd.isna(row.teacher):
        figures |= gain(predictions["actual"], predictions[iteration], predictions[row.teacher], "teacher")
    for kind, control in controls.items():
        both = predictions[["id", iteration]].merge(control, on="id", validate="one_to_one")
        figures |= gain(both["actual"], both[iteration], both["predicted"], CONTROL_NAMES[kind])
    return figures


def distilled_figures(
    history: History, distilled: dict[str, tuple[dict[str, Any], pd.DataFrame]]
) -> dict[str, dict[str, Any]]:
    """For a summary: metrics of each distilled model, and its gain over its teacher, an iteration of `history`.

    `distilled` are results and predictions by name. The dict is empty without distilled models.
    """
    kept = ("teacher", "model", "parameters", "accuracy", "accuracy_low", "accuracy_high", "validation_accuracy")
    found = {}
    for name, (result, predictions) in distilled.items():
        found[name] = {key: result[key] for key in kept}
        if result["teacher"] in history.predictions:
            teachers = history.predictions[["id", result["teacher"]]]
            both = predictions.merge(teachers, on="id", validate="one_to_one")
            found[name] |= gain(both["actual"], both["predicted"], both[result["teacher"]], "teacher")
    return {"distilled": found} if found else {}


def table(history: pd.DataFrame, summary: dict[str, Any]) -> Table:
    """The table of iterations that a run ends with, and in its caption whether the pool helped."""
    first = history.iloc[0]
    labels = f"{first.training_labels} training labels, {first.held_out_labels} held-out labels"
    title = f"Test accuracy by iteration ({labels})"
    distilled = summary.get("distilled", {})
    caption = "\n".join([verdict(summary), *(_distilled(name, model) for name, model in distilled.items())])
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for column in ("iteration", "model", "parameters", "accuracy", "95 %", "pool kept", "precision"):
        justify: Any = "left" if column in ("iteration", "model") else "right"
        table.add_column(column, no_wrap=column != "model", overflow="fold", justify=justify)
    for row in history.itertuples():
        interval = f"{100 * row.accuracy_low:.1f}-{100 * row.accuracy_high:.1f}"
        shares = [_percent(row.kept_fraction), _percent(row.pseudo_label_precision)]
        table.add_row(row.iteration, row.model, f"{row.parameters:,}", _percent(row.accuracy), interval, *shares)
    for name, model in distilled.items():
        interval = f"{100 * model['accuracy_low']:.1f}-{100 * model['accuracy_high']:.1f}"
        table.add_row(name, model["model"], f"{model['parameters']:,}", _percent(model["accuracy"]), interval, "", "")
    return table


def verdict(summary: dict[str, Any]) -> str:
    """One sentence for a person: did the pool help, going by the paired interval over the same-size control?"""
    if "gain_over_control" not in summary:
        return f"No control of {summary['iteration']} was run, so it is unknown whether the pool helped."
    gain, low, high = (summary[f"gain_over_control{end}"] for end in ("", "_low", "_high"))
    interval = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
    figures = f"{100 * gain:+.2f} points over the same model on labels alone ({interval})"
    if low > 0:
        return f"The pool helped: {figures}."
    return f"The pool hurt: {figures}." if high < 0 else f"It is unclear whether the pool helped: {figures}."


def _distilled(name: str, model: dict[str, Any]) -> str:
    """One sentence for a person: how far is a distilled model from its teacher?"""
    if "gain_over_teacher" not in model:
        return f"{name} was distilled from {model['teacher']}, which is not in this table."
    gain, low, high = (100 * model[f"gain_over_teacher{end}"] for end in ("", "_low", "_high"))
    figures = f"{gain:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
    return f"{name} compared with its teacher {model['teacher']}: {figures}."


def _percent(fraction: float) -> str:
    return "" if pd.isna(fraction) else f"{100 * fraction:.1f} %"
