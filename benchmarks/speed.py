"""How near the stages come to what this machine can do: python -m benchmarks.speed

Each line is work of the project and its limit, run in turn in processes of their own, ROUNDS times. The ratio is the
median of own speed over the limit's, so that 1 means that nothing but the model costs; a busy machine slows both. The
smallest and the largest ratio of a round stand beside it. Where a net is at work there is a row for each precision.
Its limit is a plain loop of torch in that precision with torch's defaults, at its best: each of SETTINGS is measured in
each round, and the one with the highest median is the limit.

    training   the training loop, with noise, pool and EMA, against the same net's step on a batch that never changes
    combined   the same with the objective of params.yaml, against a step with that objective's second forward pass
    labeling   reading a split, the logits, writing them, against the forward pass on a batch that never changes
    noise      the input noise of a student's batch against a copy of the batch
    prepare    the stage on a folder of PICTURES small photos against Pillow's bare decoding of them
    startup    a training stage up to the end of its only step against `import torch`
    noop       `dvc repro` with nothing to do against the same DAG with empty commands and no code

Where a net is at work stands how many operations a second it came to, and its floor: images a second if its
multiply-adds, at the rate of matrix products, or its weights and pixels, at the rate of copies, were all that took
time, whichever takes longer. Convolutions that save multiplications can pass it.

Written to benchmarks/speed.json. `--check` compares with what stands there and fails when a ratio fell by a tenth.
"""

import os
import shutil
import statistics
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks import pictures
from benchmarks.expand import expanded, written
from benchmarks.processes import ROOT, Measured, hardware, pipeline, run
from benchmarks.study import copy_project
from noisy_student.core.errors import UserError, cli_main
from noisy_student.core.files import read_json, write_json

SPEED = ROOT / "benchmarks" / "speed.json"
ROUNDS, TOLERANCE = 3, 0.9
NETS = {  # model, pixels a side, channels
    "cnn_16": ("cnn_16", "28", "1"),
    "cnn_32": ("cnn_32", "28", "1"),
    "cnn_32 at 96 pixels": ("cnn_32", "96", "3"),
    "wrn_28_2": ("wrn_28_2", "32", "3"),
    "efficientnet_lite0 at 128 pixels": ("timm/tf_efficientnet_lite0", "128", "3"),
}
COUNTED: dict[str, Iterable[str]] = {  # in images; noise sees no model
    "training": NETS,
    "combined": ("cnn_32", "wrn_28_2"),
    "labeling": NETS,
    "noise": ("cnn_16", "wrn_28_2"),
}
WITH_NET = ("training", "combined", "labeling")
MACHINE = {"matmul": "gflops", "copy": "gb_per_second"}  # limits of no work of ours, and their figure
ALIKE = ("device", "threads")  # of `runtime`, what the limits are measured with, too
PRECISIONS = ("float32", "bfloat16")
LAYOUTS = {"channels_last": "true", "plain": "false"}
MEMORY = {  # of glibc: environment variables by which it returns freed memory to the system or keeps it
    "memory returned": {},
    "memory kept": {"MALLOC_TRIM_THRESHOLD_": f"{2**31 - 1}", "MALLOC_MMAP_THRESHOLD_": f"{2**31 - 1}"},
}
SETTINGS = list(product(LAYOUTS, MEMORY))
NOTHING = "Data and pipelines are up to date."  # what `dvc repro` says then
PICTURES = 20_000
COLUMNS = {  # of the table: the key of a row, and how its value is written
    "work": ("work", ""),
    "model": ("model", ""),
    "precision": ("precision", ""),
    "ratio": ("ratio", ".3g"),
    "low": ("ratio_low", ".3g"),
    "high": ("ratio_high", ".3g"),
    "images/s": ("images_per_second", ","),
    "limit": ("limit_images_per_second", ","),
    "by": ("limit_settings", ""),
    "at the floor": ("floor_images_per_second", ","),
    "GFLOP/s": ("gflops", ".1f"),
    "GB/s": ("gb_per_second", ".1f"),
    "seconds": ("seconds", ".2f"),
    "peak MB": ("peak_mb", ","),
}
WIDTH = 120  # characters of the table, also where the output is no terminal
OF_PICTURES: dict[str, Any] = {
    "source": "folder",
    "path": "pictures",
    "test": 1000,
    "calibration": 100,
    "validation": 100,
}


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail when a ratio is a tenth below the one in speed.json")
    args = parser.parse_args(argv)
    if args.check and not SPEED.exists():
        raise UserError(f"there is no {SPEED.name} to compare with; run `make bench` first")
    before = read_json(SPEED) if args.check else []
    if any("precision" not in row for row in before):
        raise UserError(f"{SPEED.name} is of an earlier version; run `make bench` first")
    nothing_to_do(ROOT)  # what would be refused in the end is refused at once
    with tempfile.TemporaryDirectory() as folder:
        rows = [compared(line) for line in lines(Path(folder))]
    products = [bare("matmul", precision) for precision in PRECISIONS]
    rows = with_floors([*rows, *products, bare("copy", None)])
    show(rows)
    if args.check:
        check_not_slower(rows, before)
    else:
        write_json(SPEED, rows)


