"""Does self-training help where nobody tuned it? Recipes on six sources of images.

    python -m benchmarks.suite SOURCE                            # what is missing of benchmarks/suite.yaml
    python -m benchmarks.suite SOURCE --sources mnist_5k tiles   # of some sources

SOURCE has the Parquet files of benchmarks.photo_folders; photographs are laid out below benchmarks/suite/. Each recipe
is tried on each source with the seeds of CHOOSING, on validation labels. What is best on the other five sources is
chosen for a source, and reported with the seeds of REPORTING beside the recipe of today: teacher, student, control on
labels alone, oracle, and consistency training alone. Each source is a study (see benchmarks/study.py), which goes on
where it stopped; benchmarks/studies/suite.md has the tables of all.
"""

from argparse import ArgumentParser
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.photo_folders import in_test, lay_out, photographs
from benchmarks.processes import ROOT
from benchmarks.study import RESULTS, run_without_dvc, study
from commands.docs import percent
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, replacing, write_bytes
from noisy_student.core.markdown import markdown_table

SUITE, TABLE, FOLDERS = ROOT / "benchmarks" / "suite.yaml", RESULTS / "suite.md", ROOT / "benchmarks" / "suite"
CHOOSING, REPORTING = [100, 101, 102], [0, 1, 2]  # seeds
TODAY = "today"  # the recipe that a configuration ships
ORACLE = {"pool_controls": {"oracle": {"kind": "oracle", "of": "iter2"}}}
CONSISTENCY = {"current": "iter1", "controls": {}}  # and an iteration of the source's own
CIFAR_TEST = 2000  # images of CIFAR-10's test split, the first ones
Suite = dict[str, dict[str, Any]]


@cli_main
def main(argv: list[str] | None = None) -> None:
    suite: Suite = yaml.safe_load(SUITE.read_text(encoding="utf-8"))
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="the folder of the Parquet files")
    parser.add_argument("--sources", nargs="+", default=list(suite["sources"]), help="of them; none: all")
    args = parser.parse_args(argv)
    if unknown := set(args.sources) - set(suite["sources"]):
        raise UserError(f"there is no source {min(unknown)}; there are {', '.join(suite['sources'])}")
    run = partial(run_without_dvc, root=ROOT)
    for name in args.sources:
        lay_out_all(suite["sources"][name].get("images"), args.source)
        study(study_name(name, choosing=True), choosing_plan(suite, name), run)
        write_bytes(TABLE, tables(suite).encode())
    for name in args.sources if is_chosen(suite) else ():
        study(study_name(name, choosing=False), reporting_plan(suite, name), run)
        write_bytes(TABLE, tables(suite).encode())


def study_name(source: str, choosing: bool) -> str:
    """The name of a source's study."""
    return f"{'choose_suite' if choosing else 'suite'}_{source}"


def choosing_plan(suite: Suite, name: str) -> dict[str, Any]:
    """The study that tries all recipes on a source."""
    source = suite["sources"][name]
    return {
        "question": f"which recipe is best on {name}?",
        "chooses": True,
        "params": source["params"],
        "seeds": CHOOSING,
        "changes": changes_of(source) | {"controls": {}} | source["choosing"],
        "settings": suite["recipes"],
    }


def reporting_plan(suite: Suite, name: str) -> dict[str, Any]:
    """The study that reports the recipe of today, the chosen one, and consistency training alone on a source."""
    source, recipes = suite["sources"][name], suite["recipes"]
    settings = {each: ORACLE | recipes[each] for each in dict.fromkeys([TODAY, chosen_without(suite, name)])}
    return {
        "question": f"does self-training help on {name}?",
        "params": source["params"],
        "seeds": REPORTING,
        "changes": changes_of(source),
        "settings": settings | {"consistency_alone": CONSISTENCY | source["consistency"]},
    }


def changes_of(source: dict[str, Any]) -> dict[str, Any]:
    """What a source changes of its configuration."""
    folder = {"data.path": (FOLDERS / source["images"]).relative_to(ROOT).as_posix()} if "images" in source else {}
    return source.get("changes", {}) | folder | {"distilled": {}}


def lay_out_all(images: str | None, source: Path) -> None:
    """Write all `images` of that name below FOLDERS, each training image with its label, unless they are there."""
    if images is None or (FOLDERS / images).exists():
        return
    FOLDERS.mkdir(exist_ok=True)
    table = photographs(images, source, None, CIFAR_TEST)
    with replacing(FOLDERS / images) as temporary:
        lay_out(table.assign(part=np.where(in_test(table), "test", "labeled")), temporary)


def is_chosen(suite: Suite) -> bool:
    """Whether all recipes were tried on all sources with all seeds."""
    wanted = set(product(suite["recipes"], CHOOSING))
    paths = [RESULTS / f"{study_name(name, choosing=True)}.csv" for name in suite["sources"]]
    return all(path.exists() and wanted <= set(read_csv(path).groupby(["setting", "seed"]).groups) for path in paths)


def chosen(suite: Suite) -> pd.DataFrame:
    """Mean validation accuracy of the last iteration: a row for each recipe, a column for each source."""
    found = {}
    for source in suite["sources"]:
        rows = read_csv(RESULTS / f"{study_name(source, choosing=True)}.csv")
        last = rows.groupby(["setting", "seed"], sort=False)["validation_accuracy"].last()
        found[source] = last.groupby("setting").mean()
    return pd.DataFrame(found).reindex(list(suite["recipes"]))


def chosen_without(suite: Suite, source: str) -> str:
    """The recipe that is best on the other sources: by the mean of its leads over that of today."""
    others = chosen(suite).drop(columns=source)
    return str(others.sub(others.loc[TODAY]).mean(axis=1).idxmax())


def tables(suite: Suite) -> str:
    """The tables of what was chosen, if all was tried, and of what it came to on the sources that were reported."""
    parts = ["# The suite", "Six sources; means ± half of the 95 % t interval over seeds, in per cent or points."]
    if is_chosen(suite):
        parts += ["## Validation accuracy of each recipe", choices(suite)]
    found = [row for name in suite["sources"] for row in reported(name)]
    header = ["source", "recipe", "n", "teacher", "student", "over the control", "over the oracle", "balanced"]
    return "\n\n".join([*parts, "## Test accuracy", markdown_table(header, found)]) + "\n"


def choices(suite: Suite) -> str:
    """Each recipe's validation accuracy by source, and which is chosen for a source without it."""
    by_recipe = chosen(suite)
    rows = [[str(name), *(f"{100 * value:.2f}" for value in row)] for name, row in by_recipe.iterrows()]
    rows.append(["chosen without it", *(chosen_without(suite, str(source)) for source in by_recipe)])
    return markdown_table(["recipe", *map(str, by_recipe)], rows)


def reported(source: str) -> list[list[str]]:
    """A row for each setting of the source's study, if it was begun."""
    path, rows = RESULTS / f"{study_name(source, choosing=False)}.csv", []
    for setting, of in read_csv(path).groupby("setting", sort=False) if path.exists() else ():
        runs = of.groupby("seed")
        first, last = runs.first(), runs.last()
        kinds = [f"gain_over_{kind}" for kind in ("control", "oracle_control")]
        gains = [percent(last[each], sign="+") if each in last else "" for each in kinds]
        figures = [percent(first["accuracy"]), percent(last["accuracy"]), *gains, percent(last["balanced_accuracy"])]
        rows.append([source, str(setting), str(len(last)), *figures])
    return rows


if __name__ == "__main__":
    main()
