"""Measure a model on the test split, and its pseudo-labels where the pool's true labels are known.

Reads   the model's folder, the test split, the data report; for a student its pseudo-labels and the pool's truth
Writes  a folder: results.json and predictions.csv (id, actual, predicted)
Params  runtime
"""

from pathlib import Path

import numpy as np

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import read_json, write_json
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.history import save_predictions
from noisy_student.evaluation.results import accuracy_sentence, evaluation, pseudo_label_figures
from noisy_student.models.classifier import load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.prediction import predict_split
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import read_split, read_truth


@command
def main(
    *,
    model: Path,
    test: Path,
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
        result = evaluation(logits, split.labels, description)
        result |= {key: read_json(report)[key] for key in ("training_labels", "held_out_labels")}
        if control_of:
            result |= dict(zip(("kind", "of"), control_of, strict=True))
        if distilled_from:
            result["teacher"] = distilled_from
        if pseudo_labels and pool_truth:
            kept = read_pseudo_labels(pseudo_labels)
            result |= pseudo_label_figures(kept.rows, kept.labels, read_truth(pool_truth))

        print(accuracy_sentence(result), flush=True)
        write_json(out / "results.json", result)
        save_predictions(out, split, logits.argmax(axis=1))


if __name__ == "__main__":
    main()
