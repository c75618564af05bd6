"""The gate: which model to deploy, going by held-out labels. Pure functions.

The held-out labels are those of calibration and validation, which no model is trained on. N images.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.metrics import Z95, paired_gain
from noisy_student.evaluation.history import History, Measured

MODELS = Path("models")  # where dvc.yaml keeps them
LEAST_GAIN = 0.01  # that more labels are asked for


@dataclass(frozen=True)
class Candidate:
    """A model that may be deployed."""

    name: str
    folder: str  # of its weights, inside the project
    parameters: int
    right: np.ndarray  # bool (N,), on which held-out images


def candidates(
    history: History, controls: Mapping[str, Measured], distilled: Mapping[str, Measured]
) -> list[Candidate]:
    """The iterations, the control on labels alone and the distilled models, the smallest one first.

    `controls` by kind, `distilled` by name. Of models of one size, those without the pool come first, then the earlier
    iterations.
    """
    held_out = history.held_out.set_index("id")
    actual = held_out["actual"]

    def candidate(name: str, folder: Path, parameters: int, predicted: pd.Series) -> Candidate:
        return Candidate(name, folder.as_posix(), parameters, (predicted.reindex(actual.index) == actual).to_numpy())

    def measured(name: str, folder: Path, of: Measured) -> Candidate:
        return candidate(name, folder, of.figures["parameters"], of.held_out.set_index("id")["predicted"])

    first, *later = (
        candidate(name, MODELS / name, int(parameters), held_out[name])
        for name, parameters in zip(history.rows["iteration"], history.rows["parameters"], strict=True)
    )
    control = [(each.figures["name"], each) for kind, each in controls.items() if kind == "supervised"]
    alone = [first, *(measured(name, MODELS / name, each) for name, each in control)]
    small = [measured(name, MODELS / "distilled" / name, each) for name, each in distilled.items()]
    return sorted([*alone, *later, *small], key=lambda each: each.parameters)


def gate(models: list[Candidate]) -> dict[str, Any]:
    """Which of the `models`, the smallest one first, to deploy, as the summary has it.

    A larger model takes the place of a smaller one where it is shown to be better: where the 95 % interval of the
    paired difference on the held-out images lies above 0. Beside the chosen model stands the one that it is compared
    with: the smallest, or, if that is chosen, the one that is right most often.
    """
    chosen = smallest = models[0]
    for each in models[1:]:
        if paired_gain(each.right, chosen.right)[1] > 0:
            chosen = each
    other = smallest if chosen is not smallest else max(models, key=lambda each: each.right.mean())
    better, worse = (chosen, other) if chosen is not smallest else (other, chosen)
    gain, low, high = paired_gain(better.right, worse.right)
    figures = {
        "name": chosen.name,
        "folder": chosen.folder,
        "held_out_labels": len(chosen.right),
        "accuracy": float(chosen.right.mean()),
        "shown": chosen is not smallest,
    }
    if better is not worse:
        figures |= {"compared_with": other.name, "gain": gain, "gain_low": low, "gain_high": high}
        figures["more_labels"] = more_labels(better.right, worse.right)
    return figures


def more_labels(right: np.ndarray, other: np.ndarray) -> int:
    """How many more held-out labels would show a gain as large as it is on these N, or a point where it is smaller."""
    difference = right.astype(np.float64) - other
    gain = max(float(difference.mean()), LEAST_GAIN)
    return max(0, math.ceil((Z95 * difference.std() / gain) ** 2) - len(difference))


def sentence(deploy: dict[str, Any]) -> str:
    """What a person is told of the choice of `gate`."""
    name, labels = deploy["name"], f"{deploy['held_out_labels']:,} held-out labels"
    if "gain" not in deploy:
        return f"Deploy {deploy['folder']}: no larger model is right more often on {labels}."
    low, high = 100 * deploy["gain_low"], 100 * deploy["gain_high"]
    points = f"{100 * deploy['gain']:.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if deploy["shown"]:
        return f"Deploy {deploy['folder']}: on {labels} it leads {deploy['compared_with']} by {points}."
    lead = f"{deploy['compared_with']} leads {name} by {points}, which {labels} do not show to be more than chance"
    return f"Deploy {deploy['folder']}, the smallest: {lead}; about {deploy['more_labels']:,} more would."
