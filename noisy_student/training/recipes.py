"""Makes the recipe of each model: the defaults of params.yaml with the values of the model's own section in their
place."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from noisy_student.core.config import ParamsModel, overlay, validated
from noisy_student.core.errors import UserError
from noisy_student.models.checkpoint import folder_of
from noisy_student.training.augmentation.policy import NoiseParams
from noisy_student.training.objectives import OBJECTIVES, check_objective
from noisy_student.training.params import TRANSFER, DistillationParams, Recipe, TrainingParams

OF_SOME_OBJECTIVES = frozenset(option for objective in OBJECTIVES.values() for option in objective.options)
# options of training that mean nothing without a pool or a teacher
STUDENTS_ALONE = OF_SOME_OBJECTIVES | {"pool_ratio", "pool_weight", "objective", "finetune"}
PRETRAINING: dict[str, Any] = {  # the training that makes pretrained weights, from scratch
    "steps": 2000,
    "batch_size": 128,
    "pool_ratio": 1.0,
    "pool_weight": 1.0,
    "accumulation": 1,
    "optimizer": "adamw",
    "learning_rate": 0.008,
    "warmup": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "ema_decay": 0.995,
    "validations": 10,
}
POOL_SHARE = ("pool_ratio", "pool_weight")  # options of training for batches of labeled and pool images


EnsembleSize = Annotated[int, Field(ge=1, le=100)]  # networks of a model, each from weights and draws of its own


class TeacherParams(ParamsModel):
    """iter0, trained on labels alone."""

    model: str  # its name, see registry.py
    ensemble_size: EnsembleSize = 1  # networks; the model's logits are the mean of theirs
    noise: NoiseParams  # all of it: the students' defaults do not reach the teacher
    training: dict[str, Any] = {}  # in place of the defaults


class IterationParams(ParamsModel):
    """A student, and the iteration that labels the pool for it."""

    teacher: str  # the iteration that labels the pool for it
    model: str  # its name, see registry.py
    ensemble_size: EnsembleSize = 1  # networks; the model's logits are the mean of theirs
    noise: dict[str, Any] = {}  # in place of the defaults, as are the following
    pseudo_labels: dict[str, Any] = {}
    training: dict[str, Any] = {}


class ControlParams(ParamsModel):
    """A run that answers "would it have worked without this?" about an iteration."""

    kind: Literal["supervised", "half_labels"]  # the iteration's model and steps, on all labels or on half, alone
    of: str  # the iteration
    ensemble_size: EnsembleSize = 1  # as many as its iteration has
    noise: NoiseParams  # all of it, chosen on validation
    training: dict[str, Any] = {}  # in place of the defaults


class PoolControlParams(ParamsModel):
    """A control that sees the pool. It differs from its iteration in one thing.

    `unnoised` has no noise. `oracle` has true labels, as if its teacher were always right and sure, so that no filter
    drops an image. `random_errors` has each pseudo-label on another image of the same true class: the teacher's errors,
    but on images that it does not find hard. `shuffled` has each on any other image. `half_pool` has half of them.
    """

    kind: Literal["unnoised", "oracle", "random_errors", "shuffled", "half_pool"]
    of: str  # the iteration


class DistilledParams(ParamsModel):
    """A small model that learns from an iteration's model and is deployed in its place."""

    teacher: str  # the iteration
    model: str  # its name, see registry.py
    noise: dict[str, Any] = {}  # in place of the defaults, as are the following
    training: dict[str, Any] = {}
    distillation: dict[str, Any] = {}


def teacher_recipe(defaults: TrainingParams, teacher: TeacherParams) -> Recipe:
    """How iter0 is trained."""
    check_objective(defaults.objective, "training.objective")
    _check_no_student_options(teacher.training, "teacher")
    training = overlay(_on_labels_alone(defaults), teacher.training, "teacher.training")
    return Recipe(model=teacher.model, noise=teacher.noise, training=training, ensemble_size=teacher.ensemble_size)


def _on_labels_alone(training: TrainingParams) -> TrainingParams:
    """`training` with neutral values for the options that need a pool, so that their rules do not apply."""
    without = {
        "pool_ratio": 1.0,
        "pool_weight": 1.0,
        "objective": "pseudo_labels",
        "initial": "scratch" if training.initial == "warm" else training.initial,
        "finetune": 0.0,
    }
    return training.model_copy(update=without)


def _check_idle_options(training: TrainingParams, named: dict[str, Any], key: str) -> None:
    """Raise `UserError` where a student's section sets an option that another option makes useless."""
    idle = {"pool_ratio": "finetune", "pool_weight": "finetune"} if training.finetune else {}
    idle |= dict.fromkeys(OF_SOME_OBJECTIVES.difference(OBJECTIVES[training.objective].options), "objective")
    if wrong := idle.keys() & named.keys():
        option = min(wrong)
        raise UserError(
            f"params.yaml: {key}.training.{option} has no effect with {idle[option]} "
            f"{getattr(training, idle[option])}; remove it"
        )


def _check_no_student_options(training: dict[str, Any], key: str, why: str = "sees labels alone") -> None:
    """Raise `UserError` where a model that is not a student is given an option for students."""
    if training.get("initial") == "warm":
        raise UserError(
            f"params.yaml: {key}.training.initial was warm, and only an iteration can begin with its teacher's "
            "weights; set it to scratch"
        )
    if wrong := STUDENTS_ALONE & training.keys():
        raise UserError(f"params.yaml: {key}.training.{min(wrong)} has no effect, for {key} {why}; remove it")


