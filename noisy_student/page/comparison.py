"""Two revisions of a run beside each other. Pure functions. N test images that both have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.metrics import paired_gain
from noisy_student.evaluation import gate
from noisy_student.evaluation.results import verdict
from noisy_student.page.contents import differences, picture_list

FIGURES = (  # of a summary that are compared, and whether they are shares
    ("training_labels", False),
    ("held_out_labels", False),
    ("parameters", False),
    ("accuracy", True),
    ("balanced_accuracy", True),
    ("macro_f1", True),
    ("nll", False),
    ("ece", False),
    ("ece_calibrated", False),
    ("kept_fraction", True),
    ("pseudo_label_precision", True),
    ("gain_over_control", True),
)


@dataclass(frozen=True)
class Revision:
    """What a revision of the project holds of its run."""

    name: str
    summary: dict[str, Any]
    predictions: pd.DataFrame  # id, actual, predicted of each test image, by the current iteration
    mistakes: pd.DataFrame  # id, actual, predicted, confidence, picture
    params: dict[str, Any]


def compared(before: Revision, after: Revision) -> dict[str, Any]:
    """The values of the template of a comparison, by name."""
    both = before.predictions.merge(after.predictions, on=["id", "actual"], suffixes=("_before", "_after"))
    same_images = len(both) == len(before.predictions) == len(after.predictions)
    return {
        "before": before.name,
        "after": after.name,
        "revisions": [said(each) for each in (before, after)],
        "figures": figure_rows(before.summary, after.summary, same_images),
        "parameters": [[row["key"], row["default"], row["value"]] for row in differences(after.params, before.params)],
        **(on_same_images(before, after, both) if same_images else on_other_images(before, after)),
    }


def on_other_images(before: Revision, after: Revision) -> dict[str, Any]:
    """The answer where the test images differ."""
    names = f"{before.name} and {after.name}"
    return {"answer": f"{names} have different test images, so their accuracies cannot be compared.", "flips": []}


def on_same_images(before: Revision, after: Revision, both: pd.DataFrame) -> dict[str, Any]:
    """The answer, and the images that only one revision is right on; `both` has the predictions of the two."""
    was_right, is_right = ((both[f"predicted_{end}"] == both["actual"]).to_numpy() for end in ("before", "after"))
    return {
        "answer": answer(before.name, after.name, was_right, is_right),
        "flips": [
            flips(f"Mended by {after.name}", both[is_right & ~was_right], before.mistakes),
            flips(f"Spoiled by {after.name}", both[was_right & ~is_right], after.mistakes),
        ],
    }


def answer(before: str, after: str, was_right: np.ndarray, is_right: np.ndarray) -> str:
    """One sentence: which revision is better, going by the paired interval on N test images; bool (N,) says which each
    is right on."""
    gain, low, high = (100 * figure for figure in paired_gain(is_right, was_right))
    figures = f"{gain:+.2f} points on {len(is_right):,} test images (95 % interval {low:+.2f} to {high:+.2f})"
    if low > 0:
        return f"{after} is better than {before}: {figures}."
    if high < 0:
        return f"{after} is worse than {before}: {figures}."
    return f"It is unclear whether {after} is better than {before}: {figures}."


def said(revision: Revision) -> dict[str, str]:
    """What a revision says of itself."""
    summary = revision.summary
    deploy = gate.sentence(summary["deploy"]) if "deploy" in summary else ""
    return {"name": revision.name, "iteration": summary["iteration"], "verdict": verdict(summary), "deploy": deploy}


def figure_rows(before: dict[str, Any], after: dict[str, Any], same_images: bool) -> list[list[str]]:
    """Figures that one of two summaries has: name, before, after, and where both saw the same images the difference."""
    rows = []
    for name, is_share in FIGURES:
        was, now = before.get(name), after.get(name)
        if was is not None or now is not None:
            change = None if was is None or now is None or not same_images else now - was
            difference = _shown(change, is_share, "+").replace(" %", " points")
            rows.append([name, _shown(was, is_share), _shown(now, is_share), difference])
    return rows


def flips(title: str, images: pd.DataFrame, mistakes: pd.DataFrame) -> dict[str, Any]:
    """The test `images` of one kind of flip, with the pictures that the table of mistakes has of them."""
    shown = images.merge(mistakes[["id", "picture"]], on="id")
    return {"title": title, "count": len(images), "pictures": picture_list(shown)}


def _shown(value: float | None, is_share: bool, sign: str = "") -> str:
    if value is None:
        return ""
    if is_share:
        return f"{100 * value:{sign}.2f} %"
    return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign}.4f}"
