"""Measure a model on the test split and predict the held-out ones; measure pseudo-labels where the truth is known.

Reads   the model's folder, the test split, the held-out splits calibration and validation, the data report; for a
        student its pseudo-labels and the pool's truth
Writes  a folder: results.json; predictions.csv and held_out.csv (id, actual, predicted, calibrated confidence);
        mistakes.parquet (the same of test images that the model is wrong on, with pictures)
Params  runtime
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import digest, read_json
from noisy_student.core.metrics import fit_temperature, softmax
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.history import EvaluationResult, predictions_on, save_result
from noisy_student.evaluation.mistakes import mistakes
from noisy_student.evaluation.results import accuracy_sentence, evaluation, pseudo_label_figures
from noisy_student.models.checkpoint import WEIGHTS
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.prediction import predict, predict_split
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import Split, read_split, read_truth


@command
def main(
    *,
    model: Path,
    test: Path,
    calibration: Path,
    validation: Path,
    report: Path,
    pseudo_labels: Path | None = None,
    pool_truth: Path | None = None,
    control_of: tuple[str, str] | None = None,
    distilled_from: str | None = None,
    out: Path,
) -> None:
    params = ParamsFile()
    runtime = params.section("runtime", RuntimeParams)
    inputs = {
        "model": model,
        "test": test,
        "calibration": calibration,
        "validation": validation,
        "report": report,
        "pseudo_labels": pseudo_labels,
        "pool_truth": pool_truth,
    }
    with guarded(__file__, params, inputs):
        classifier, description = load_classifier(model, setup(runtime))
        split, title = read_split(test), f"{description['name']} on the test split"
        logits = np.concatenate(
            [predictions.logits for _, predictions in predict_split(classifier, split, runtime, title)]
        )
        held_out = [predicted(classifier, each, runtime) for each in (calibration, validation)]
        temperature = fit_temperature(held_out[0].logits, held_out[0].split.labels)
        result = evaluation(logits, split.labels, description, temperature)
        result |= {key: read_json(report)[key] for key in ("training_labels", "held_out_labels")}
        result |= {"folder": model.as_posix(), "weights_sha256": digest(model / WEIGHTS)}
        if control_of:
            result |= dict(zip(("kind", "of"), control_of, strict=True))
        if distilled_from:
            result["teacher"] = distilled_from
        if pseudo_labels and pool_truth:
            kept = read_pseudo_labels(pseudo_labels)
            result |= pseudo_label_figures(kept.rows, kept.labels, read_truth(pool_truth))

        print(accuracy_sentence(result), flush=True)
        probabilities = softmax(logits, temperature)
        tables = [predictions_on(each.split, softmax(each.logits, temperature)) for each in held_out]
        found = EvaluationResult(result, predictions_on(split, probabilities), pd.concat(tables))
        save_result(out, found, mistakes(split, probabilities))


class Predicted(NamedTuple):
    """A split of N images, K classes, and what a model says of it."""

    split: Split
    logits: np.ndarray  # float32 (N,K)


def predicted(classifier: Classifier, folder: Path, runtime: RuntimeParams) -> Predicted:
    """The model's predictions of all images of the split in `folder`."""
    split = read_split(folder)
    return Predicted(split, predict(classifier, split.selection(), runtime).logits)


if __name__ == "__main__":
    main()
