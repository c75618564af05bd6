"""The trained model that commands use: the one that is named, or the one to deploy."""

from pathlib import Path
from typing import Any

import torch

from commands.model_folder import check_folder
from noisy_student.core.config import PARAMS_FILE, ParamsFile
from noisy_student.core.errors import UserError
from noisy_student.core.files import digest, read_json
from noisy_student.models.checkpoint import WEIGHTS
from noisy_student.models.classifier import Classifier, load_classifier
from noisy_student.models.device import RuntimeParams, setup
from noisy_student.models.onnx_model import MODEL

SUMMARY = Path("metrics/summary.json")


def load_trained(model: Path | None) -> tuple[Classifier, dict[str, Any], RuntimeParams]:
    """The classifier in the folder `model`, or the one to use, its description, and how it runs."""
    folder, runtime = trained(model)
    return *load_classifier(folder, setup(runtime)), runtime


def trained(model: Path | None) -> tuple[Path, RuntimeParams]:
    """The folder `model`, or that of the model to use, and how it runs.

    Where there is no params.yaml it runs on a GPU if there is one, and on all cores.
    """
    check_folder(model)
    if model and (model / MODEL).exists():
        raise UserError(f"{model} is an exported model, and this takes a trained one; name its folder")
    if not PARAMS_FILE.exists():
        if not model:
            raise UserError(f"there is no {PARAMS_FILE} here that names a model; add --model and a model's folder")
        threads = torch.get_num_threads()
        runtime = RuntimeParams(device="auto", precision="auto", threads=threads, deterministic=True)
        return model, runtime
    params = ParamsFile()
    runtime = params.section("runtime", RuntimeParams)
    return model or deployed(params), runtime


def deployed(params: ParamsFile) -> Path:
    """The folder of the model that the last run says to deploy; where it is undecided, that of `current`."""
    deploy = read_json(SUMMARY).get("deploy") if SUMMARY.exists() else None
    if not deploy or not deploy["decided"]:
        return Path("models") / params.section("current", str)
    folder = Path(deploy["folder"])
    if not (folder / WEIGHTS).exists() or digest(folder / WEIGHTS) != deploy["weights_sha256"]:
        raise UserError(
            f"{folder} is not there as {SUMMARY} has it, which says to deploy it; run `dvc repro`, or name a model's "
            "folder with --model"
        )
    print(f"with {folder}, the model to deploy; --model names another one", flush=True)
    return folder
