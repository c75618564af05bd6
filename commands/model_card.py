"""A model card in the layout of Hugging Face, from the run's own figures. Pure, but for reading results."""

from pathlib import Path
from typing import Any

import yaml

from noisy_student.core.files import read_json
from noisy_student.core.markdown import escaped, markdown_table

RESULTS = Path("metrics")


def results_of(weights_sha256: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """The results of the model with those weights, if it was evaluated here."""
    for file in sorted(folder.glob("*/*/results.json")):
        figures = read_json(file)
        if figures.get("weights_sha256") == weights_sha256:
            return figures
    return None


def model_card(description: dict[str, Any], figures: dict[str, Any] | None) -> str:
    """The card of an exported model, whose model.json is `description`; `figures` are its results on the test split."""
    labels, classes = description["labels"], description["classes"]
    parts = [
        f"---\n{yaml.safe_dump(front_matter(description, figures), sort_keys=False, allow_unicode=True)}---",
        f"# {description['name']}",
        f"An image classifier of {len(classes)} classes, with {description['parameters']:,} parameters, trained on "
        f"{labels['training']:,} labeled images{_pool(figures)}",
        f"Its classes are {', '.join(map(escaped, classes))}.",
        "## Use",
        "    noisy-student predict PHOTOS labels.csv --model FOLDER",
        "In Python, images are uint8 of shape (N,H,W,C), of any size:",
        "    import json, onnxruntime\n"
        '    classes = json.load(open("model.json"))["classes"]\n'
        '    session = onnxruntime.InferenceSession("model.onnx")\n'
        '    (probabilities,) = session.run(None, {"images": images})',
        "## Accuracy",
        *accuracy(figures),
        "## Limits",
        "It knows these classes alone, and gives one of them to every image, whatever it shows. Its accuracy is "
        "that on images like those that it was trained on.",
    ]
    return "\n\n".join(parts) + "\n"


def _pool(figures: dict[str, Any] | None) -> str:
    """The end of a sentence: whether the model learned from a pool, too."""
    if figures and "kept_fraction" in figures:
        return " and on a pool of unlabeled ones, by self-training with noisy students (Xie et al. 2019)."
    if figures and "teacher" in figures:
        return f", and distilled from {escaped(figures['teacher'])}."
    return "."


def front_matter(description: dict[str, Any], figures: dict[str, Any] | None) -> dict[str, Any]:
    """What Hugging Face reads."""
    found: dict[str, Any] = {"library_name": "onnx", "pipeline_tag": "image-classification"}
    found["tags"] = ["noisy-student"]
    if figures:
        metric = {"type": "accuracy", "value": round(figures["accuracy"], 4)}
        task = {"type": "image-classification"}
        data = {"name": "test split", "type": "own"}
        result = {"task": task, "dataset": data, "metrics": [metric]}
        found["model-index"] = [{"name": description["name"], "results": [result]}]
    return found


def accuracy(figures: dict[str, Any] | None) -> list[str]:
    """Sentences and a table of the accuracy on the test split."""
    if not figures:
        return ["It was not evaluated."]
    low, high = 100 * figures["accuracy_low"], 100 * figures["accuracy_high"]
    whole = f"{100 * figures['accuracy']:.1f} % of {figures['test_images']:,} test images"
    by_class = [
        [escaped(name), "" if share is None else f"{100 * share:.1f}"]
        for name, share in figures["accuracy_by_class"].items()
    ]
    return [
        f"{whole} (95 % interval {low:.1f} to {high:.1f}); expected calibration error {figures['ece']:.3f}.",
        markdown_table(["class", "accuracy, %"], by_class),
    ]
