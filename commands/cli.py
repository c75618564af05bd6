"""The console script: noisy-student COMMAND [arguments], which is python -m commands.COMMAND."""

import ast
import sys
from importlib import import_module
from pathlib import Path

from noisy_student.core.errors import did_you_mean

COMMANDS = (
    "plan",
    "watch",
    "predict",
    "label",
    "label-next",
    "label-studio",
    "iterate",
    "table",
    "compare",
    "export",
    "serve",
    "noise-sheet",
    "configure",
    "list-shards",
    "submit",
    "follow",
    "docs",
)
PACKAGES = {  # that a command may lack, by the extra that brings them
    "": ("torch", "timm", "torchvision"),  # an installation that runs exported models alone
    "pipeline": ("dvc", "networkx", "ruamel", "scipy", "jinja2", "matplotlib", "mlxtend", "huggingface_hub"),
    "slurm": ("submitit",),
    "export": ("onnx", "onnxscript"),
    "serve": ("starlette", "uvicorn", "anyio", "prometheus_client"),
}
EXTRAS = {package: extra for extra, packages in PACKAGES.items() for package in packages}


def main(argv: list[str] | None = None) -> None:
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h"):
        print(overview())
    elif name not in COMMANDS:
        _exit(2, f"error: the command {name} is unknown; {did_you_mean(name.replace('_', '-'), COMMANDS)}")
    else:
        run(name, arguments)


def overview() -> str:
    """Each command with the first line of its module's docstring; none is imported."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(name)}" for name in COMMANDS]
    ending = "noisy-student COMMAND --help says what a command takes."
    return "\n".join(["usage: noisy-student COMMAND [arguments]", "", *lines, "", ending])


def summary(name: str) -> str:
    """What a command does: the first line of its docstring, up to how the module is called."""
    source = Path(__file__).with_name(f"{_module(name)}.py").read_text(encoding="utf-8")
    first = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    return first.partition(": python -m ")[0].removesuffix(".")


def run(name: str, arguments: list[str]) -> None:
    """Import the command's module and call it. Exits with one sentence when a package of the pipeline is missing."""
    sys.argv[0] = f"noisy-student {name}"  # what argparse calls the program
    try:
        import_module(f"commands.{_module(name)}").main(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        needs = f"error: noisy-student {name} needs {package}, which is not installed"
        extra = f"[{EXTRAS[package]}]" if EXTRAS[package] else ""
        _exit(1, f"{needs}; run pip install '.{extra}' in the project's folder")


def _module(name: str) -> str:
    return name.replace("-", "_")


def _exit(status: int, sentence: str) -> None:
    print(sentence, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
