"""The classifiers that anyone asks for, on the labels of the default run: accuracy, size, time.

    python -m benchmarks.baselines            # all of them
    python -m benchmarks.baselines cnn_8      # one of them

Nearest neighbors, on pixels and on the features of iter0, and nets trained as iter0 is, each at its own learning rate
(`choose_baselines` in benchmarks/studies.yaml; vgg11 at alexnet's). Beside them stands what the study `distillation`
has: the small model trained alone on labels, and the one that the last student was taught into. Writes
benchmarks/studies/baselines.csv, going on where it stopped, baselines.md, and how neighbors scale with their number,
neighbours.csv; and puts into the tables of the two studies of distillation how many images a second each model labels.

N images, D numbers an image.
"""

import copy
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.processes import ROOT
from benchmarks.studies_table import markdown as study_markdown
from benchmarks.study import RESULTS, STUDIES, fingerprint, run_commands
from commands.docs import percent
from noisy_student.core.config import changed, validated
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, read_json, write_bytes, write_csv
from noisy_student.models.classifier import Classifier, load_classifier, new_classifier
from noisy_student.models.device import RuntimeParams
from noisy_student.models.features import features_of
from noisy_student.models.prediction import predict
from noisy_student.models.registry import build
from noisy_student.pretraining import PretrainingParams, labeled_images
from noisy_student.store.splits import Split, read_split

SEEDS = (0, 1, 2)
NETS: dict[str, dict[str, Any]] = {  # by name: what is other than iter0's
    "cnn_16": {},
    "cnn_8": {"teacher.training.learning_rate": 0.032},
    "cnn_32": {},
    "mlp_22": {},
    "mlp_256": {"teacher.training.learning_rate": 0.002},
    "torchvision/resnet18": {"teacher.training.learning_rate": 0.002},
    "torchvision/alexnet": {"teacher.training.learning_rate": 0.0003},
    "torchvision/vgg11": {"teacher.training.learning_rate": 0.0003},
}
BASELINES: dict[str, dict[str, Any]] = {"pixels": {}, "features": {}, **NETS}
NEIGHBOURS = (1, 3, 5, 9)  # of which validation chooses
GROWTH = (100, 1_000, 10_000, 59_000)  # images of Fashion-MNIST to be neighbors
DISTILLED = ("distillation", "distillation_fashion_mnist")
SMALL, ALONE = "pool_4", "alone"  # of the study distillation
COLUMNS = ["baseline", "seed", "params", "accuracy", "parameters", "megabytes", "train_seconds", "images_per_second"]


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("baselines", nargs="*", help=f"of: {', '.join(BASELINES)}; none: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    args = parser.parse_args(argv)
    if unknown := set(args.baselines) - set(BASELINES):
        raise UserError(f"there is no baseline {min(unknown)}; there are {', '.join(BASELINES)}")
    torch.set_num_threads(1)
    path = RESULTS / "baselines.csv"
    rows = read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)
    for seed in args.seeds:
        for row in baselines(seed, args.baselines or BASELINES, rows):
            others = rows[(rows["baseline"] != row["baseline"]) | (rows["seed"] != seed)]
            rows = pd.concat([others, pd.DataFrame([row])], ignore_index=True)
            write_csv(path, rows)
            print(f"{row['baseline']}, seed {seed}: {100 * row['accuracy']:.1f} %", flush=True)
    if not (RESULTS / "neighbours.csv").exists():
        write_csv(RESULTS / "neighbours.csv", pd.DataFrame(growth()))
    write_bytes(path.with_suffix(".md"), markdown(rows, read_csv(RESULTS / "distillation.csv")).encode())
    for study in DISTILLED:
        add_rates(study)


