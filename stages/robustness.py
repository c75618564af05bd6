"""Measure a model on corrupted and on adversarial test images.

Reads   the model's folder, the test split
Writes  a JSON: accuracy on clean images, by corruption and severity, by attack and its largest change
Params  runtime, robustness.<model>
"""

from pathlib import Path
from typing import Any

import numpy as np

from noisy_student.core.command_line import command
from noisy_student.core.config import ParamsFile
from noisy_student.core.files import write_json
from noisy_student.core.metrics import accuracy
from noisy_student.core.progress import meter
from noisy_student.core.workspace import guarded
from noisy_student.evaluation.attacks import ATTACKS
from noisy_student.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from noisy_student.evaluation.robustness import RobustnessParams
from noisy_student.evaluation.stress import accuracies_when_attacked, accuracies_when_corrupted, corruptions_of
from noisy_student.models.classifier import load_classifier
from noisy_student.models.device import RuntimeParams, setup, translate_torch_errors
from noisy_student.models.prediction import predict_logits
from noisy_student.store.splits import read_split


@command
def main(*, name: str, model: Path, test: Path, out: Path) -> None:
    params = ParamsFile()
    runtime, wanted = params.section("runtime", RuntimeParams), params.section(f"robustness.{name}", RobustnessParams)
    with guarded(__file__, params, {"model": model, "test": test}), translate_torch_errors("take a smaller model"):
        device = setup(runtime)
        classifier, _ = load_classifier(model, device)
        split = read_split(test)
        rows = np.unique(np.linspace(0, len(split) - 1, min(wanted.images, len(split))).astype(int))
        images, labels = split.images(rows), split.labels[rows]
        clean = accuracy(predict_logits(classifier, images, runtime).argmax(1), labels)
        found: dict[str, Any] = {"images": len(images), "clean": clean}
        found |= {"corruptions": {}, "extra_corruptions": {}, "attacks": {}}
        if wanted.corruptions:
            times = len(corruptions_of(split.channels)) * len(SEVERITIES)
            with meter(f"{name}, corrupted images", times * len(images)) as progress:
                for kind, each in accuracies_when_corrupted(classifier, images, labels, runtime, progress).items():
                    found["extra_corruptions" if CORRUPTIONS[kind].extra else "corruptions"][kind] = each
        if wanted.attacks:
            times = len(ATTACKS) * len(wanted.changes)
            with meter(f"{name}, adversarial images", times * len(images)) as progress:
                fresh, _ = load_classifier(model, device)  # one that has predicted has no gradients
                found["attacks"] = accuracies_when_attacked(fresh, images, labels, wanted.changes, progress)
        write_json(out, found)


if __name__ == "__main__":
    main()
