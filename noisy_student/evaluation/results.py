"""Metrics of predictions on the test split, gains between models, and the table of iterations. Pure functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from noisy_student.core import metrics
from noisy_student.core.randomness import generator
from noisy_student.evaluation import gate, outlook
from noisy_student.evaluation.history import EvaluationResult, History

OF_OTHER_MODELS = (  # than iterations, in a summary
    "model",
    "parameters",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "balanced_accuracy",
    "validation_accuracy",
)
LEAST_ACCURATE = 3  # classes that are named below the table
CONTROL_NAMES = {  # what a gain over each kind of control is called
    "supervised": "control",
    "unnoised": "unnoised_control",
    "oracle": "oracle_control",
    "random_errors": "random_errors_control",
    "shuffled": "shuffled_control",
    "half_labels": "half_labels_control",
    "half_pool": "half_pool_control",
}


def evaluation(
    logits: np.ndarray, labels: np.ndarray, description: dict[str, Any], temperature: float
) -> dict[str, Any]:
    """Figures of a model on labeled images: `logits` (N,K), `labels` int64 (N,), `description` its model.json.

    `temperature` is the one that was fitted on the calibration split. `intervals` has those of 95 %.
    """
    predicted, probabilities = logits.argmax(axis=1), metrics.softmax(logits)
    calibrated = metrics.softmax(logits, temperature).max(axis=1)
    correct, accuracy = predicted == labels, metrics.accuracy(predicted, labels)
    low, high = metrics.accuracy_interval(accuracy, len(labels))
    by_class = metrics.accuracy_by_class(predicted, labels, len(description["classes"]))
    sampled = _sampled_figures(predicted, labels, metrics.losses(probabilities, labels), len(description["classes"]))
    return {
        "name": description["name"],
        "model": description["model"],
        "parameters": description["parameters"],
        **cost(description),
        "test_images": len(labels),
        "accuracy": accuracy,
        "accuracy_low": low,
        "accuracy_high": high,
        **{name: figure(np.arange(len(labels))) for name, figure in sampled.items()},
        "ece": metrics.ece(probabilities.max(axis=1), correct),
        "ece_calibrated": metrics.ece(calibrated, correct),
        "ece_by_chance": metrics.ece_by_chance(calibrated, generator(0, "labels of a calibrated model")),
        "temperature": temperature,
        "intervals": {
            name: metrics.bootstrap_interval(figure, len(labels), generator(0, f"bootstrap of {name}"))
            for name, figure in sampled.items()
        },
        "accuracy_by_class": dict(zip(description["classes"], by_class, strict=True)),
        "validation_accuracy": description["validation"]["accuracy"],
        "validation_loss": description["validation"]["loss"],
    }


def cost(description: dict[str, Any]) -> dict[str, int]:
    """What a model of `description`, its model.json, costs: multiply-adds of an image's forward pass, the images that
    each network was trained on, as often as they were seen, and multiply-adds of the training.

    A backward pass counts as two forward ones, and all as if nothing were frozen or made smaller.
    """
    training, adds = description["training"], description["multiply_adds"]  # of all networks of an ensemble
    seen = training["steps"] * training["batch_size"]
    return {"multiply_adds": adds, "images_trained": seen, "training_multiply_adds": 3 * adds * seen}


def _sampled_figures(
    predicted: np.ndarray, labels: np.ndarray, losses: np.ndarray, classes: int
) -> dict[str, Callable[[np.ndarray], float]]:
    """Functions of rows (n,) that give each figure whose interval has no formula; the arrays are (N,)."""

    def balanced(rows: np.ndarray) -> float:
        return metrics.balanced_accuracy(metrics.accuracy_by_class(predicted[rows], labels[rows], classes))

    return {
        "balanced_accuracy": balanced,
        "macro_f1": lambda rows: metrics.macro_f1(predicted[rows], labels[rows], classes),
        "nll": lambda rows: float(losses[rows].mean()),
    }


def accuracy_sentence(result: dict[str, Any]) -> str:
    """The accuracy of an `evaluation`, for a person who waits for the table."""
    low, high = percent(result["accuracy_low"]), percent(result["accuracy_high"])
    figures = f"{percent(result['accuracy'])} of {result['test_images']:,} test images (95 % interval {low} to {high})"
    return f"{result['name']}: {figures}"


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


def summary(history: History, iteration: str, controls: dict[str, EvaluationResult]) -> dict[str, Any]:
    """The summary of `iteration`, the last of `history`.

    `controls` are the results of its controls, by kind. A metric that is unknown is left out.
    """
    row = history.rows.astype(object).iloc[-1]  # Python's own numbers, as JSON takes them
    figures = {name: value for name, value in row.items() if not pd.isna(value)}
    predictions = history.predictions
    if not pd.isna(row.teacher):
        figures |= gain(predictions["actual"], predictions[iteration], predictions[row.teacher], "teacher")
    for kind, control in controls.items():
        both = predictions[["id", iteration]].merge(control.predictions, on="id", validate="one_to_one")
        figures |= gain(both["actual"], both[iteration], both["predicted"], CONTROL_NAMES[kind])
    if "supervised" in controls:
        result = controls["supervised"].figures
        figures["control"] = {"name": result["name"], **{key: result[key] for key in OF_OTHER_MODELS}}
    return figures


def distilled_figures(history: History, distilled: dict[str, EvaluationResult]) -> dict[str, dict[str, Any]]:
    """For a summary: metrics of each distilled model, and its gain over its teacher, an iteration of `history`.

    `distilled` are results by name. The dict is empty without distilled models.
    """
    found = {}
    for name, of_model in distilled.items():
        result = of_model.figures
        found[name] = {key: result[key] for key in ("teacher", *OF_OTHER_MODELS)}
        if result["teacher"] in history.predictions:
            teachers = history.predictions[["id", result["teacher"]]]
            both = of_model.predictions.merge(teachers, on="id", validate="one_to_one")
            found[name] |= gain(both["actual"], both["predicted"], both[result["teacher"]], "teacher")
    return {"distilled": found} if found else {}


def table(history: pd.DataFrame, summary: dict[str, Any], confusion: pd.DataFrame | None = None) -> Table:
    """The table of iterations, control and distilled models that a run ends with.

    Its caption says whether the pool helped, what more may bring, and which model to deploy. With `confusion` (actual
    and predicted class of each test image) it names the least accurate classes.
    """
    first = history.iloc[0]
    labels = f"{first.training_labels} training labels, {first.held_out_labels} held-out labels"
    title = f"Test accuracy by iteration ({labels})"
    rows = table_rows(history, summary)
    sentences = [verdict(summary), *distilled_sentences(summary)]
    if confusion is not None:
        sentences.insert(0, _least_accurate(confusion, summary["iteration"]))
    if summary.get("outlook"):
        sentences.append(outlook.sentence(summary["outlook"]))
    if "deploy" in summary:
        sentences.append(gate.sentence(summary["deploy"]))
    table = Table(title=title, caption="\n".join(sentences), box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.title_justify = table.caption_justify = "left"
    for column in rows[0]:
        justify: Any = "left" if column in ("iteration", "model") else "right"
        table.add_column(column, no_wrap=column != "model", overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*row.values())
    return table


def table_rows(history: pd.DataFrame, summary: dict[str, Any]) -> list[dict[str, str]]:
    """The cells of the table by column, a row for each model: iterations, control, distilled models.

    Balanced accuracy, where it differs from the accuracy, takes the place of the parameters, because there is no room
    for both in a terminal. A column in which nothing
    is known is left out.
    """
    rows = [_row(model) for model in [*history.to_dict("records"), *_beside(summary)]]
    without = "balanced" if all(row["balanced"] == row["accuracy"] for row in rows) else "parameters"
    shown = [name for name in rows[0] if name != without and any(row[name] for row in rows)]
    return [{name: row[name] for name in shown} for row in rows]


def _beside(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The models that stand below the iterations in a table: the control and the distilled ones, if there are any."""
    control = summary.get("control")
    others = ({control["name"]: control} if control else {}) | summary.get("distilled", {})
    return [{"iteration": name, **model} for name, model in others.items()]


