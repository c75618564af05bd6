"""What has to be seen on a GPU, in one command: python -m benchmarks.gpu [--cifar10 SOURCE]

    tests     the tests marked gpu: the stages end to end, the same bytes from two runs and from a resumed one, a CPU's
              logits, and memory
    rates     images a second of a training step, ours and the best that a plain loop of torch reaches on a batch that
              never changes, over PRECISIONS and memory layouts; beside them a plain loop over torchvision's loader,
              and the floor: images a second if multiply-adds, or bytes, were all that took time
    cifar10   configs/cifar10.yaml with 4,000 labels, 1,000 of them held out, its steps shortened, as far as the time
              goes. SOURCE has cifar10-train.parquet and cifar10-test.parquet; without it, this part is left out

Each result goes to the folder OUT as it comes. What stands there of the same hardware is not measured again, but for
tests that failed. A piece that fails is told, and the others are done. After --minutes nothing new is begun. Needs the
packages of pyproject.toml, without dvc, and no network. `--dry` does all of it in little on a CPU.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import cifar_folder, limits
from benchmarks.expand import commands
from benchmarks.processes import ROOT, hardware, run
from benchmarks.rows import add_row, has_row
from benchmarks.side_by_side import plain_training_rate
from benchmarks.speed import LAYOUTS, MACHINE, PRECISIONS, floor
from benchmarks.study import copy_project, environment
from commands.configure import values
from noisy_student.core.config import changed
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_csv, read_json, write_bytes, write_json
from noisy_student.core.markdown import markdown_table

OUT = ROOT / "benchmarks" / "gpu"
DEVICE = "NOISY_STUDENT_GPU_TESTS"  # environment variable: the device of the tests marked gpu
PARTS, TESTS = ("tests", "rates", "cifar10"), "tests.json"
LAID_OUT = "laid_out.json"  # in the folder of CIFAR-10's run, once all is there
LINES = 40  # of what the tests say, the last ones


class Size(NamedTuple):
    """How much of everything is done."""

    device: str
    models: dict[str, tuple[int, int]]  # pixels a side and channels
    cifar10: dict[str, Any]  # what differs from configs/cifar10.yaml
    images: int  # of CIFAR-10, in all
    labels: int  # of them, a fourth of which is held out
    seconds: float  # that a rate is measured


WHOLE = Size(
    device="cuda",
    models={
        "cnn_32": (28, 1),
        "wrn_28_2": (32, 3),
        "torchvision/resnet18": (96, 3),
        "timm/tf_efficientnet_lite0": (128, 3),
    },
    cifar10={"teacher.training.steps": 2000, "training.steps": 5000},
    images=60_000,
    labels=4000,
    seconds=3.0,
)
DRY = Size(
    device="cpu",
    models={"cnn_4": (32, 3)},
    cifar10={
        "runtime.precision": "float32",
        "teacher.model": "cnn_4",
        "teacher.training.steps": 2,
        "training.steps": 2,
        "training.batch_size": 16,
        "pseudo_labels.threshold": 0,  # a teacher of two steps is sure of nothing
        **dict.fromkeys(("guards.collapsed", "guards.useless", "guards.imprecise"), "off"),  # and right by chance
        "data.calibration": 10,
        "data.validation": 10,
        "iterations": {"iter1": {"teacher": "iter0", "model": "cnn_4"}},
        "controls": {},
        "current": "iter1",
    },
    images=600,
    labels=200,
    seconds=0.3,
)


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", type=Path, help="the folder of CIFAR-10's Parquet files")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--minutes", type=float, default=8.0, help="after which nothing new is begun")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which of them; none: all")
    parser.add_argument("--dry", action="store_true", help="all of it in little, on a CPU")
    args = parser.parse_args(argv)
    size = DRY if args.dry else WHOLE
    if size.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch finds no GPU; take a machine with one, or --dry")
    end, failed = time.monotonic() + 60 * args.minutes, 0
    for work in works(args.out, args.cifar10, size, args.parts):
        if time.monotonic() > end:
            print(f"the {args.minutes:g} minutes are over; run again to go on")
            break
        try:
            work()
        except UserError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            failed += 1
        write_bytes(args.out / "gpu.md", markdown(args.out).encode())
    if failed:
        raise UserError(f"{failed} of the pieces failed, as said above; run again to try them once more")


def works(out: Path, cifar10: Path | None, size: Size, parts: Sequence[str]) -> Iterator[Callable[[], None]]:
    """What is to be done of `parts`, in order, without what `out` has already. Each is to be done before the next is
    asked for."""
    if "tests" in parts and not has_passed(out):
        yield partial(tested, out, size)
    for model, precision in product(size.models, PRECISIONS) if "rates" in parts else ():
        if not has_row(out / "rates.csv", model=model, precision=precision, hardware=hardware()):
            yield partial(rated, out, size, model, precision)
    if cifar10 and "cifar10" in parts:
        folder = out / "run"  # kept, so that a later run goes on with it
        if not (folder / LAID_OUT).exists():
            yield partial(lay_out, folder, cifar10, size)
        for stage, lines in commands(*laid_out(folder)):
            key = {"stage": stage, "hardware": hardware()}
            if not has_row(out / "cifar10.csv", **key):
                yield partial(staged, out, folder, stage, lines)
                if not has_row(out / "cifar10.csv", **key):
                    return  # the others need what it should have made


def has_passed(out: Path) -> bool:
    """Whether the tests passed on this hardware."""
    found = read_json(out / TESTS) if (out / TESTS).exists() else {}
    return bool(found) and found["passed"] and found["hardware"] == hardware()


def measured(seconds: float, module: str, *arguments: str) -> Any:
    """What a module of benchmarks prints in a process of its own, which measures a rate for so many `seconds`."""
    variables = os.environ | {limits.SECONDS_VARIABLE: str(seconds)}
    return run(ROOT, sys.executable, "-m", f"benchmarks.{module}", *arguments, environment=variables).figures()


def tested(out: Path, size: Size) -> None:
    """Run the tests marked gpu on the device of `size` and keep what they said. Raises `UserError` where one fails."""
    line = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short", "tests/gpu"]
    done = subprocess.run(
        line, cwd=ROOT, env=os.environ | {DEVICE: size.device}, capture_output=True, text=True, check=False
    )
    said = done.stdout.strip().splitlines()[-LINES:]
    print(*said, sep="\n", flush=True)
    write_json(out / TESTS, {"passed": done.returncode == 0, "said": said, "hardware": hardware()})
    if done.returncode:
        raise UserError(f"a test failed; {out / TESTS} has what it said")


def rated(out: Path, size: Size, model: str, precision: str) -> None:
    """Add the row of training steps of that `model`."""
    probe = ("training", model, *map(str, size.models[model]), f"device={size.device}", f"precision={precision}")
    ours = measured(size.seconds, "work", *probe)
    plain = {
        layout: measured(size.seconds, "limits", *probe, f"channels_last={flag}") for layout, flag in LAYOUTS.items()
    }
    best = max(plain, key=lambda layout: plain[layout]["images_per_second"])
    rate, limit = ours["images_per_second"], plain[best]["images_per_second"]
    row = {"model": model, "pixels": size.models[model][0], "precision": precision, "ours": round(rate)}
    row |= {"limit": round(limit), "layout": best, "ratio": round(rate / limit, 2)}
    side, channels = size.models[model]
    if channels == 3:  # the loader's pictures are in color
        row["loader"] = round(measured(size.seconds, "gpu", "loader", model, str(side), precision, size.device))
    row["floor"] = floor(plain[best], *machine(size.device, size.seconds, precision))
    add_row(out / "rates.csv", row | {"hardware": hardware()})


@cache
def machine(device: str, seconds: float, precision: str) -> tuple[float, float]:
    """The rates of matrix products, in 10^9 operations a second, and of copies, in 10^9 bytes a second."""
    figures = [measured(seconds, "limits", kind, f"precision={precision}", f"device={device}") for kind in MACHINE]
    operations, copied = (each[figure] for each, figure in zip(figures, MACHINE.values(), strict=True))
    return operations, copied


def lay_out(folder: Path, cifar10: Path, size: Size) -> None:
    """Put the code and the images of CIFAR-10's run into `folder`."""
    source = {"data.source": "folder", "data.path": "images", "data.image_size": 32, "runtime.device": size.device}
    params = changed(values(ROOT / "configs" / "cifar10.yaml"), {**source, **size.cifar10})
    params["data"]["labeled_per_class"] = None  # all of the folder
    shutil.rmtree(folder, ignore_errors=True)  # half of it, of a run that was killed
    images = [str(cifar10), str(folder / "images"), "--images", str(size.images), "--labels", str(size.labels)]
    cifar_folder.main(images)
    write_json(folder / LAID_OUT, {"pipeline": copy_project(folder, params), "params": params})


