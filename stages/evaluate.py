"""Measure a model on the test split, and the pseudo-labels that it was taught, where the pool's truth is known.

Reads   the model's folder, the test split, the data report; for a student its pseudo-labels and the pool's truth
Writes  a folder: results.json and predictions.csv (id, actual, predicted)
Params  runtime
"""

from argparse import ArgumentParser
from pathlib import Path

import numpy as np

from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import cli_main
from noisy_student.core.files import read_json, write_json
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.history import save_predictions
from noisy_student.evaluation.results import evaluation, pseudo_label_figures
from noisy_student.models.classifier import load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.prediction import predict_split
from noisy_student.store.pseudo_labels import read_pseudo_labels
from noisy_student.store.splits import read_split, read_truth


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--pseudo-labels", type=Path)
    parser.add_argument("--pool-truth", type=Path)
    parser.add_argument("--control-of", nargs=2, metavar=("KIND", "ITERATION"), help="what a control is of")
    parser.add_argument("--distilled-from", metavar="ITERATION", help="whose model was taught into this one")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)

    params = ParamsFile()
    runtime = params.section("runtime", RuntimeParams)
    inputs = {
        "model": args.model,
        "test": args.test,
        "report": args.report,
        "pseudo_labels": args.pseudo_labels,
        "pool_truth": args.pool_truth,
    }
    with guarded(__file__, params, inputs):
        classifier, description = load_classifier(args.model, setup(runtime))
        test, title = read_split(args.test), f"{description['name']} on the test split"
        logits = np.concatenate([seen.logits for _, seen in predict_split(classifier, test, runtime, title)])
        result = evaluation(logits, test.labels, description)
        result |= {key: read_json(args.report)[key] for key in ("training_labels", "held_out_labels")}
        if args.control_of:
            result |= dict(zip(("kind", "of"), args.control_of, strict=True))
        if args.distilled_from:
            result["teacher"] = args.distilled_from
        if args.pseudo_labels:
            pseudo_labels = read_pseudo_labels(args.pseudo_labels)
            result |= pseudo_label_figures(pseudo_labels.rows, pseudo_labels.labels, read_truth(args.pool_truth))

        write_json(args.out / "results.json", result)
        save_predictions(args.out, test, logits.argmax(axis=1))


if __name__ == "__main__":
    main()
