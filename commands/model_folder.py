"""The folder of a model that a person names. It imports no torch, which an exported model does not need."""

from pathlib import Path

from noisy_student.core.errors import UserError


def check_folder(model: Path | None) -> None:
    """Raise `UserError` where a model is named and its folder is not there."""
    if model and not model.is_dir():
        raise UserError(
            f"there is no folder {model}; name a model's folder, or run `dvc repro` if a stage makes this one"
        )