def add_rates(study: str) -> None:
    """Put into the table of `study`, of images as MNIST's, how many images a second each of its models labels."""
    path, plan = RESULTS / f"{study}.csv", yaml.safe_load(STUDIES.read_text(encoding="utf-8"))[study]
    if not path.exists():
        return
    rows, images = read_csv(path), np.zeros((2000, 28, 28, 1), np.uint8)
    rates = {}
    for model in rows["model"].unique():
        classifier = Classifier(build(model, 1, 10, (28, 28), 0.0, 0.0), torch.zeros(1), torch.ones(1))
        rates[model] = labeling_rate(classifier, images)
    rows["images_per_second"] = rows["model"].map(rates).round()
    write_csv(path, rows)
    write_bytes(path.with_suffix(".md"), study_markdown(study, plan, rows).encode())


def baselines(seed: int, names: Iterable[str], done: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a seed, those that are `done` with the same parameters as they are."""
    base = yaml.safe_load((ROOT / "params.yaml").read_text())
    alone = {"seed": seed, "runtime.threads": 1, "current": "iter0", "iterations": {}, "controls": {}}
    runs = {name: changed(copy.deepcopy(base), {**alone, **BASELINES[name]}) for name in names}
    for name, params in runs.items():
        params["teacher"]["model"] = name if name in NETS else "cnn_16"
    with tempfile.TemporaryDirectory() as folder:
        for name, params in runs.items():
            key = fingerprint({**params, "baseline": name})
            found = done[(done["baseline"] == name) & (done["seed"] == seed) & (done["params"] == key)]
            if len(found):
                yield found.iloc[0].to_dict()
                continue
            figures = trained(Path(folder) / name, params) if name in NETS else neighbors(Path(folder), name, params)
            yield {"baseline": name, "seed": seed, "params": key, **figures}


def trained(folder: Path, params: dict[str, Any]) -> dict[str, float]:
    """The figures of iter0 as `params` have it."""
    seconds = run_commands(folder, params)["train_teacher"]
    classifier, description = load_classifier(folder / "models/iter0", torch.device("cpu"))
    return {
        "accuracy": read_json(folder / "metrics/results/iter0/results.json")["accuracy"],
        "parameters": description["parameters"],
        "megabytes": (folder / "models/iter0/model.safetensors").stat().st_size / 1e6,
        "train_seconds": seconds,
        "images_per_second": labeling_rate(classifier, read_split(folder / "data/test").images()),
    }


def labeling_rate(classifier: Classifier, images: np.ndarray) -> float:
    """Images a second of a forward pass, the best of three."""
    return len(images) / min(clocked(partial(predict, classifier, images, runtime())) for _ in range(3))


def clocked(call: Callable[[], Any]) -> float:
    """How many seconds it takes."""
    started = time.monotonic()
    call()
    return time.monotonic() - started


def neighbors(folder: Path, kind: str, params: dict[str, Any]) -> dict[str, float]:
    """The figures of nearest neighbors among the labeled images, how many of them chosen on validation."""
    project = folder / "neighbours"
    if not project.exists():
        run_commands(project, params)
    splits = {name: read_split(project / "data" / name) for name in ("labeled", "validation", "test")}
    classifier, _ = load_classifier(project / "models/iter0", torch.device("cpu"))
    embed = pixels if kind == "pixels" else partial(features, classifier)  # whose own time is not counted
    known = {name: embed(split) for name, split in splits.items()}

    def fitted(count: int) -> KNeighborsClassifier:
        return KNeighborsClassifier(count, algorithm="brute").fit(known["labeled"], splits["labeled"].labels)

    best = max(NEIGHBOURS, key=lambda k: fitted(k).score(known["validation"], splits["validation"].labels))
    model = fitted(best)
    seconds = min(clocked(partial(model.predict, known["test"])) for _ in range(3))
    return {
        "accuracy": model.score(known["test"], splits["test"].labels),
        "parameters": np.nan,
        "megabytes": known["labeled"].nbytes / 1e6,
        "train_seconds": np.nan,
        "images_per_second": len(splits["test"]) / seconds,
    }


def pixels(split: Split) -> np.ndarray:
    """float32 (N,D)"""
    return split.images().reshape(len(split), -1).astype(np.float32) / 255


def features(classifier: Classifier, split: Split) -> np.ndarray:
    """What the last layer sees, float32 (N,D)."""
    return features_of(classifier, split.selection(), runtime()).astype(np.float32)


def runtime() -> RuntimeParams:
    return RuntimeParams(**yaml.safe_load((ROOT / "params.yaml").read_text())["runtime"])


def growth() -> list[dict[str, Any]]:
    """What nearest neighbors cost as their number grows, on images of Fashion-MNIST and on features of a `cnn_16`."""
    given = yaml.safe_load((ROOT / "params.yaml").read_text())["pretraining"]
    wanted = {**given, "source": "fashion_mnist", "models": ["cnn_16"], "validation": 1000}
    params = validated(PretrainingParams, wanted, "pretraining")
    known, asked = labeled_images(params, 0, Path(tempfile.gettempdir()))
    classifier = new_classifier("cnn_16", known)
    embeddings: dict[str, Callable[[Split], np.ndarray]] = {
        "pixels": pixels,
        "features": partial(features, classifier),
    }
    rows = []
    for kind, of in embeddings.items():
        everything, queries = of(known), of(asked)
        rows += [
            {"on": kind, "neighbours": count, **cost(everything[:count], known.labels[:count], queries)}
            for count in GROWTH
        ]
    return rows


def cost(known: np.ndarray, labels: np.ndarray, asked: np.ndarray) -> dict[str, float]:
    """What it costs to compare each of `asked` (M,D) with all of `known` (N,D)."""
    model = KNeighborsClassifier(5, algorithm="brute").fit(known, labels)
    seconds = min(clocked(partial(model.predict, asked)) for _ in range(3))
    return {"megabytes": known.nbytes / 1e6, "images_per_second": len(asked) / seconds}


def markdown(rows: pd.DataFrame, distillation: pd.DataFrame) -> str:
    """The table of baselines, and how far the small model that was taught is ahead of each."""
    small, alone = (
        distillation[distillation["iteration"] == name].set_index("seed")["accuracy"] for name in (SMALL, ALONE)
    )
    lines = [
        "# baselines: the classifiers that anyone asks for, on the 100 labels of the default run",
        "",
        "Mean ± half of the 95 % t interval over n seeds from 0 on. Nets are trained as iter0 is, 300 steps of 64 "
        "images, the one that was taught, and the same net alone, 2,000 of 128. One thread of a CPU, which another run "
        "shares, all of them for neighbors; seconds of training are of one stage, its start included; megabytes are "
        "those of the weights, or of what is compared with.",
        "",
        "| baseline | n | parameters | megabytes | test accuracy, % | training, s | images/s | taught one ahead by |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name in (name for name in BASELINES if name in set(rows["baseline"])):
        group = rows[rows["baseline"] == name]
        ahead = (small - group.set_index("seed")["accuracy"].astype(float)).dropna()
        mean = group[["parameters", "megabytes", "train_seconds", "images_per_second"]].astype(float).mean()
        cells = (f"{mean.parameters:,.0f}", f"{mean.megabytes:,.2f}", percent(group["accuracy"]))
        times = (f"{mean.train_seconds:,.0f}", f"{mean.images_per_second:,.0f}", percent(ahead, "+"))
        label = f"nearest neighbors on {name}" if name not in NETS else name
        lines.append(f"| {label} | {len(group)} | {' | '.join((*cells, *times))} |".replace("nan", ""))
    size = f"{distillation.loc[distillation['iteration'] == SMALL, 'parameters'].iloc[0]:,}"
    ahead = percent((small - alone).dropna(), "+")
    lines.append(
        f"| cnn_8, alone, as long and noised as taught | {len(alone)} | {size} | | {percent(alone)} | | | {ahead} |"
    )
    lines.append(f"| cnn_8, taught by iter2 | {len(small)} | {size} | | {percent(small)} | | | |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
