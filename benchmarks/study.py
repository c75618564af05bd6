"""Run the pipeline over seeds and settings and say what came out, with intervals.

    python -m benchmarks.study                # every study of benchmarks/studies.yaml
    python -m benchmarks.study default        # one of them

A study goes on where it stopped: what stands in benchmarks/studies/<name>.csv with the same parameters is not run
again, and what stands there with others is dropped. With dvc, a run is a DVC experiment of the code as it stands, in a
folder of its own; where dvc is not installed the commands of dvc.yaml are run in their order. The table of a study that
chooses a recipe (`chooses: true`) has no figure of the test split or of the pool's truth.
"""

import copy
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from benchmarks.expand import commands
from benchmarks.processes import ROOT
from benchmarks.studies_table import markdown
from commands.configure import values
from noisy_student.core.config import changed, flat
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, read_json, write_bytes, write_csv
from noisy_student.data.user_images import LISTS

STUDIES, RESULTS = ROOT / "benchmarks" / "studies.yaml", ROOT / "benchmarks" / "studies"
KEYS = ["setting", "seed", "params"]  # what a row of a study is known by
Run = tuple[pd.DataFrame, dict[str, Any]]  # history.csv and summary.json
CHOOSING = [  # the columns of history.csv that may choose a recipe
    "iteration",
    "teacher",
    "model",
    "parameters",
    "training_labels",
    "held_out_labels",
    "validation_accuracy",
    "validation_loss",
    "kept_fraction",
]


@cli_main
def main(argv: list[str] | None = None) -> None:
    studies = yaml.safe_load(STUDIES.read_text(encoding="utf-8"))
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", help=f"of: {', '.join(studies)}; none: all")
    parser.add_argument("--without-dvc", action="store_true", help="run the commands of dvc.yaml, also where dvc is")
    args = parser.parse_args(argv)
    unknown = set(args.studies) - set(studies)
    if unknown:
        raise UserError(f"there is no study {', '.join(unknown)} in {STUDIES.name}; it has {', '.join(studies)}")
    with_dvc = importlib.util.find_spec("dvc") is not None and not args.without_dvc
    for name in args.studies or studies:
        study(name, studies[name], run_with_dvc if with_dvc else partial(run_without_dvc, root=ROOT))


def study(name: str, plan: dict[str, Any], run) -> None:
    """Do the runs of a study that are not in its table yet; the table is written anew after each."""
    path = RESULTS / f"{name}.csv"
    base = values(ROOT / plan["params"])
    wanted = {
        (setting, seed): changed(copy.deepcopy(base), {**plan.get("changes", {}), **(changes or {}), "seed": seed})
        for seed in plan["seeds"]
        for setting, changes in plan["settings"].items()
    }
    tables = _done(path, wanted)
    for (setting, seed), params in wanted.items():
        if (setting, seed) in tables:
            continue
        print(f"study {name}: {setting}, seed {seed}", flush=True)
        history, summary = run(f"study-{name}-{setting}-{seed}", placed(params))
        tables[setting, seed] = _rows(history, summary, plan.get("chooses", False)).assign(
            setting=setting, seed=seed, params=fingerprint(params)
        )
        rows = pd.concat([tables[run] for run in wanted if run in tables], ignore_index=True)
        write_csv(path, rows[[*KEYS, *rows.columns.drop(KEYS)]])
        write_bytes(path.with_suffix(".md"), markdown(name, plan, rows).encode())


def fingerprint(params: dict[str, Any]) -> str:
    """A name for all of `params`, in whatever order its keys are written."""
    return "sha256:" + hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:12]


def _done(path: Path, wanted: dict[tuple[str, int], dict[str, Any]]) -> dict[tuple[str, int], pd.DataFrame]:
    """The rows of each run that stands in the table at `path` with the parameters that are wanted of it."""
    rows = read_csv(path) if path.exists() else pd.DataFrame(columns=KEYS)
    if not set(KEYS) <= set(rows):
        raise UserError(f"{path} has no columns {', '.join(KEYS)}, so it is no study's table; remove it")
    groups = {(setting, seed, params): group for (setting, seed, params), group in rows.groupby(KEYS, sort=False)}
    found = {run: groups.get((*run, fingerprint(params))) for run, params in wanted.items()}
    return {run: group for run, group in found.items() if group is not None}


def placed(params: dict[str, Any]) -> dict[str, Any]:
    """`params` for a run in another folder: where one's own images are, from the root of all."""
    own = {name: params[name] for name in ("data", "pretraining") if params[name]["source"] in (*LISTS, "file")}
    return params | {name: {**section, "path": str(ROOT / section["path"])} for name, section in own.items()}


