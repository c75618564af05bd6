"""Go round again, with a wider student each time, as long as it helps: python -m commands.iterate [--at-most 3]

Each round is an experiment: the next iteration, taught by the current one, and its control. It goes on while held-out
labels show that the new iteration is better. The model of the next iteration is wider: cnn_W and mlp_W by about a
third, the factor of wrn_D_K by one. A model of torchvision or timm stays, unless --model names another one.
"""

import re
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml

from noisy_student.check import Params, check
from noisy_student.core.config import ParamsFile, changed
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_json, write_bytes
from noisy_student.core.signals import Stopped
from noisy_student.evaluation import gate
from noisy_student.evaluation.results import verdict

SUMMARY = Path("metrics/summary.json")
BACK = "`git checkout HEAD -- params.yaml dvc.lock && dvc checkout`"
WIDTH = re.compile(r"((?:cnn|mlp|wrn)(?:_\d+)*?_)(\d+)")  # a model of ours, and the number that makes it wider
ALONE = {"cnn": "cnn_16", "mlp": "mlp_256"}  # what a name without a number means


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--at-most", type=int, default=3, help="rounds")
    parser.add_argument("--model", help="of the next iterations; none: by the rule")
    args = parser.parse_args(argv)
    if args.at_most < 1:
        raise UserError(f"--at-most was {args.at_most}; it must be 1 or more")
    for _ in range(args.at_most):
        name = run_next(args.model)
        summary = read_json(SUMMARY)
        print(verdict(summary), gate.sentence(summary["deploy"]), sep="\n", flush=True)
        if not is_better(summary["deploy"], name):
            print(
                f"{name} is not shown to be better on held-out labels, so this was the last round; "
                f"params.yaml has it as `current`, and {BACK} goes back to the last commit",
                flush=True,
            )
            return
    print(f"{args.at_most} rounds were run; call it again to go on", flush=True)


def is_better(deploy: dict[str, Any], name: str) -> bool:
    """Whether the gate of a summary deploys the iteration of that name because it leads another model."""
    return bool(deploy["decided"] and deploy["name"] == name and deploy.get("lead_low", 0) > 0)


def run_next(model: str | None) -> str:
    """Run the next iteration as an experiment of its own; return its name.

    Raises `UserError`, with params.yaml as it was, where the iteration cannot be run.
    """
    file = ParamsFile()
    params, written = check(file), file.path.read_bytes()
    if not SUMMARY.exists() or read_json(SUMMARY)["iteration"] != params.current:
        raise UserError(f"the run of {params.current} has not ended; run `dvc repro` first, or {BACK}")
    name, changes = next_iteration(params, model)
    changed(file.values, changes)
    check(file)
    words = [word for key, value in changes.items() for word in ("-S", f"++{key}={inline(value)}")]
    print(f"{name}: {' '.join(words)}", flush=True)
    command = [sys.executable, "-m", "dvc", "exp", "run", "--name", name.replace("iter", "iter-"), *words]
    process = subprocess.Popen(command)
    try:
        status = process.wait()
    except Stopped:  # DVC was stopped, too, and puts its own things in order first
        process.wait()
        raise
    if status:
        write_bytes(file.path, written)
        raise UserError(f"dvc could not run {name}, and params.yaml is as it was; mend what it says above")
    return name


def next_iteration(params: Params, model: str | None = None) -> tuple[str, dict[str, Any]]:
    """The name of the iteration after the current one, and what params.yaml has otherwise for it, by dotted key.

    The controls and the distilled models of the current iteration become those of the next one; where it has no control
    on labels alone, the first one does.
    """
    current, before = params.current, params.iterations.get(params.current)
    name = f"iter{max([0, *(int(each.removeprefix('iter')) for each in params.iterations)]) + 1}"
    named = model or larger(before.model if before else params.teacher.model)
    own = (before.model_dump(exclude_unset=True) if before else {}) | {"teacher": current, "model": named}
    controls = [each for each, control in params.controls.items() if control.of == current] or [*params.controls][:1]
    of_pool = [each for each, control in params.pool_controls.items() if control.of == current]
    small = [each for each, distilled in params.distilled.items() if distilled.teacher == current]
    return name, {
        f"iterations.{name}": own,
        "current": name,
        **{f"controls.{each}.of": name for each in controls},
        **{f"pool_controls.{each}.of": name for each in of_pool},
        **{f"distilled.{each}.teacher": name for each in small},
    }


def larger(model: str) -> str:
    """A model a third wider than `model`, by an even number, or `model` itself where a library has it."""
    found = WIDTH.fullmatch(ALONE.get(model, model))
    if not found:
        return model
    width = int(found[2])
    return f"{found[1]}{width + (1 if model.startswith('wrn') else max(2, 2 * round(width / 6)))}"


def inline(value: Any) -> str:
    """A value as YAML on one line."""
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("...\n").strip()


if __name__ == "__main__":
    main()
