"""What more labels, a larger pool or another iteration may bring, going by held-out labels. Pure functions.

Learning curves are taken to be power laws: each doubling of the labels or of the pool divides the error by the same
factor (Hestness et al. 2017, "Deep Learning Scaling is Predictable, Empirically", arXiv 1712.00409). The factor is that
of the last doubling, from a control with half of them. Iterations are taken to go on in the same way.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from noisy_student.core.metrics import RESAMPLES
from noisy_student.core.randomness import generator
from noisy_student.evaluation.gate import right_on
from noisy_student.evaluation.history import EvaluationResult, History

NAMES = {
    "iteration": "another iteration",
    "labels": "twice the labels, without the pool,",
    "pool": "twice the pool",
}


def outlook(history: History, iteration: str, controls: Mapping[str, EvaluationResult]) -> dict[str, Any]:
    """For the summary of `iteration`, the last of `history`: gains in accuracy by name of NAMES, each with the ends of
    its 95 % interval: gain, low, high. What no run tells is left out.

    `controls` are those of the iteration, by kind. Raises `UserError` where one was evaluated on other held-out images.
    """
    held_out, teacher = history.held_out, history.rows.iloc[-1]["teacher"]
    right = {name: (held_out[name] == held_out["actual"]).to_numpy() for name in history.rows["iteration"]}
    of_kind = {kind: right_on(result, held_out["id"]) for kind, result in controls.items()}
    steps = {
        "iteration": (None if pd.isna(teacher) else right[teacher], right[iteration]),
        "labels": (of_kind.get("half_labels"), of_kind.get("supervised")),
        "pool": (of_kind.get("half_pool"), right[iteration]),
    }
    found = {
        name: dict(zip(("gain", "low", "high"), next_gain(before, after), strict=True))
        for name, (before, after) in steps.items()
        if before is not None and after is not None
    }
    return {"held_out_labels": len(held_out), **found} if found else {}


def next_gain(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """The gain in accuracy of a step that divides the error as the last one did, and its 95 % bootstrap interval.

    `before` and `after` bool (N,) say which images were right before and after the last step. Half an image is added to
    each way in which the two can be right and wrong together, as in `paired_gain`, so that few images that show no
    difference, or no error, do not count as a proof of none.
    """
    outcomes, images = np.bincount(2 * ~before + ~after, minlength=4), len(after)
    drawn = generator(0, "bootstrap of the outlook").multinomial(images, (outcomes + 0.5) / (images + 2), RESAMPLES)
    counts = np.vstack([outcomes, drawn]) + 0.5  # right in both, wrong after, wrong before, wrong in both
    errors = (counts[:, 1] + counts[:, 3]) / (images + 2)
    errors_before = (counts[:, 2] + counts[:, 3]) / (images + 2)
    gains = errors - np.minimum(errors**2 / errors_before, 1)
    low, high = np.quantile(gains[1:], (0.025, 0.975))
    return float(gains[0]), float(low), float(high)


def sentence(found: Mapping[str, Any]) -> str:
    """What a person is told of an `outlook` that is not empty."""
    gains = [f"{words} may bring {_points(found[name])}" for name, words in NAMES.items() if name in found]
    return f"By {found['held_out_labels']:,} held-out labels, {'; '.join(gains)}."


def _points(gain: Mapping[str, float]) -> str:
    low, high = 100 * gain["low"], 100 * gain["high"]
    return f"{100 * gain['gain']:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
