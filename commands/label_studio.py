"""Label pool images in Label Studio: python -m commands.label_studio TASKS.json [--images 48]

Writes the pool images whose label would teach most as tasks for Label Studio, with the model's guesses, and beside them
the labeling interface, TASKS.xml. What Label Studio exports as JSON, or JSON-MIN, goes into corrections.csv:

    python -m commands.label_studio --take EXPORT.json

The formats are those of labelstud.io/guide/tasks and labelstud.io/guide/export.
"""

import json
from argparse import ArgumentParser
from collections.abc import Collection
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from commands.label import CORRECTIONS, Corrections, pictures
from commands.label_next import ToLabel, check_count, to_label
from noisy_student.core.errors import UserError, cli_main, did_you_mean
from noisy_student.core.files import write_bytes, write_json
from noisy_student.store.splits import read_split

IMAGE, LABEL, ID = "image", "label", "image_id"  # names in tasks and in the interface; `id` is Label Studio's own


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", type=Path, nargs="?", help="a file to write for Label Studio")
    parser.add_argument("--take", type=Path, metavar="EXPORT", help="take the labels that Label Studio exported")
    parser.add_argument("--images", type=int, default=48, help="how many to write")
    parser.add_argument("--model", type=Path, help="a model's folder; none: the one to deploy, or that of `current`")
    parser.add_argument("--pool", type=Path, default=Path("data/pool"), help="the split to choose images from")
    args = parser.parse_args(argv)
    if (args.tasks is None) == (args.take is None):
        raise UserError("name either a file of tasks to write, or with --take a file that Label Studio exported")
    check_count(args.images)

    corrections = Corrections(CORRECTIONS)
    if args.take:
        pool, known = read_split(args.pool), corrections.labels()
        labels = exported(args.take, pool.classes, {*pool.ids, *known})  # those of an earlier export left the pool
        corrections.add(labels)
        new = sum(known.get(name) != label for name, label in labels.items())
        print(f"{new:,} new labels of {len(labels):,} are in {CORRECTIONS}; `make repro` trains with them")
        return
    interface_file = args.tasks.with_suffix(".xml")
    if args.tasks.suffix != ".json":
        raise UserError(f"the file of tasks was {args.tasks}; give it a name that ends in .json")
    for file in (args.tasks, interface_file):
        if file.exists():
            raise UserError(f"{file} is there; name another file")
    shown = to_label(args.model, args.pool, args.images, corrections.labels())
    write_json(args.tasks, tasks(shown))
    write_bytes(interface_file, interface(shown.classes).encode())
    print(
        f"{len(shown.table):,} images are in {args.tasks}; create a project with the interface in {interface_file}, "
        "and import them there"
    )


def tasks(shown: ToLabel) -> list[dict[str, Any]]:
    """A task for each image, which holds its picture, with the model's guess as a prediction."""
    return [
        {
            "data": {IMAGE: image["picture"], ID: image["id"]},
            "predictions": [_prediction(image["guess"], float(image["confidence"]))],
        }
        for image in pictures(shown)
    ]


def _prediction(guess: str, confidence: float) -> dict[str, Any]:
    choice = {"from_name": LABEL, "to_name": IMAGE, "type": "choices", "value": {"choices": [guess]}}
    return {"model_version": "noisy-student", "score": confidence, "result": [choice]}


def interface(classes: list[str]) -> str:
    """The labeling interface of a project: an image and the classes, of which one is chosen, the first ten by a key."""
    keys = [f' hotkey="{(number + 1) % 10}"' if number < 10 else "" for number in range(len(classes))]
    choices = [f"    <Choice value={quoteattr(name)}{key}/>" for name, key in zip(classes, keys, strict=True)]
    lines = [
        "<View>",
        f'  <Image name="{IMAGE}" value="${IMAGE}"/>',
        f'  <Choices name="{LABEL}" toName="{IMAGE}" choice="single" showInLine="true">',
        *choices,
        "  </Choices>",
        "</View>",
    ]
    return "\n".join(lines) + "\n"


def exported(path: Path, classes: list[str], ids: Collection[str]) -> dict[str, str]:
    """The label of each image by its id, as Label Studio exported them to the file at `path`.

    Tasks without a label, which were skipped, are left out. Raises `UserError` for a file of another kind, an image
    that is none of `ids`, a label that is none of the `classes`, and an image with two labels.
    """
    found: dict[str, str] = {}
    for task in _tasks(path):
        try:
            name = str(task["data"][ID] if "data" in task else task[ID])
            given = _labels(task)
        except (KeyError, TypeError, IndexError, AttributeError):
            raise UserError(
                f"{path} is no export of these tasks; in Label Studio, export as JSON or JSON-MIN"
            ) from None
        if name not in ids:
            raise UserError(f"{path} labels {name!r}, which is no image of the pool; export the project of its tasks")
        for label in given:
            if label not in classes:
                raise UserError(
                    f"{path} gives {name!r} the label {label!r}, which is no class; {did_you_mean(label, classes)}"
                )
            if found.setdefault(name, label) != label:
                raise UserError(
                    f"{path} gives {name!r} two labels, {found[name]} and {label}; keep one in Label Studio"
                )
    return found


def _tasks(path: Path) -> list[Any]:
    """The tasks in the file at `path`."""
    if not path.is_file():
        raise UserError(f"there is no file {path}; export the project from Label Studio")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, list):
        raise UserError(f"{path} is no export of Label Studio; export as JSON or JSON-MIN")
    return value


def _labels(task: dict[str, Any]) -> list[str]:
    """The labels that people gave in a task of either format."""
    if "data" not in task:  # JSON-MIN
        return [str(task[LABEL])] if LABEL in task else []
    return [
        str(result["value"]["choices"][0])
        for annotation in task["annotations"]
        if not annotation.get("was_cancelled")
        for result in annotation["result"]
        if result["from_name"] == LABEL
    ]


if __name__ == "__main__":
    main()
