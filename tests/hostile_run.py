"""A run whose classes and files have names that would break a page, or worse."""

import numpy as np
import pandas as pd

from noisy_student.evaluation.audit import Audit
from noisy_student.evaluation.history import HISTORY_COLUMNS, EvaluationResult, History
from noisy_student.page.contents import FIGURES, Run
from noisy_student.store.pictures import picture

HOSTILE = ["<script>alert(1)</script>", "\"'><img src=x onerror=alert(1)>", "$x$ {{ 7 * 7 }}", "קטן"]
IMAGES = 40


def hostile_run() -> Run:
    """iter0 and its student, on images of four classes whose names are hostile."""
    ids = [f"{HOSTILE[row % 4]}/{row}</script>.png" for row in range(IMAGES)]
    actual = [HOSTILE[row % 4] for row in range(IMAGES)]
    predicted = [*actual[1:9], *actual[8:]]
    shown = picture(np.zeros((8, 8, 1), np.uint8))
    table = pd.DataFrame({"id": ids, "actual": actual, "predicted": predicted, "confidence": 0.8})
    intervals = dict.fromkeys(("balanced_accuracy", "macro_f1", "nll"), (0.1, 0.9))
    figures = dict.fromkeys(FIGURES, 0.5) | {"intervals": intervals}
    accuracies = {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "balanced_accuracy": 0.8}
    weights = {"folder": "models/iter1", "weights_sha256": "0" * 64}
    weights |= {"multiply_adds": 1000, "images_trained": 640, "training_multiply_adds": 1_920_000}
    row = {**weights, "model": "cnn_4", "parameters": 10, **accuracies, "training_labels": 4, "held_out_labels": 8}
    rows = [{"iteration": "iter0", **row}, {"iteration": "iter1", "teacher": "iter0", "kept_fraction": 0.5, **row}]
    curves = pd.DataFrame({"iteration": ["iter0", "iter1"], "step": 1, "loss": 1.0, "validation_accuracy": 0.5})
    history = pd.DataFrame(rows).reindex(columns=HISTORY_COLUMNS)
    control = {"name": "same_size", "kind": "supervised", "of": "iter1", **row}
    deploy = {"name": "iter1", "folder": "models/iter1", "held_out_labels": 8, "decided": True}
    summary = {"iteration": "iter1", "deploy": deploy, "control": control}
    summary |= {"gain_over_control": 0.1, "gain_over_control_low": 0.05, "gain_over_control_high": 0.15}
    pictures = table.assign(group="changed", truth=actual, before=actual[::-1], picture=shown).drop(columns="actual")
    places = table.assign(split="pool", truth="", kept=True, picture=shown, x=0.5, y=0.5).drop(columns="actual")
    held_out = table[["id", "actual"]].assign(iter0=table["predicted"], iter1=table["actual"])
    return Run(
        history=History(history, curves, table, held_out),
        summary=summary,
        controls={"supervised": EvaluationResult(control, table, table)},
        result=EvaluationResult(figures, table, table),
        evaluated=[{"name": name, **row} for name in ("iter0", "iter1")],
        mistakes=table[table["actual"] != table["predicted"]].assign(picture=shown),
        audits=[Audit(audit_figures(), pictures, places)],
        robustness={name: {**robustness_figures(), "clean": clean} for name, clean in (("iter0", 0.7), ("iter1", 0.8))},
        card={"source": "folder", "classes": HOSTILE, "images": {"test": 40}, "images_by_class": {}},
        params={"seed": 1, "noise": {"flip": True}},
        defaults={"seed": 0, "noise": {"flip": True}},
    )


def audit_figures() -> dict:
    by_class = {"calibration_share": 0.25, "predicted_share": 0.25, "unique": 5, "with_copies": 5}
    step = {"reached": 0.5, "precision": None, "calibration_precision": 0.9}
    return {
        "iteration": "iter1",
        "threshold": 0.5,
        "warnings": [f"no pool image is kept as {HOSTILE[0]}"],
        "pool_images": 40,
        "unique_images": 20,
        "images_with_copies": 20,
        "known_kept": 10,
        "wrong_kept": 1,
        "confidence": {"all": [20, 20], "kept": [0, 20]},
        "drift": 0.1,
        "drift_by_chance": 0.05,
        "by_class": [{"class": name, **by_class, "known": 5 * (name == HOSTILE[1]), "right": 4} for name in HOSTILE],
        "by_threshold": [{"threshold": threshold, **step} for threshold in (0.0, 0.5, 0.99)],
        "student": {"sample": 40, "changed": 2, "known": 0, "mended": 0, "spoiled": 0},
    }


def robustness_figures() -> dict:
    attacks = {"fgsm": {"2": 0.5}, "pgd": {"2": 0.25}}
    found = {"corruptions": {"fog": [0.6, 0.5, 0.4, 0.3, 0.2]}, "extra_corruptions": {"spatter": [0.6] * 5}}
    return {"images": 40, **found, "attacks": attacks}
