"""All of params.yaml at once, and what is wrong with it before anything runs."""

import re
from collections.abc import Callable
from itertools import combinations
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from noisy_student.core.config import ParamsFile, ParamsModel
from noisy_student.core.errors import UserError
from noisy_student.core.randomness import Seed
from noisy_student.data.sources import DIGITS, DataParams, SourceParams, check_sizes
from noisy_student.evaluation.robustness import RobustnessParams
from noisy_student.models.device import RuntimeParams, pick_device
from noisy_student.models.prediction import LabelingParams
from noisy_student.models.registry import check_head, check_name, check_rates, check_side
from noisy_student.pretraining import PretrainingParams, description
from noisy_student.pseudo_labeling.guards import GuardParams
from noisy_student.pseudo_labeling.selection import PseudoLabelParams, of_iteration
from noisy_student.training.augmentation.policy import NoiseParams, check_crop
from noisy_student.training.objectives import OBJECTIVES
from noisy_student.training.params import TRANSFER, DistillationParams, Recipe, TrainingParams
from noisy_student.training.recipes import (
    ControlParams,
    DistilledParams,
    IterationParams,
    PoolControlParams,
    TeacherParams,
    control_recipe,
    distilled_recipe,
    iteration_recipe,
    pool_control_recipe,
    pretraining_recipe,
    teacher_recipe,
)

PIPELINE_FILE = Path("dvc.yaml")  # the name that DVC gives it
OUTPUTS = (("data",), ("models",), ("metrics",))  # folders of what stages make
TAKEN = ("pool_controls", "distilled", "pretrained")  # folders beside those of iterations and controls
ITERATION, CONTROL = re.compile(r"iter[1-9][0-9]{0,3}"), re.compile(r"[a-z][a-z0-9_]{0,39}")


class Params(ParamsModel):
    """The sections of params.yaml."""

    seed: Seed
    current: str
    runtime: RuntimeParams
    data: DataParams
    teacher: TeacherParams
    noise: NoiseParams
    labeling: LabelingParams
    pseudo_labels: PseudoLabelParams
    guards: GuardParams
    training: TrainingParams
    iterations: dict[str, IterationParams]
    controls: dict[str, ControlParams]
    pool_controls: dict[str, PoolControlParams]
    pretraining: PretrainingParams
    distillation: DistillationParams
    distilled: dict[str, DistilledParams]
    robustness: dict[str, RobustnessParams]

    def key(self, name: str) -> str:
        """The dotted key of the model of that name: iter0, an iteration, a control or a distilled model."""
        sections = ("iterations", "controls", "pool_controls", "distilled")
        return next((f"{section}.{name}" for section in sections if name in getattr(self, section)), "teacher")

    def models(self) -> dict[str, str]:
        """The names of the models by their sections."""
        named = {f"iterations.{name}": each.model for name, each in self.iterations.items()}
        named |= {f"distilled.{name}": each.model for name, each in self.distilled.items()}
        return {"teacher": self.teacher.model} | named

    def recipes(self) -> dict[str, Recipe]:
        """How each model is trained, by its name: iter0, the iterations, the controls, the distilled ones."""
        found = {"iter0": teacher_recipe(self.training, self.teacher)}
        for name, iteration in self.iterations.items():
            found[name] = iteration_recipe(self.noise, self.training, iteration, name)
        for name, control in self.controls.items():
            found[name] = control_recipe(self.training, self.iterations[control.of].model, control, name)
        for name, pool_control in self.pool_controls.items():
            of = self.iterations[pool_control.of]
            found[name] = pool_control_recipe(self.noise, self.training, of, pool_control)
        for name, distilled in self.distilled.items():
            found[name] = distilled_recipe(self.noise, self.training, self.distillation, distilled, name)
        return found

    def pretraining_recipes(self) -> dict[str, Recipe]:
        """How pretrained weights are trained, by the model's name, where they are."""
        given, models = self.pretraining, self.pretraining.models if self.pretraining.trains else []
        return {model: pretraining_recipe(given.noise, given.training, model) for model in models}


def check(file: ParamsFile) -> Params:
    """All of params.yaml; raises `UserError` naming the first key that cannot be run."""
    params = _sections(file)
    _check_names(params)
    _check_teachers(params)
    for key, model in params.models().items():
        _at(f"{key}.model", check_name, model)
    recipes = params.recipes()
    for name, recipe in recipes.items():
        _check_recipe(params.key(name), recipe, params.data)
    _check_views(params)
    _check_features(params)
    _check_mixtures(params, recipes)
    _check_warm(params, recipes)
    _check_controls(params, recipes)
    _check_pretraining(params, recipes)
    check_sizes(params.data)
    pick_device(params.runtime)
    return params