class Line(NamedTuple):
    """Work to be measured, and what it is held against."""

    kind: str
    net: str | None
    precision: str | None
    work: Callable[[], Measured]
    limits: Mapping[str, Callable[[], Measured]]  # by their settings


def lines(folder: Path) -> list[Line]:
    """All lines. What is written goes to the empty `folder`."""
    counted = [(kind, net) for kind, nets in COUNTED.items() for net in nets]
    found = [with_net(kind, net, precision) for kind, net in counted if kind in WITH_NET for precision in PRECISIONS]
    found += [without_net(kind, net) for kind, net in counted if kind not in WITH_NET]
    stages, photos = prepared(folder / "stages"), with_pictures(folder / "photos")
    prepare, train = partial(anew, photos, *command("prepare")), partial(anew, stages, *command("train_teacher"))
    bare_start = partial(run, stages, sys.executable, "-c", "import torch")
    empty = empty_pipeline(folder / "empty")
    found.append(Line("prepare", None, None, prepare, {"": partial(run, ROOT, *bare_decode(photos))}))
    found.append(Line("startup", None, None, train, {"": bare_start}))
    found.append(Line("noop", None, None, partial(nothing_to_do, ROOT), {"": partial(nothing_to_do, empty)}))
    return found


def with_net(kind: str, net: str, precision: str) -> Line:
    """The line of a net at work."""
    probe = (kind, *NETS[net], *alike(), f"precision={precision}")
    limits = {
        f"{layout}, {memory}": partial(rate, "limits", *probe, f"channels_last={LAYOUTS[layout]}", **MEMORY[memory])
        for layout, memory in SETTINGS
    }
    return Line(kind, net, precision, partial(rate, "work", *probe), limits)


def without_net(kind: str, net: str) -> Line:
    """The line of work on images of the size that a net takes."""
    probe = (kind, *NETS[net], *alike())
    return Line(kind, net, None, partial(rate, "work", *probe), {"": partial(rate, "limits", *probe)})


def compared(line: Line) -> dict[str, Any]:
    """The row of work and the best of its limits, all measured in turn."""
    kind, net, precision, work, limits = line
    print(*filter(None, (kind, net, precision)), flush=True)
    rounds = [(work(), {name: limit() for name, limit in limits.items()}) for _ in range(ROUNDS)]
    settings = max(limits, key=lambda name: statistics.median(each[name].speed for _, each in rounds))
    ratios = [own.speed / each[settings].speed for own, each in rounds]
    speed, counted = statistics.median(own.speed for own, _ in rounds), kind in COUNTED
    limit = statistics.median(each[settings].speed for _, each in rounds)
    row = {
        "work": kind,
        "model": net,
        "precision": precision,
        "ratio": three_digits(statistics.median(ratios)),
        "ratio_low": three_digits(min(ratios)),
        "ratio_high": three_digits(max(ratios)),
        "images_per_second": round(speed) if counted else None,
        "limit_images_per_second": round(limit) if counted else None,
        "limit_settings": settings or None,
        "seconds": None if counted else round(1 / speed, 2),
        "peak_mb": round(max(own.peak_mb for own, _ in rounds)),
        "hardware": hardware(),
    }
    return row | costs(speed, rounds[0][1][settings].figures()) if kind in WITH_NET else row


def three_digits(ratio: float) -> float:
    """So few that a table can be read, and so many that a tenth shows in the smallest ratio, too."""
    return float(f"{ratio:.3g}")


def costs(speed: float, limit: dict[str, Any]) -> dict[str, Any]:
    """What an image costs, as the `limit` says, and how many 10^9 operations a second that comes to at `speed`."""
    adds = limit["multiply_adds_per_image"]
    return {
        "multiply_adds_per_image": adds,
        "bytes_per_image": round(limit["bytes_per_image"]),
        "gflops": round(2 * adds * speed / 1e9, 1),
    }


def bare(kind: str, precision: str | None) -> dict[str, Any]:
    """The row of what the machine does without a net."""
    line = [sys.executable, "-m", "benchmarks.limits", kind, *alike(), f"precision={precision or 'float32'}"]
    rounds = [run(ROOT, *line).figures() for _ in range(ROUNDS)]
    figure = MACHINE[kind]
    reached = round(statistics.median(each[figure] for each in rounds), 1)
    return {"work": kind, "model": None, "precision": precision, figure: reached, "hardware": hardware()}