def _row(model: dict[str, Any]) -> dict[str, str]:
    """The row of an iteration, of the control or of a distilled model, by column."""
    return {
        "iteration": model["iteration"],
        "model": model["model"].rpartition("/")[2],
        "parameters": f"{model['parameters']:,}",
        "accuracy": percent(model["accuracy"]),
        "95 %": f"{100 * model['accuracy_low']:.1f}-{100 * model['accuracy_high']:.1f}",
        "balanced": percent(model["balanced_accuracy"]),
        "pool kept": percent(model.get("kept_fraction")),
        "precision": percent(model.get("pseudo_label_precision")),
    }


def _least_accurate(confusion: pd.DataFrame, iteration: str) -> str:
    """One sentence for a person: which classes does the model find least often?"""
    right = confusion["actual"] == confusion["predicted"]
    found = right.groupby(confusion["actual"]).mean().sort_values(kind="stable").head(LEAST_ACCURATE)
    named = ", ".join(f"{name} {percent(share)}" for name, share in found.items())
    return f"Least accurate classes of {iteration}: {named}."


def verdict(summary: dict[str, Any]) -> str:
    """One sentence for a person: did the pool help, going by the paired interval over the same-size control?"""
    if "gain_over_control" not in summary:
        return f"No control of {summary['iteration']} was run, so it is unknown whether the pool helped."
    gain, low, high = (summary[f"gain_over_control{end}"] for end in ("", "_low", "_high"))
    interval = f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
    if high < 0:
        control = summary["control"]["name"]
        figures = f"{-100 * gain:.2f} points below {control}, the same model on labels alone ({interval})"
        return f"The pool hurt: {figures}. To label with that one, add --model models/{control}."
    figures = f"{100 * gain:+.2f} points over the same model on labels alone ({interval})"
    return f"The pool helped: {figures}." if low > 0 else f"It is unclear whether the pool helped: {figures}."


def distilled_sentences(summary: dict[str, Any]) -> list[str]:
    """A sentence for each distilled model."""
    return [_distilled(name, model) for name, model in summary.get("distilled", {}).items()]


def _distilled(name: str, model: dict[str, Any]) -> str:
    """One sentence for a person: how far is a distilled model from its teacher?"""
    if "gain_over_teacher" not in model:
        return f"{name} was distilled from {model['teacher']}, which is not in this table."
    gain, low, high = (100 * model[f"gain_over_teacher{end}"] for end in ("", "_low", "_high"))
    figures = f"{gain:+.2f} points (95 % interval {low:+.2f} to {high:+.2f})"
    return f"{name} compared with its teacher {model['teacher']}: {figures}."


def percent(fraction: float | None) -> str:
    """A fraction in per cent; "" where it is unknown."""
    return "" if fraction is None or pd.isna(fraction) else f"{100 * fraction:.1f} %"
