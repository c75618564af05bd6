"""Check params.yaml and say what `dvc repro` is about to run and about how long it takes: python -m commands.plan

The time is a forecast: a few steps of each model, measured now, times the steps that params.yaml asks for.
"""

from argparse import ArgumentParser

import networkx
from dvc.exceptions import DvcException
from dvc.repo import Repo
from rich.console import Console
from rich.table import Table

from noisy_student.check import Params, check, check_orphans
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError, cli_main
from noisy_student.data.sources import SIZES, SourceParams
from noisy_student.models.device import setup
from noisy_student.pretraining import description
from noisy_student.training.forecast import forecast
from noisy_student.training.params import Recipe

WITH_POOL = ("train_student@", "train_pool_control@", "distill@")
TRAINERS = ("train_teacher", "train_control@", *WITH_POOL)
START_SECONDS = 3.0  # about what a stage takes to start
CLASSES = 10  # assumed for a user's images before they are read; the number hardly changes the time


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
    planned = trainings(params, stages)
    print("measuring a few steps of each training", flush=True)
    table = Table(title="About to run", title_justify="left")
    for column in ("stage", "model", "images", "forecast"):
        table.add_column(column, justify="left" if column in ("stage", "model") else "right")
    total = START_SECONDS * len(stages)
    for stage, recipe, data in planned:
        classes = CLASSES if data.is_user_images else len(SIZES[data.source].training)
        given, with_pool = pretrained_input_size(recipe, params), stage.startswith(WITH_POOL)
        seconds = forecast(recipe, data.shape(), classes, params.runtime, device, with_pool, given)
        total += seconds
        images = recipe.ensemble_size * recipe.training.steps * recipe.training.batch_size
        table.add_row(stage, recipe.model, f"{images:,}" if images else "linear probe", clock(seconds))
    others = len(set(stages) - {stage for stage, _, _ in planned})
    Console().print(table, f"and {others} quick stages; about {clock(total)} in all on {device}\n", sep="")


def trainings(params: Params, stages: list[str]) -> list[tuple[str, Recipe, SourceParams]]:
    """The trainings of `stages`: which stage, how, and on what images."""
    found: list[tuple[str, Recipe, SourceParams]] = []
    recipes = params.recipes()
    for stage in stages:
        if stage == "pretrain":
            trained = params.pretraining_recipes().values()
            found += [(stage, recipe, params.pretraining) for recipe in trained]
        elif stage.startswith(TRAINERS):
            recipe = recipes["iter0" if stage == "train_teacher" else stage.split("@")[1]]
            found.append((stage, recipe, params.data))
    return found


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
    """The input size (H,W) of the pretrained weights that `recipe` begins with; None for other first weights."""
    if recipe.training.initial != "pretrained":
        return None
    height, width = description(params.pretraining, recipe.model)["input_size"]
    return height, width


def clock(seconds: float) -> str:
    """A duration as text, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


if __name__ == "__main__":
    main()