def _check_recipe(key: str, recipe: Recipe, images: SourceParams) -> None:
    """The noise and the size of what is trained by `recipe` on those `images`."""
    _at(f"{key}.noise", check_rates, recipe.model, recipe.noise.dropout, recipe.noise.stochastic_depth)
    _at(f"{key}.noise", check_crop, recipe.noise, images.shape()[:2])
    _at(f"{key}.training.resolution", check_side, recipe.model, recipe.training.resolution, images.shape())
    if recipe.noise.flip and images.source in DIGITS:
        raise UserError(f"params.yaml: {key}.noise.flip was True; it must be False, for {images.source} has digits")


def check_orphans(params: Params) -> None:
    """Raise `UserError` where outputs of an iteration or a control are left that params.yaml no longer has."""
    left = orphans(params)
    if left:
        raise UserError(
            f"{left[0]} is left from an entry that params.yaml no longer has; remove it: rm -r "
            f"{' '.join(map(str, left))}"
        )


def orphans(params: Params, pipeline: Path = PIPELINE_FILE) -> list[Path]:
    """Outputs of iterations and controls that params.yaml no longer has. DVC itself does not notice them.

    The `pipeline` (dvc.yaml) has the paths of an item's outputs, in which `${key}` is the item's name.
    """
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"].values()
    expected = {out for stage in stages for out in stage.get("outs", []) if isinstance(out, str)}
    patterns = set()
    for stage in stages:
        foreach = stage.get("foreach", [])
        if isinstance(foreach, list):  # of names that no parameter changes
            continue
        items = getattr(params, foreach.removeprefix("${").removesuffix("}"))
        for out in stage["do"].get("outs", []):
            patterns.add(out.replace("${key}", "[!.]*"))
            expected |= {out.replace("${key}", name) for name in items}
    found = {path for pattern in patterns for path in pipeline.parent.glob(pattern)}
    shared = {pipeline.parent / Path(pattern).parent for pattern in patterns}  # a folder may be of several patterns
    return sorted(found - shared - {pipeline.parent / out for out in expected})


def _sections(file: ParamsFile) -> Params:
    for name in file.values:
        if name not in Params.model_fields:
            raise UserError(
                f"{file.path}: the key {name} is unknown; it may be one of {', '.join(Params.model_fields)}"
            )
    return Params(**{name: file.section(name, kind) for name, kind in Params.__annotations__.items()})


def _check_names(params: Params) -> None:
    kinds = (
        ("iterations", ITERATION, "iter3"),
        ("controls", CONTROL, "same_size"),
        ("pool_controls", CONTROL, "oracle"),
        ("distilled", CONTROL, "small"),
    )
    for section, pattern, example in kinds:
        for name in getattr(params, section):
            taken = pattern is CONTROL and (name.startswith("iter") or name in TAKEN)
            if taken or not pattern.fullmatch(name):
                rule = "iter and a number" if pattern is ITERATION else "small letters, digits and _, and not iter…"
                raise UserError(f"params.yaml: the key {section}.{name} must be named like {example}: {rule}")


def _check_teachers(params: Params) -> None:
    known = ["iter0", *params.iterations]
    for name, iteration in params.iterations.items():
        _one_of(f"iterations.{name}.teacher", iteration.teacher, known)
        _no_cycle(name, params.iterations)
    _one_of("current", params.current, known)
    taken: dict[tuple[str, str], str] = {}
    for name, distilled in params.distilled.items():
        _one_of(f"distilled.{name}.teacher", distilled.teacher, known)
    first = next(iter(params.robustness), "")
    for name, measured in params.robustness.items():
        _one_of(f"robustness.{name}", name, [*known, *params.controls])
        if measured != params.robustness[first]:
            raise UserError(f"params.yaml: robustness.{name} is not as robustness.{first}; give both the same options")
    for one, other in combinations(("controls", "pool_controls", "distilled"), 2):
        if both := getattr(params, one).keys() & getattr(params, other).keys():
            raise UserError(f"params.yaml: {min(both)} stands in {one} and in {other}; give one another name")
    for name, control in (params.controls | params.pool_controls).items():
        key = params.key(name)
        _one_of(f"{key}.of", control.of, list(params.iterations))
        other = taken.setdefault((control.kind, control.of), name)
        if other != name:
            raise UserError(
                f"params.yaml: {key} and {params.key(other)} are the same control of {control.of}; keep one"
            )


def _check_controls(params: Params, recipes: dict[str, Recipe]) -> None:
    """A control must train on as many images as its iteration. Otherwise the two cannot be compared."""
    for name, control in params.controls.items():
        same = ["ensemble_size", "training.steps", "training.batch_size"]
        if recipes[control.of].training.initial != "warm":
            same += ["training.initial", *(f"training.{option}" for option in TRANSFER)]
        for key in same:
            wanted, has = (attrgetter(key)(recipes[model]) for model in (control.of, name))
            if has != wanted:
                what = key.removeprefix("training.")
                raise UserError(
                    f"params.yaml: controls.{name} has {what} {has}, but its iteration {control.of} has {wanted}; "
                    f"set controls.{name}.{key} to {wanted}"
                )


