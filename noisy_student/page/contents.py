"""What stands on the page, as the plain values that its template shows. Pure functions.

N test images, K classes.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd

from noisy_student.core.config import flat
from noisy_student.core.metrics import accuracy_interval
from noisy_student.evaluation import gate, outlook
from noisy_student.evaluation.audit import Audit
from noisy_student.evaluation.history import EvaluationResult, History
from noisy_student.evaluation.results import distilled_sentences, percent, table_rows, verdict
from noisy_student.evaluation.robustness import summary
from noisy_student.page import charts
from noisy_student.page.charts import Chart

MAX_CLASSES = 30  # that charts, buttons, and the matrix of confusion have room for
GROUPS = {  # of pictures, and what is said of each
    "surest": "The pseudo-labels that the teacher was surest of, in turn from each class.",
    "least sure": "The kept pseudo-labels that it was least sure of: the border that the threshold draws.",
    "changed": "Images to which the student gives another class than its teacher, the surest first.",
    "wrong": "Kept pseudo-labels that are wrong, the surest first; the student learned from these.",
}
FIGURES = {  # of the test split, beside accuracy
    "balanced_accuracy": "mean of the classes' accuracies",
    "macro_f1": "mean of the classes' F1",
    "nll": "negative log-likelihood, nats",
    "ece": "expected calibration error",
    "ece_calibrated": "the same after temperature scaling",
    "ece_by_chance": "the same of a calibrated model with as many images",
}


@dataclass(frozen=True)
class Run:
    """All that the page is about."""

    history: History
    summary: dict[str, Any]
    controls: dict[str, EvaluationResult]  # by kind
    result: EvaluationResult  # of the current iteration
    evaluated: list[dict[str, Any]]  # figures of all iterations
    mistakes: pd.DataFrame  # id, actual, predicted, confidence, picture
    audits: list[Audit]  # of the iterations from iter1 to the current one
    robustness: dict[str, dict[str, Any]]  # by model, the first for comparison; {} where nothing was measured
    card: dict[str, Any]  # of the data
    params: dict[str, Any]
    defaults: dict[str, Any]


def contents(run: Run) -> dict[str, Any]:
    """The values of the template, by name."""
    last = run.audits[-1] if run.audits else None
    few = len(run.card["classes"]) <= MAX_CLASSES
    return {
        "iteration": run.summary["iteration"],
        "source": run.card["source"],
        "answer": verdict(run.summary),
        "deploy": gate.sentence(run.summary["deploy"]),
        "outlook": outlook.sentence(run.summary["outlook"]) if run.summary.get("outlook") else "",
        "distilled": distilled_sentences(run.summary),
        "accuracy": accuracy(run),
        "held_out": held_out_rows(run),
        "models": table_rows(run.history.rows, run.summary),
        "figures": figure_rows(run.result),
        "classes": run.card["classes"],
        "few_classes": few,
        "data": data_rows(run.card),
        "pseudo_labels": [pseudo_label_row(each.figures) for each in run.audits],
        "warnings": [warning for each in run.audits for warning in warnings_of(each.figures)],
        "labeling": labeling(last, few) if last else {},
        "groups": picture_groups(last) if last else [],
        "map": picture_list(last.map) if last else [],
        "by_class": class_rows(run.result, run.card["classes"]),
        "confusion": confusion(run.result.predictions, run.mistakes, run.card["classes"]) if few else [],
        "mistakes": picture_list(run.mistakes),
        "reliability": charts.reliability_chart(run.result.predictions),
        "robustness": robustness(run.robustness) if run.robustness else {},
        "cost": [cost_row(each) for each in (*run.evaluated, *(each.figures for each in run.controls.values()))],
        "learning": charts.learning_chart(run.history.curves),
        "parameters": differences(run.params, run.defaults),
    }


def accuracy(run: Run) -> Chart:
    """The chart of all models."""
    found = [{**row, "name": row["iteration"]} for row in run.history.rows.to_dict("records")]
    others = [each.figures for each in run.controls.values()]
    others += [{**each, "name": name} for name, each in run.summary.get("distilled", {}).items()]
    deploy = run.summary["deploy"]
    return charts.accuracy_chart(found, others, deploy["name"] if deploy["decided"] else None)


def held_out_rows(run: Run) -> list[dict[str, str]]:
    """How far the model that the gate names leads each other one on held-out labels; none for a distilled one."""
    models, name = gate.candidates(run.history, run.controls, {}), run.summary["deploy"]["name"]
    if name not in [each.name for each in models]:
        return []
    rows = []
    for each in gate.leads(models, name):
        row = {"model": each["name"], "held-out": percent(each["accuracy"]), f"lead of {name}": "", "95 %": ""}
        if "lead" in each:
            lead, low, high = (f"{100 * each[key]:+.1f}" for key in ("lead", "lead_low", "lead_high"))
            row |= {f"lead of {name}": lead, "95 %": f"{low} to {high}"}
        rows.append(row)
    return rows


def figure_rows(result: EvaluationResult) -> list[dict[str, str]]:
    """Figures of the current iteration on the test split, with a 95 % interval where there is one."""
    figures, rows = result.figures, []
    for name, meaning in FIGURES.items():
        ends = " to ".join(f"{end:.3f}" for end in figures["intervals"].get(name, ()))
        rows.append({"figure": name, "meaning": meaning, "value": f"{figures[name]:.3f}", "95 %": ends})
    return rows


def data_rows(card: dict[str, Any]) -> list[dict[str, Any]]:
    """How many images each split has, by class: name, total, and the counts in the order of the classes, if known."""
    rows = []
    for split, total in card["images"].items():
        counts = [card["images_by_class"].get(split, {}).get(name, 0) for name in card["classes"]]
        shown = [f"{count:,}" for count in counts] if any(counts) else [""] * len(counts)
        rows.append({"name": split, "total": total, "counts": shown})
    return rows


def pseudo_label_row(figures: dict[str, Any]) -> dict[str, str]:
    """A row for an iteration: what was kept, how much of it is right, and where the student sees it otherwise."""
    pool, kept, known = (figures[key] for key in ("pool_images", "unique_images", "known_kept"))
    student = figures["student"]
    of_known = f"of {student['known']:,}"
    return {
        "iteration": figures["iteration"],
        "kept": f"{kept:,} of {pool:,}",
        "with copies": f"{figures['images_with_copies']:,}",
        "right": f"{100 - 100 * figures['wrong_kept'] / known:.1f} % of {known:,}" if known else "unknown",
        "drift": percent(figures["drift"]),
        "by chance": percent(figures["drift_by_chance"]),
        "changed": f"{student['changed']:,} of {student['sample']:,}",
        "mended": f"{student['mended']:,} {of_known}" if student["known"] else "unknown",
        "spoiled": f"{student['spoiled']:,} {of_known}" if student["known"] else "unknown",
    }


def warnings_of(figures: dict[str, Any]) -> list[dict[str, str]]:
    """The warnings of the guards of an iteration's pseudo-labels."""
    return [{"iteration": figures["iteration"], "sentence": sentence} for sentence in figures["warnings"]]