def run_with_dvc(name: str, params: dict[str, Any]) -> Run:
    """One run as a DVC experiment of this name, in a temporary folder beside the workspace."""
    from dvc.api import read  # a second to import

    base = values()
    here, wanted = flat(base), flat(params)
    sets = [
        f"++{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in wanted.items()
        if here.get(key, ...) != value
    ]
    sets += [f"~{key}" for key in removed(base, params)]
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "exp", "remove", name], cwd=ROOT, capture_output=True, check=False)
    command = [*dvc, "exp", "run", "--temp", "--name", name]
    finish([*command, *(part for each in sets for part in ("--set-param", each))], ROOT)
    with tempfile.TemporaryDirectory() as folder:
        for file in ("history.csv", "summary.json"):
            (Path(folder) / file).write_text(read(f"metrics/{file}", repo=str(ROOT), rev=name))
        # the table is what stays
        subprocess.run([*dvc, "exp", "remove", name], cwd=ROOT, capture_output=True, check=True)
        return read_csv(Path(folder) / "history.csv"), read_json(Path(folder) / "summary.json")


def run_without_dvc(name: str, params: dict[str, Any], root: Path | None = None) -> Run:
    """One run by the commands of dvc.yaml, in a temporary copy of the code.

    What is finished of other runs is taken over from `root`/work, as under DVC: settings that differ in their students
    share a teacher.
    """
    with tempfile.TemporaryDirectory(prefix=name) as folder:
        run_commands(Path(folder), params, {"DVC_ROOT": str(root)} if root else {})
        return read_csv(Path(folder) / "metrics/history.csv"), read_json(Path(folder) / "metrics/summary.json")


def run_commands(
    folder: Path, params: dict[str, Any], variables: dict[str, str] | None = None, corrections: str | None = None
) -> dict[str, float]:
    """Run the commands of dvc.yaml on a copy of the code in `folder`; how many seconds each stage took.

    `corrections` is the text of corrections.csv in place of the project's.
    """
    seconds, pipeline = {}, copy_project(folder, params)
    if corrections is not None:
        (folder / "corrections.csv").write_text(corrections)
    for stage, lines in commands(pipeline, params):
        started = time.monotonic()
        for line in lines:
            finish([sys.executable, *line.split()[1:]], folder, variables)
        seconds[stage] = time.monotonic() - started
    return seconds


def copy_project(folder: Path, params: dict[str, Any]) -> dict[str, Any]:
    """Put the code, with these `params`, into `folder`, where its commands can run; return its dvc.yaml, parsed."""
    for part in ("noisy_student", "stages", "configs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("dvc.yaml", "corrections.csv"):
        shutil.copy(ROOT / file, folder)
    for section in ("data", "pretraining"):
        if not Path(params[section]["path"]).is_absolute():  # no images of one's own, see `placed`
            (folder / params[section]["path"]).mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    for outputs in ("metrics/controls", "metrics/distilled", "metrics/robustness", "models/pool_controls"):
        (folder / outputs).mkdir(parents=True)
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())


def environment() -> dict[str, str]:
    """The environment of this process, in which the `python` of dvc.yaml is the one that runs."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def finish(command: list[str], folder: Path, variables: dict[str, str] | None = None) -> None:
    """Run a command that says itself what goes wrong. Raises `UserError` when it fails."""
    if subprocess.run(command, cwd=folder, env={**environment(), **(variables or {})}, check=False).returncode:
        raise UserError(f"`{' '.join(command[1:6])} …` failed, as it says above; mend it and run the study again")


def removed(base: dict[str, Any], params: dict[str, Any], prefix: str = "") -> list[str]:
    """The dotted keys of `base` that `params` no longer has: of a whole section that is gone, the section's alone."""
    found = []
    for key, value in base.items():
        if key not in params:
            found.append(f"{prefix}{key}")
        elif isinstance(value, dict) and isinstance(params[key], dict):
            found += removed(value, params[key], f"{prefix}{key}.")
    return found


def _rows(history: pd.DataFrame, summary: dict[str, Any], chooses: bool) -> pd.DataFrame:
    """A row for each iteration, and behind them one for each model that an iteration was distilled into."""
    distilled = [{"iteration": name, **figures} for name, figures in summary.get("distilled", {}).items()]
    rows = pd.concat([history.astype(object), pd.DataFrame(distilled)], ignore_index=True).reindex(
        columns=list(history)
    )
    counts = ["training_labels", "held_out_labels"]
    rows[counts] = rows[counts].ffill()
    if chooses:
        return rows[CHOOSING]
    for gain in (name for name in summary if name.startswith("gain_over_") and not name.endswith(("_low", "_high"))):
        rows.loc[rows["iteration"] == summary["iteration"], gain] = summary[gain]
    return rows


if __name__ == "__main__":
    main()
