"""Check params.yaml and say what `dvc repro` is about to run and about how long it takes: python -m commands.plan

The time is a forecast: a few steps of each training, measured now, times the steps that params.yaml asks for; and a few
images of each prediction, times the number of images.
"""

from argparse import ArgumentParser
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import networkx
import torch
from dvc.exceptions import DvcException
from dvc.repo import Repo
from rich.console import Console
from rich.table import Table

from noisy_student.check import Params, check, check_orphans
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError, cli_main
from noisy_student.data.shards import about_how_many
from noisy_student.data.sources import SIZES, DataParams, SourceParams
from noisy_student.data.user_images import LISTS
from noisy_student.models.device import setup
from noisy_student.models.features import ONE_VIEW, pretrained_body
from noisy_student.models.prediction import LabelingParams
from noisy_student.pretraining import description
from noisy_student.training.forecast import forecast, forecast_predictions
from noisy_student.training.params import Recipe

WITH_POOL = ("train_student@", "train_pool_control@", "distill@")
TRAINERS = ("train_teacher", "train_control@", *WITH_POOL)
START_SECONDS = 3.0  # about what a stage takes to start
CLASSES = 10  # assumed for a user's images before they are read; the number hardly changes the time


class Planned(NamedTuple):
    """Work of a stage that takes time: a training, or predictions for the pool."""

    stage: str
    recipe: Recipe  # of the model that is trained or predicts
    images: int  # of all steps, or to predict for
    seconds: float


@cli_main
def main(argv: list[str] | None = None) -> None:
    ArgumentParser(description=__doc__.splitlines()[0]).parse_args(argv)
    params = check(ParamsFile())
    check_orphans(params)
    stages = to_run()
    if not stages:
        print("nothing is to be run")
        return
    device = setup(params.runtime)
    ahead = Forecast(params, device)
    print("measuring a few steps of each training, and predictions, for a minute or so", flush=True)
    table = Table(title="About to run", title_justify="left")
    for column in ("stage", "model", "images in all steps", "forecast"):
        justify: Literal["left", "right"] = "left" if column in ("stage", "model") else "right"
        table.add_column(column, justify=justify, overflow="fold", no_wrap=column == "stage")
    planned = [each for stage in stages for each in ahead.work_of(stage)]
    for each in planned:
        images = f"{each.images:,}" if each.images else "linear probe"
        table.add_row(each.stage, each.recipe.model, images, clock(each.seconds))
    total = START_SECONDS * len(stages) + sum(each.seconds for each in planned)
    others = len(set(stages) - {each.stage for each in planned})
    Console().print(table, f"and {others} quick stages; about {clock(total)} in all on {device}\n", sep="")


@dataclass(frozen=True)
class Forecast:
    """What takes time in the stages by `params` on a `device`. Recipes are made, and files counted, once for all."""

    params: Params
    device: torch.device

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """How each model is trained, by its name."""
        return self.params.recipes()

    @cached_property
    def images(self) -> int:
        """About how many labeled and pool images there will be."""
        return count_images(self.params.data)

    def work_of(self, stage: str) -> list[Planned]:
        """What takes time in `stage`, a row for each model that it trains or that predicts in it."""
        params, (name, _, item) = self.params, stage.partition("@")
        if stage == "pretrain":
            trained = params.pretraining_recipes().values()
            return [self.training(stage, recipe, params.pretraining) for recipe in trained]
        if stage.startswith(TRAINERS):
            recipe = self.recipes["iter0" if stage == "train_teacher" else item]
            return [self.training(stage, recipe, params.data)]
        if stage == "extract_features@pool":  # which has most of the images
            bodies = {each.model: each for each in self.recipes.values() if each.training.initial == "pretrained"}
            found = [bodies[model] for model in params.pretraining.models if model in bodies]
            return [self.predictions(stage, recipe, ONE_VIEW) for recipe in found]
        if name in ("predict_pool", "predict_for_distilled"):
            teacher = self.recipes[(params.iterations if name == "predict_pool" else params.distilled)[item].teacher]
            by_features = params.labeling.tta == "one" and pretrained_body(teacher.model_dump())
            return [] if by_features else [self.predictions(stage, teacher, params.labeling)]
        return []

    def training(self, stage: str, recipe: Recipe, source: SourceParams) -> Planned:
        """The training of a model by `recipe` on images of the `source`."""
        given, with_pool = pretrained_input_size(recipe, self.params), stage.startswith(WITH_POOL)
        to_measure = (source.shape(), classes_of(source), self.params.runtime, self.device)
        images = recipe.ensemble_size * recipe.training.steps * recipe.training.batch_size
        return Planned(stage, recipe, images, forecast(recipe, *to_measure, with_pool, given))

    def predictions(self, stage: str, recipe: Recipe, labeling: LabelingParams) -> Planned:
        """The predictions of a model by `recipe` for about all images of the source."""
        source, given = self.params.data, pretrained_input_size(recipe, self.params)
        to_measure = (source.shape(), classes_of(source), self.params.runtime, self.device, labeling)
        return Planned(stage, recipe, self.images, forecast_predictions(recipe, *to_measure, self.images, given))


def classes_of(source: SourceParams) -> int:
    """How many classes the source has, or about how many."""
    return CLASSES if source.is_user_images else len(SIZES[source.source].training)


def count_images(data: DataParams) -> int:
    """About how many labeled and pool images there will be."""
    if data.source == "shards":
        return about_how_many(Path(data.path))
    if data.is_user_images:
        return len(LISTS[data.source](Path(data.path)))
    size = SIZES[data.source]
    return data.pool or sum(size.training) + size.unlabeled


def to_run() -> list[str]:
    """The stages whose inputs or outputs changed, and all that come behind them, in the order in which they run."""
    try:
        return _to_run()
    except DvcException as error:
        reason = str(error).replace("\\n", " ")  # as DVC writes a line break in its messages about locks
        raise UserError(f"DVC cannot say what is to be run: {' '.join(reason.split())}") from None


def _to_run() -> list[str]:
    with Repo() as repo:
        graph = repo.index.graph  # from a stage to those that it needs
        # The check runs whenever params.yaml changes; its output is a constant, so what is behind it does not.
        names = set(repo.status()) - {"check"}
        changed = {stage for stage in repo.index.stages if stage.addressing in names}
        behind = {before for stage in changed for before in networkx.ancestors(graph, stage)}
        order = [stage for stage in reversed([*networkx.topological_sort(graph)]) if stage in changed | behind]
        return [stage.addressing for stage in order]


def pretrained_input_size(recipe: Recipe, params: Params) -> tuple[int, int] | None:
    """The input size (H,W) of the pretrained weights that `recipe` begins with; None for other initial weights."""
    if recipe.training.initial != "pretrained":
        return None
    height, width = description(params.pretraining, recipe.model)["input_size"]
    return height, width


def clock(seconds: float) -> str:
    """A duration as text, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    main()