def cost_row(figures: dict[str, Any]) -> dict[str, str]:
    """A row for a model: its size, and what an image and its training cost."""
    return {
        "model": figures["name"],
        "network": figures["model"],
        "parameters": f"{figures['parameters']:,}",
        "10⁶ multiply-adds an image": f"{figures['multiply_adds'] / 1e6:,.1f}",
        "images trained": f"{figures['images_trained']:,}",
        "10¹² multiply-adds of its training": f"{figures['training_multiply_adds'] / 1e12:,.1f}",
    }


def robustness(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The chart and the tables of models on corrupted and adversarial images, by the name of each."""
    found = summary(results)  # of models that were put to the same, as the check asks for
    each_kind = {name: each["corruptions"] | each["extra_corruptions"] for name, each in results.items()}
    by_corruption = [
        {"corruption": kind.replace("_", " ")}
        | {name: percent(sum(by[kind]) / len(by[kind])) for name, by in each_kind.items()}
        for kind in next(iter(each_kind.values()))
    ]
    return {
        "chart": charts.severity_chart(found) if by_corruption else None,
        "models": [robustness_row(each) for each in found],
        "by_corruption": by_corruption,
    }


def robustness_row(found: dict[str, Any]) -> dict[str, str]:
    """A row for a model: its accuracy on clean, corrupted and adversarial images."""
    severities, error = found["by_severity"], found["mean_corruption_error"]
    row = {"model": found["name"], "images": f"{found['images']:,}", "clean": percent(found["clean"])}
    row["corrupted"] = percent(sum(severities) / len(severities)) if severities else ""
    row["mean corruption error"] = percent(error) if error is not None else ""
    attacks = found["attacks"].items()
    return row | {f"{attack.upper()} {change}": percent(each) for attack, by in attacks for change, each in by.items()}


def labeling(audit: Audit, few_classes: bool) -> dict[str, Any]:
    """Charts and a table of the current iteration's pseudo-labels, by the name of each."""
    figures = audit.figures
    found: dict[str, Any] = {
        "confidence": charts.confidence_chart(figures["iteration"], figures["confidence"]),
        "threshold": charts.threshold_chart(figures["by_threshold"], figures["threshold"]),
        "by_class": [_class_row(each) for each in figures["by_class"]],
    }
    return found | ({"classes": charts.class_chart(figures["by_class"])} if few_classes else {})


def _class_row(row: dict[str, Any]) -> dict[str, str]:
    known = f"{100 * row['right'] / row['known']:.1f} % of {row['known']:,}" if row["known"] else "unknown"
    kept = {"kept": f"{row['unique']:,}", "with copies": f"{row['with_copies']:,}"}
    return {"class": row["class"], **kept, "right": known}


def picture_groups(audit: Audit) -> list[dict[str, Any]]:
    """The groups of pool images that have any, each with a sentence and its pictures."""
    found = []
    for name, meaning in GROUPS.items():
        of_group = audit.pictures[audit.pictures["group"] == name]
        if len(of_group):
            found.append({"name": name, "meaning": meaning, "pictures": picture_list(of_group)})
    return found


def picture_list(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Each row of a table of pictures, the picture as an address that holds it."""
    return [{**row, "picture": address(row["picture"])} for row in table.to_dict("records")]


def address(picture: bytes) -> str:
    """A WebP file as an address that holds it."""
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"


def class_rows(result: EvaluationResult, classes: list[str]) -> list[dict[str, str]]:
    """Each class with its test images and its accuracy with the 95 % interval, the least accurate first."""
    right = result.predictions["actual"] == result.predictions["predicted"]
    by_class = right.groupby(result.predictions["actual"]).agg(["sum", "size"]).reindex(classes, fill_value=0)
    by_class["mean"] = by_class["sum"] / by_class["size"]
    rows = []
    for name, images, mean in by_class.sort_values("mean", kind="stable")[["size", "mean"]].itertuples():
        if not images:
            rows.append({"class": name, "images": "0", "accuracy": "unknown", "95 %": ""})
            continue
        low, high = accuracy_interval(mean, images)
        interval = f"{100 * low:.1f} to {100 * high:.1f}"
        rows.append({"class": name, "images": f"{images:,}", "accuracy": percent(mean), "95 %": interval})
    return rows


def confusion(predictions: pd.DataFrame, mistakes: pd.DataFrame, classes: list[str]) -> list[dict[str, Any]]:
    """A row for each class: its name, and how many of its images are predicted as each class; how many are shown."""
    tables = [pd.crosstab(each["actual"], each["predicted"]) for each in (predictions, mistakes)]
    counts, shown = (each.reindex(index=classes, columns=classes, fill_value=0) for each in tables)
    return [{"class": name, "counts": counts.loc[name].tolist(), "shown": shown.loc[name].tolist()} for name in classes]


def differences(params: dict[str, Any], defaults: dict[str, Any]) -> list[dict[str, str]]:
    """Each value of `params` that is not that of `defaults`, by its dotted key; `""` where one has none."""
    own, shipped = ({key: _text(value) for key, value in flat(each).items()} for each in (params, defaults))
    keys = [*own, *(key for key in shipped if key not in own)]
    return [
        {"key": key, "value": own.get(key, ""), "default": shipped.get(key, "")}
        for key in keys
        if own.get(key) != shipped.get(key)
    ]


def _text(value: Any) -> str:
    """A value as params.yaml has it."""
    return value if isinstance(value, str) else json.dumps(value, default=str)