def _check_views(params: Params) -> None:
    source = params.data.source
    if params.labeling.tta == "mirrored" and source in DIGITS:
        raise UserError(f"params.yaml: labeling.tta was mirrored, and {source} has digits; set it to shifts")


def _check_features(params: Params) -> None:
    """A filter by neighbors needs the features that they are neighbors in."""
    for name, iteration in params.iterations.items():
        chosen = of_iteration(params.pseudo_labels, iteration.pseudo_labels, name)
        if chosen.ood_neighbors and not params.labeling.features:
            raise UserError(
                f"params.yaml: iterations.{name}.pseudo_labels has ood_neighbors, which need features; set "
                "labeling.features to true"
            )


def _check_mixtures(params: Params, recipes: dict[str, Recipe]) -> None:
    """A distillation teacher and online labels give targets for single images only, so images cannot be mixed."""
    for name in params.distilled:
        if (mix := recipes[name].noise.mix) != "none":
            raise UserError(
                f"params.yaml: distilled.{name} has noise.mix {mix}, but its teacher labels single images; "
                f"set distilled.{name}.noise.mix to none"
            )
    for name in params.iterations:
        mix, objective = recipes[name].noise.mix, recipes[name].training.objective
        if mix != "none" and OBJECTIVES[objective].online_labels:
            raise UserError(
                f"params.yaml: iterations.{name} would have noise.mix {mix} with training.objective {objective}, which "
                "labels single images; set noise.mix to none or training.objective to pseudo_labels"
            )


def _check_warm(params: Params, recipes: dict[str, Recipe]) -> None:
    """A student that begins with its teacher's weights is of the teacher's size."""
    for name, iteration in params.iterations.items():
        model, teacher = (f"{recipes[each].ensemble_size} {recipes[each].model}" for each in (name, iteration.teacher))
        if recipes[name].training.initial == "warm" and (model != teacher or recipes[name].ensemble_size > 1):
            raise UserError(
                f"params.yaml: iterations.{name} ({model}) cannot start from the weights of {iteration.teacher} "
                f"({teacher}); both must be a single network of the same name; set "
                f"iterations.{name}.training.initial to scratch"
            )


def _check_pretraining(params: Params, recipes: dict[str, Recipe]) -> None:
    """Every model that needs pretrained weights has some, and they were not trained on held-out images."""
    pretraining, data = params.pretraining, params.data
    for model in pretraining.models:
        _at("pretraining.models", check_name, model)
        _at("pretraining.models", check_head, model)
        channels = description(pretraining, model)["input_channels"]
        if channels != data.shape()[2] != 1:
            raise UserError(
                f"params.yaml: pretraining.source was {pretraining.source}, whose images have {channels} channels, but "
                f"data.source has {data.shape()[2]}; set another pretraining.source"
            )
    for recipe in params.pretraining_recipes().values():
        _check_recipe("pretraining", recipe, pretraining)
    if (path := pretraining.reads()) and (not path.exists() or path.parts[:1] in OUTPUTS):
        what = "the next run deletes this stage output; copy it" if path.exists() else "nothing is there; correct it"
        raise UserError(f"params.yaml: pretraining.path was {pretraining.path!r}; {what}")
    same_place = not pretraining.is_user_images or Path(pretraining.path).resolve() == Path(data.path).resolve()
    if pretraining.source == data.source and same_place:
        raise UserError(
            f"params.yaml: pretraining.source was {pretraining.source}, the same as data.source, so weights would be "
            "trained on held-out images; set another source"
        )
    for name, recipe in recipes.items():
        if recipe.training.initial == "pretrained" and recipe.model not in pretraining.models:
            raise UserError(
                f"params.yaml: {params.key(name)} needs pretrained weights of {recipe.model}, but pretraining.models "
                f"is [{', '.join(pretraining.models)}]; add the model there, and set pretraining.source"
            )


def _no_cycle(name: str, iterations: dict[str, IterationParams]) -> None:
    seen = [name]
    while (teacher := iterations[seen[-1]].teacher) != "iter0":
        if teacher not in iterations:
            return  # a missing teacher, named when that iteration is checked
        if teacher in seen:
            raise UserError(f"params.yaml: iterations.{name}.teacher goes in a circle: {' <- '.join([*seen, teacher])}")
        seen.append(teacher)


def _one_of(key: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise UserError(f"params.yaml: {key} was {value!r}; it must be one of {', '.join(known) or '(there are none)'}")


def _at(key: str, check_value: Callable[..., None], *values: Any) -> None:
    """Run a check of `values` that stand under `key`, which its error then names."""
    try:
        check_value(*values)
    except UserError as error:
        raise UserError(f"params.yaml: {key}: {error}") from None
