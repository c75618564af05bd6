"""What models came to on corrupted and on adversarial images, and how they compare."""

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from noisy_student.core.config import ParamsModel


class RobustnessParams(ParamsModel):
    """What a model is put to."""

    corruptions: bool = True
    attacks: bool = True
    images: int = Field(default=1000, ge=1, le=10**6)  # of the test split, at most, evenly from all of it
    # of a pixel by an attack, at most, in levels of 255
    changes: list[Annotated[float, Field(gt=0, le=255)]] = Field(default=[1, 2, 4, 8], min_length=1)


def mean_corruption_error(found: Mapping[str, list[float]], reference: Mapping[str, list[float]]) -> float | None:
    """The mean over corruptions of the error relative to that of a `reference`, each summed over the severities
    (Hendrycks and Dietterich 2019, section 3.3).

    Both have accuracies by corruption and severity. It is 1 where they are equal. Corruptions on which the reference
    makes no error are left out; None where there is no other.
    """
    errors = [[sum(1 - value for value in each[name]) for each in (found, reference)] for name in found]
    ratios = [own / other for own, other in errors if other > 0]
    return float(np.mean(ratios)) if ratios else None


def summary(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What each model of `results` came to, by its name.

    images, clean (accuracy), by_severity (means over the common corruptions; [] where nothing was corrupted),
    mean_corruption_error (relative to the first model; None without), attacks (as measured).
    """
    first = next(iter(results.values()))["corruptions"]
    found = []
    for name, result in results.items():
        common = result["corruptions"]
        error = mean_corruption_error(common, first) if common and first else None
        by_severity = np.mean(list(common.values()), axis=0).tolist() if common else []
        more = {"by_severity": by_severity, "mean_corruption_error": error, "attacks": result["attacks"]}
        found.append({"name": name, "images": result["images"], "clean": result["clean"], **more})
    return found