def laid_out(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """dvc.yaml and params.yaml of the run that is laid out in `folder`; without a stage where none is."""
    found = read_json(folder / LAID_OUT) if (folder / LAID_OUT).exists() else {"pipeline": {"stages": {}}, "params": {}}
    return found["pipeline"], found["params"]


def staged(out: Path, folder: Path, stage: str, lines: list[str]) -> None:
    """Run a stage and add its row, which has the accuracy where it measures one."""
    figures = [run(folder, sys.executable, *line.split()[1:], environment=environment()) for line in lines]
    row: dict[str, Any] = {"stage": stage, "seconds": round(sum(1 / each.speed for each in figures), 1)}
    written = [Path(word) for line in lines for word in line.split() if word.startswith("metrics/")]
    results = [folder / path / "results.json" for path in written if (folder / path / "results.json").exists()]
    row["accuracy"] = read_json(results[-1])["accuracy"] if results and stage.startswith("evaluate") else None
    add_row(out / "cifar10.csv", row | {"hardware": hardware()})


def markdown(out: Path) -> str:
    """All results as tables."""
    lines = ["# On a GPU", ""]
    if (out / TESTS).exists():
        tests = read_json(out / TESTS)
        lines += [f"Tests marked gpu: {tests['said'][-1]}. {tests['hardware']}.", ""]
    for name in ("rates", "cifar10"):
        if (path := out / f"{name}.csv").exists():
            rows = read_csv(path)
            cells = rows.astype(object).where(rows.notna(), "").astype(str).to_numpy().tolist()
            lines += [f"## {name}", "", markdown_table(list(rows.columns), cells), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:2] == ["loader"]:
        model, side, precision, device = sys.argv[2:]
        print(json.dumps(plain_training_rate(model, int(side), torch.channels_last, device, precision)))
    else:
        main()
