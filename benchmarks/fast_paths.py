"""What each fast path is worth: python -m benchmarks.fast_paths

Training of each of TRAINED as params.yaml has it, and with one thing after another switched off, or on where it is off;
ROUNDS rounds, in each of which every one has its turn in a process of its own. Writes benchmarks/fast_paths.md.
"""

import json
import os
import statistics
import sys

from benchmarks.processes import ROOT, hardware, pipeline, run
from benchmarks.speed import NETS, PRECISIONS
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_bytes
from noisy_student.models.device import RuntimeParams
from noisy_student.training.batches import AHEAD

FAST_PATHS = ROOT / "benchmarks" / "fast_paths.md"
ROUNDS = 5
TRAINED = ("cnn_32", "wrn_28_2")
DEFAULT = "as it is"
IN_ENVIRONMENT = ("GOMP_SPINCOUNT=0", f"{AHEAD}=1")
SWITCHES = ("fused", "channels_last", "compile")  # of `runtime`
ABOUT = """Training in images a second, medians of {rounds} rounds, and how many times the rate that params.yaml has in
the same round: the median, the smallest and the largest. What torch.compile takes to translate a net is not in it.
{hardware}."""


@cli_main
def main() -> None:
    lines = [line for model in TRAINED for line in table(model, [rates(model) for _ in range(ROUNDS)])]
    head = ["# What each fast path is worth", "", ABOUT.format(rounds=ROUNDS, hardware=hardware()), ""]
    head += ["| model | switched | images/s | times | smallest | largest |", "|---|---|---:|---:|---:|---:|"]
    write_bytes(FAST_PATHS, ("\n".join([*head, *lines]) + "\n").encode())


def in_runtime() -> list[str]:
    """The other value of each fast path of `runtime`."""
    runtime = RuntimeParams(**pipeline()[1]["runtime"])
    precisions = (f"precision={each}" for each in PRECISIONS if each != runtime.precision)
    return [*precisions, *(f"{name}={json.dumps(not getattr(runtime, name))}" for name in SWITCHES)]


def rates(model: str) -> dict[str, float]:
    """A round: images a second by switch."""
    found = {switch: rate(model, switch) for switch in (DEFAULT, *IN_ENVIRONMENT, *in_runtime())}
    print(model, {switch: round(each) for switch, each in found.items()}, flush=True)
    return found


def rate(model: str, switch: str) -> float:
    """Images a second through the training of `model`, in a process of its own."""
    environment = dict(os.environ) | dict([switch.split("=")] if switch in IN_ENVIRONMENT else [])
    probe = ["training", *NETS[model], *([switch] if switch in in_runtime() else [])]
    done = run(ROOT, sys.executable, "-m", "benchmarks.work", *probe, environment=environment)
    return done.figures()["images_per_second"]


def table(model: str, rounds: list[dict[str, float]]) -> list[str]:
    """The lines of `model`, of rounds of images a second by switch."""
    lines = []
    for switch in rounds[0]:
        times = [each[switch] / each[DEFAULT] for each in rounds]
        speed = statistics.median(each[switch] for each in rounds)
        spread = f"{statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f}"
        lines.append(f"| {model} | {switch} | {speed:,.0f} | {spread} |")
    return lines


if __name__ == "__main__":
    main()
