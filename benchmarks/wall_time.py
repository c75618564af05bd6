"""How long the whole run takes, at one commit and another: python -m benchmarks.wall_time b3eb377 HEAD

    python -m benchmarks.wall_time b3eb377 HEAD:old.yaml HEAD    # HEAD twice, once with another params.yaml
    python -m benchmarks.wall_time HEAD~9 HEAD --params short.yaml

Each is `dvc repro` in a clone with an empty cache, by the interpreter and the libraries of this command, every stage of
it; all have their turn in each of ROUNDS rounds. Writes benchmarks/wall_time.md.
"""

import shutil
import statistics
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path
from typing import NamedTuple

from benchmarks.processes import ROOT, hardware, run
from benchmarks.study import environment
from noisy_student.core.errors import cli_main
from noisy_student.core.files import read_csv, write_bytes

TABLE = ROOT / "benchmarks" / "wall_time.md"
ROUNDS = 3
OF_THE_LIBRARY = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # it sets them for this process, and earlier commits did not
ABOUT = """Seconds of `dvc repro` in a fresh clone, nothing cached: the median, the smallest and the largest of {rounds}
rounds in turn; and what came of it, the validation accuracy of the last iteration. {hardware}."""


class Run(NamedTuple):
    """What is run."""

    commit: str
    params: Path | None  # in place of its own params.yaml

    @classmethod
    def parsed(cls, text: str, params: str | None) -> "Run":
        """COMMIT or COMMIT:FILE; `params` is the FILE where none is named."""
        commit, _, file = text.partition(":")
        found = file or params
        return cls(run(ROOT, "git", "rev-parse", "--short", commit).output.strip(), Path(found) if found else None)


@cli_main
def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="COMMIT[:FILE]", help="with FILE in place of its params.yaml")
    parser.add_argument("--params", metavar="FILE", help="the FILE of all commits that are named without one")
    args = parser.parse_args(argv)
    runs = [Run.parsed(text, args.params) for text in args.runs]
    rounds = [[measured(each) for each in runs] for _ in range(ROUNDS)]
    write_bytes(TABLE, table(runs, rounds, hardware()).encode())


def measured(what: Run) -> tuple[float, float]:
    """Seconds, and the validation accuracy of the last iteration."""
    with tempfile.TemporaryDirectory(prefix="wall-time-") as name:
        folder = Path(name)
        run(ROOT, "git", "clone", "--quiet", "--no-checkout", str(ROOT), name)
        run(folder, "git", "checkout", "--quiet", what.commit)
        if what.params:
            shutil.copy(what.params, folder / "params.yaml")
        # Forced, for git has some of what the last stages make: where the bytes agree, they would not run.
        bare = {key: value for key, value in environment().items() if key not in OF_THE_LIBRARY}
        done = run(folder, sys.executable, "-m", "dvc", "repro", "--force", environment=bare)
        accuracy = read_csv(folder / "metrics" / "history.csv")["validation_accuracy"].iloc[-1]
    print(f"{what.commit} {what.params or ''}: {1 / done.speed:.1f} s, {accuracy:.1%}", flush=True)
    return 1 / done.speed, accuracy


def table(runs: list[Run], rounds: list[list[tuple[float, float]]], hardware: str) -> str:
    """The seconds and accuracies of each round's `runs`, as Markdown."""
    lines = ["# The whole run", "", ABOUT.format(rounds=len(rounds), hardware=hardware), ""]
    lines += ["| commit | params.yaml | s | smallest | largest | accuracy, % |", "|---|---|---:|---:|---:|---:|"]
    for what, found in zip(runs, zip(*rounds, strict=True), strict=True):
        seconds, accuracies = zip(*found, strict=True)
        times = f"{statistics.median(seconds):.1f} | {min(seconds):.1f} | {max(seconds):.1f}"
        params = what.params.name if what.params else "its own"
        lines.append(f"| {what.commit} | {params} | {times} | {100 * statistics.median(accuracies):.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