def with_floors(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `rows`, those of nets with the rate at which the bare machine alone would let them go."""
    of_machine = {(row["work"], row["precision"]): row for row in rows if row["work"] in MACHINE}

    def with_floor(row: dict[str, Any]) -> dict[str, Any]:
        gflops = of_machine["matmul", row["precision"]]["gflops"]
        return row | {"floor_images_per_second": floor(row, gflops, of_machine["copy", None]["gb_per_second"])}

    return [with_floor(row) if row["work"] in WITH_NET else row for row in rows]


def floor(costs: Mapping[str, Any], gflops: float, gb_per_second: float) -> int:
    """Images a second if multiply-adds at the rate of matrix products, or bytes at that of copies, were all."""
    seconds = max(2e-9 * costs["multiply_adds_per_image"] / gflops, 1e-9 * costs["bytes_per_image"] / gb_per_second)
    return round(1 / seconds)


def alike() -> list[str]:
    """What of `runtime` the work and its limit are both told; in all else the limit is free."""
    return [f"{key}={value}" for key, value in pipeline()[1]["runtime"].items() if key in ALIKE]


def rate(module: str, *probe: str, **variables: str) -> Measured:
    """A run of benchmarks/work.py or benchmarks/limits.py with these environment `variables`, its speed in images a
    second."""
    environment = {**os.environ, **variables}
    done = run(ROOT, sys.executable, "-m", f"benchmarks.{module}", *probe, environment=environment)
    return done._replace(speed=done.figures()["images_per_second"])


def anew(folder: Path, *line: str) -> Measured:
    """As `run`, without the result that an earlier run of the same work has left."""
    shutil.rmtree(folder / "work", ignore_errors=True)
    return run(folder, *line)


def nothing_to_do(folder: Path) -> Measured:
    """A run of `dvc repro` where all is done. Raises `UserError` where it was not, for then it did work."""
    done = run(folder, sys.executable, "-m", "dvc", "repro")
    if NOTHING not in done.output:
        raise UserError(f"`dvc repro` in {folder} had something to do, so its time says nothing; measure again")
    return done


def command(stage: str) -> list[str]:
    """The command line of a stage with one command."""
    cmd = expanded(*pipeline())[stage]["cmd"]
    return [sys.executable, *cmd.split()[1:]]


def prepared(folder: Path) -> Path:
    """A copy of the code whose teacher trains for one step, with what it reads."""
    params = pipeline()[1]
    params["teacher"]["training"] = {"steps": 1, "validations": 1}
    copy_project(folder, params)
    run(folder, *command("prepare"))
    return folder


def with_pictures(folder: Path) -> Path:
    """A copy of the code whose source is a folder of pictures."""
    params = pipeline()[1]
    params["data"] |= OF_PICTURES
    copy_project(folder, params)
    pictures.write(folder / OF_PICTURES["path"], PICTURES)
    return folder


def bare_decode(photos: Path) -> list[str]:
    """The command line of the limit of prepare."""
    return [sys.executable, "-m", "benchmarks.bare_decode", str(photos / OF_PICTURES["path"])]


def empty_pipeline(folder: Path) -> Path:
    """A repository of its own with the same DAG, whose stages depend on each other's outputs alone and do nothing."""
    stages, whole = {}, expanded(*pipeline())
    made_here = sorted(out for stage in whole.values() for out in written(stage))
    for name, stage in whole.items():
        outs = written(stage)
        made = " && ".join(f"mkdir -p {Path(out).parent} && echo {name} > {out}" for out in outs)
        deps = [out for out in made_here if any(f"{dep}/".startswith(f"{out}/") for dep in stage["deps"])]
        stages[name.replace("@", "-")] = {"cmd": made, "deps": deps, "outs": outs}
    folder.mkdir()
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for line in (
        ("git", "init", "-q"),
        (sys.executable, "-m", "dvc", "init", "-q"),
        (sys.executable, "-m", "dvc", "repro"),
    ):
        run(folder, *line)
    return folder


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    table = Table(title=f"Own speed over the machine's limit, {rows[0]['hardware']}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("work", "model") else "right")
    for row in rows:
        cells = ((row.get(key), form) for key, form in COLUMNS.values())
        table.add_row(*("" if value is None else format(value, form) for value, form in cells))
    Console(width=WIDTH).print(table)


def key(row: dict[str, Any]) -> tuple[str, str | None, str | None]:
    """What a row is known by."""
    return row["work"], row["model"], row["precision"]


def check_not_slower(rows: list[dict[str, Any]], before: list[dict[str, Any]]) -> None:
    """Raise `UserError` when a ratio is a tenth below that of the same work `before`."""
    then = {key(row): row["ratio"] for row in before if "ratio" in row}
    for row in (row for row in rows if "ratio" in row):
        old = then.get(key(row), 0)
        if row["ratio"] < TOLERANCE * old:
            name = " ".join(filter(None, key(row)))
            raise UserError(
                f"{name} fell from {old} of its limit to {row['ratio']}; mend it, or measure again if others ran"
            )


if __name__ == "__main__":
    main()
