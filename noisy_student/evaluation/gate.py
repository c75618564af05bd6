"""The gate: which model to deploy, going by held-out labels. Pure functions.

The held-out labels are those of calibration and validation. No model is trained on them, but the temperature and the
threshold of pseudo-labels go by those of calibration. N images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.errors import UserError
from noisy_student.core.files import REMEDY
from noisy_student.core.metrics import Z95, paired_gain
from noisy_student.evaluation.history import EvaluationResult, History

LEAST_LEAD = 0.01  # that a number of labels is named for
Z80 = 0.8416212335729143  # 80 % quantile of the normal distribution: how often so many labels show such a lead


@dataclass(frozen=True)
class Candidate:
    """A model that may be deployed."""

    name: str
    folder: str  # of its weights, inside the project
    sha256: str  # of the file of weights
    parameters: int
    right: np.ndarray  # bool (N,), on which held-out images


def candidates(
    history: History, controls: Mapping[str, EvaluationResult], distilled: Mapping[str, EvaluationResult]
) -> list[Candidate]:
    """The iterations, the control on labels alone and what iterations were distilled into, the smallest first.

    `controls` by kind, `distilled` by name. Of models of one size, those without the pool come first, then the earlier
    iterations. Raises `UserError` where one was evaluated on other held-out images.
    """
    ids, actual = history.held_out["id"], history.held_out["actual"]
    first, *later = (
        _candidate(row, (history.held_out[row["iteration"]] == actual).to_numpy(), row["iteration"])
        for row in history.rows.to_dict("records")
    )
    control = [each for kind, each in controls.items() if kind == "supervised"]
    iterations = set(history.rows["iteration"])
    small = [each for each in distilled.values() if each.figures["teacher"] in iterations]
    alone, taught = ([_candidate(each.figures, right_on(each, ids)) for each in some] for some in (control, small))
    return sorted([first, *alone, *later, *taught], key=lambda each: each.parameters)


def _candidate(figures: dict[str, Any], right: np.ndarray, name: str | None = None) -> Candidate:
    parameters = int(figures["parameters"])
    return Candidate(name or figures["name"], figures["folder"], figures["weights_sha256"], parameters, right)


def right_on(result: EvaluationResult, ids: pd.Series) -> np.ndarray:
    """Which of the held-out images called `ids` (N,) a model is right on, bool (N,)."""
    found = result.held_out.set_index("id")
    if not found.index.is_unique or set(found.index) != set(ids):
        raise UserError(f"{result.figures['name']} was evaluated on other held-out images; {REMEDY}")
    found = found.loc[ids]
    return (found["predicted"] == found["actual"]).to_numpy()


def gate(models: list[Candidate]) -> dict[str, Any]:
    """Which of the `models`, the smallest one first, to deploy, as the summary has it.

    A larger model takes the place of a smaller one where it is shown to be better: where the 95 % interval of the
    paired gain on the held-out images lies above 0. Where none is, the smallest is named, and the choice is `decided`
    only if no other is right more often. Beside the named model stands the one that it is compared with: the smallest,
    or, if that is named, the one that is right most often.
    """
    named = smallest = models[0]
    for each in models[1:]:
        if paired_gain(each.right, named.right)[1] > 0:
            named = each
    other = max(models, key=lambda each: each.right.mean()) if named is smallest else smallest
    better, worse = (other, named) if named is smallest else (named, other)
    figures = {
        "name": named.name,
        "folder": named.folder,
        "weights_sha256": named.sha256,
        "held_out_labels": len(named.right),
        "accuracy": float(named.right.mean()),
        "decided": named is not smallest or other is smallest,
    }
    if better is not worse:
        gain, low, high = paired_gain(better.right, worse.right)
        figures |= {"compared_with": other.name, "lead": gain, "lead_low": low, "lead_high": high}
        figures["more_labels"] = more_labels(better.right, worse.right)
    return figures


def leads(models: list[Candidate], name: str) -> list[dict[str, Any]]:
    """Each of the `models` on held-out images: name, accuracy, and how far the one of that `name` leads it, with the
    ends of the 95 % interval: lead, lead_low, lead_high. The named one leads nothing.
    """
    named = next(each for each in models if each.name == name)
    found = []
    for each in models:
        gain = dict(zip(("lead", "lead_low", "lead_high"), paired_gain(named.right, each.right), strict=True))
        found.append({"name": each.name, "accuracy": float(each.right.mean()), **({} if each is named else gain)})
    return found


def more_labels(right: np.ndarray, other: np.ndarray) -> int:
    """How many more held-out labels show a lead as large as on these N, four times in five; at least LEAST_LEAD."""
    difference = right.astype(np.float64) - other
    spread = difference.std(ddof=1) if len(difference) > 1 else 1.0
    lead = max(float(difference.mean()), LEAST_LEAD)
    return max(0, math.ceil(((Z95 + Z80) * spread / lead) ** 2) - len(difference))


def sentence(deploy: dict[str, Any]) -> str:
    """What a person is told of the choice of `gate`."""
    name, labels = deploy["name"], f"{deploy['held_out_labels']:,} held-out labels"
    if "lead" not in deploy:
        return f"Deploy {deploy['folder']}, the smallest: no other is right more often on {labels}."
    low, high = 100 * deploy["lead_low"], 100 * deploy["lead_high"]
    points = f"{100 * deploy['lead']:.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if deploy["decided"]:
        return f"Deploy {deploy['folder']}: on {labels} it leads {deploy['compared_with']} by {points}."
    lead = f"on {labels} {deploy['compared_with']} leads {name}, the smallest, by {points}"
    return f"Which model to deploy is undecided: {lead}. {_remedy(deploy)}"


def _remedy(deploy: dict[str, Any]) -> str:
    """How many labels would tell more."""
    such = "such a lead" if deploy["lead"] >= LEAST_LEAD else "a lead of a point"
    if not deploy["more_labels"]:
        return f"The lead is too small to matter: {such} would have been shown."
    return f"About {deploy['more_labels']:,} more would show {such}."