def iteration_recipe(noise: NoiseParams, training: TrainingParams, iteration: IterationParams, name: str) -> Recipe:
    """How the student of the iteration called `name` is trained."""
    training = overlay(training, iteration.training, f"iterations.{name}.training")
    check_objective(training.objective, f"iterations.{name}.training.objective")
    _check_idle_options(training, iteration.training, f"iterations.{name}")
    return Recipe(
        model=iteration.model,
        noise=overlay(noise, iteration.noise, f"iterations.{name}.noise"),
        training=training,
        ensemble_size=iteration.ensemble_size,
    )


def pretraining_recipe(noise: NoiseParams, training: dict[str, Any], model: str) -> Recipe:
    """How pretrained weights of `model` are made by a training on labels, from scratch."""
    _check_no_student_options(training, "pretraining")
    if wrong := {"initial", *TRANSFER} & training.keys():
        raise UserError(f"params.yaml: pretraining.training.{min(wrong)} would need pretrained weights; remove it")
    whole = validated(TrainingParams, {**PRETRAINING, **training}, "pretraining.training")
    return Recipe(model=model, noise=noise, training=whole)


def distilled_recipe(
    noise: NoiseParams,
    training: TrainingParams,
    distillation: DistillationParams,
    distilled: DistilledParams,
    name: str,
) -> Recipe:
    """How the distilled model called `name` is trained."""
    key = f"distilled.{name}"
    chosen = overlay(distillation, distilled.distillation, f"{key}.distillation")
    _check_idle_distillation(chosen, distilled, key)
    pool_share = {option: getattr(training, option) for option in POOL_SHARE}
    if chosen.images == "both":
        others = {option: value for option, value in distilled.training.items() if option not in POOL_SHARE}
        _check_no_student_options(others, key, "learns from the teacher's logits")
    else:
        _check_no_student_options(distilled.training, key, f"sees images of one kind, {chosen.images}")
    training = overlay(_on_labels_alone(training).model_copy(update=pool_share), distilled.training, f"{key}.training")
    noise = overlay(noise, distilled.noise, f"{key}.noise")
    return Recipe(
        model=distilled.model,
        noise=noise,
        training=training,
        distillation=chosen,
        distilled_from=distilled.teacher,
    )


def _check_idle_distillation(chosen: DistillationParams, distilled: DistilledParams, key: str) -> None:
    """Raise `UserError` where a distilled model's section sets an option that another option makes useless."""
    idle = {}
    if chosen.images == "pool":
        idle = {"distillation.weight": "images pool", "training.label_smoothing": "images pool"}
    elif chosen.images == "labeled" and chosen.weight == 0:
        idle = {"distillation.temperature": "weight 0", "distillation.kind": "weight 0"}
    in_section = {f"distillation.{option}" for option in distilled.distillation}
    in_section |= {f"training.{option}" for option in distilled.training}
    if wrong := idle.keys() & in_section:
        option = min(wrong)
        raise UserError(f"params.yaml: {key}.{option} has no effect with distillation.{idle[option]}; remove it")


def control_recipe(training: TrainingParams, model: str, control: ControlParams, name: str) -> Recipe:
    """How the control called `name` is trained, `model` being that of its iteration."""
    _check_no_student_options(control.training, f"controls.{name}")
    training = overlay(_on_labels_alone(training), control.training, f"controls.{name}.training")
    return Recipe(model=model, noise=control.noise, training=training, ensemble_size=control.ensemble_size)


def pool_control_recipe(
    noise: NoiseParams, training: TrainingParams, iteration: IterationParams, control: PoolControlParams
) -> Recipe:
    """How a control that sees the pool is trained: like its `iteration`, from its own initial weights."""
    whole = iteration_recipe(noise, training, iteration, control.of)
    if control.kind != "unnoised" and whole.training.objective == "consistency":
        raise UserError(
            f"params.yaml: a control of kind {control.kind} changes the teacher's labels, but {control.of} learns from "
            "its own labels (training.objective consistency); remove the control"
        )
    if whole.training.initial == "warm":
        raise UserError(
            f"params.yaml: {control.of} starts from its teacher's weights (training.initial warm), but a pool control "
            "starts from its own, so two things would differ; remove the control"
        )
    return whole.model_copy(update={"noise": NoiseParams.none()} if control.kind == "unnoised" else {})


class PretrainedInputs(NamedTuple):
    """What a model of a recipe takes from a pretrained network, each a folder or None."""

    weights: Path | None
    labeled_features: Path | None
    pool_features: Path | None

    @classmethod
    def of(
        cls, recipe: Recipe, pretrained: Path, labeled_features: Path, pool_features: Path | None = None
    ) -> "PretrainedInputs":
        """The subfolders that belong to the network which a model of `recipe` begins with; None for other initial
        weights. The folders that are given have weights and features of several networks."""
        parents = (pretrained, labeled_features, pool_features)
        if recipe.training.initial != "pretrained":
            return cls(None, None, None)
        return cls(*(folder_of(parent, recipe.model) if parent else None for parent in parents))

    def by_role(self) -> dict[str, Path | None]:
        """The folders as inputs of a stage."""
        names = ("pretrained", "labeled_features", "pool_features")
        return dict(zip(names, self, strict=True))
