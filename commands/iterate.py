"""Go round again, with a larger student each time, as long as it helps: python -m commands.iterate [--at-most 3]

Each round is an experiment: the next iteration, taught by the current one, and its control. It goes on while the new
iteration is the model to deploy, that is, while held-out labels show that it is better. The model of the next iteration
is a third wider (cnn_W, mlp_W, and the factor of wrn_D_K); a model of torchvision or timm stays, unless --model names
another one.
"""

import re
import subprocess
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml

from noisy_student.check import Params, check
from noisy_student.core.config import ParamsFile
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_json
from noisy_student.evaluation import gate
from noisy_student.evaluation.results import verdict

SUMMARY = Path("metrics/summary.json")
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
        if not (summary["deploy"]["decided"] and summary["deploy"]["name"] == name):
            print(f"{name} is not shown to be better on held-out labels, so this was the last round", flush=True)
            return
    print(f"{args.at_most} rounds were run; call it again to go on", flush=True)


def run_next(model: str | None) -> str:
    """Run the next iteration as an experiment of its own; return its name. Raises `UserError` where DVC fails."""
    params = check(ParamsFile())
    name, changes = next_iteration(params, model)
    print(f"{name}: {', '.join(changes)}", flush=True)
    words = [word for change in changes for word in ("-S", change)]
    done = subprocess.run(["dvc", "exp", "run", "--name", name.replace("iter", "iter-"), *words], check=False)
    if done.returncode:
        raise UserError(
            f"dvc could not run {name}; see above, and `git checkout params.yaml` takes its parameters back"
        )
    return name


def next_iteration(params: Params, model: str | None = None) -> tuple[str, list[str]]:
    """The name of the iteration after the current one, and its changes of params.yaml, as `dvc exp run -S` takes them.

    Controls and distilled models of the current iteration become those of the next one.
    """
    current, before = params.current, params.iterations.get(params.current)
    name = f"iter{max([0, *(int(each.removeprefix('iter')) for each in params.iterations)]) + 1}"
    named = model or larger(before.model if before else params.teacher.model)
    own = (before.model_dump(exclude_unset=True) if before else {}) | {"teacher": current, "model": named}
    changes = [f"++iterations.{name}={_inline(own)}", f"current={name}"]
    for section, controls in (("controls", params.controls), ("pool_controls", params.pool_controls)):
        changes += [f"{section}.{each}.of={name}" for each, control in controls.items() if control.of == current]
    of_current = [each for each, small in params.distilled.items() if small.teacher == current]
    return name, changes + [f"distilled.{each}.teacher={name}" for each in of_current]


def larger(model: str) -> str:
    """A model a third wider than `model`, by an even number, or `model` itself where a library has it."""
    found = WIDTH.fullmatch(ALONE.get(model, model))
    if not found:
        return model
    width = int(found[2])
    return f"{found[1]}{width + (1 if model.startswith('wrn') else max(2, 2 * round(width / 6)))}"


def _inline(values: dict[str, Any]) -> str:
    """A mapping as YAML on one line."""
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=10**6).strip()


if __name__ == "__main__":
    main()
