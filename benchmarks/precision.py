"""Which precision is faster for which network on this processor: python -m benchmarks.precision

Training and labeling of each of NETS by a plain loop of torch (benchmarks/limits.py), in bfloat16 and in float32 in
turn, ROUNDS times. The rows of this hardware are added to benchmarks/precision.csv, beside those of other hardware, and
written to benchmarks/precision.md; what stands there is not measured again. models/precision.py goes by it.
"""

import statistics

import pandas as pd

from benchmarks.processes import ROOT, hardware
from benchmarks.rows import add_row, has_row
from benchmarks.speed import PRECISIONS, alike, rate
from noisy_student.core.errors import cli_main
from noisy_student.core.files import write_bytes
from noisy_student.core.markdown import markdown_table

PRECISION = ROOT / "benchmarks" / "precision.csv"
ROUNDS = 3
NETS = {  # pixels a side, channels, and whether its convolutions are grouped
    "mlp_256": ("28", "1", "none"),
    "cnn_16": ("28", "1", "plain"),
    "cnn_32": ("28", "1", "plain"),
    "wrn_28_2": ("32", "3", "plain"),
    "timm/resnet18": ("64", "3", "plain"),
    "timm/tf_efficientnet_lite0": ("128", "3", "grouped"),
}
ABOUT = """How many times as many images a second a plain loop of torch takes in bfloat16 as in float32: the median of
{rounds} rounds in turn, channels_last. Batches are of 128 images in training and 512 in labeling."""


@cli_main
def main() -> None:
    for kind in ("training", "labeling"):
        for model, (side, channels, convolutions) in NETS.items():
            key = {"hardware": hardware(), "work": kind, "model": model}
            if not has_row(PRECISION, **key):
                times = {"convolutions": convolutions, "pixels": int(side)} | compared(kind, model, side, channels)
                write_bytes(PRECISION.with_suffix(".md"), table(add_row(PRECISION, key | times)).encode())


def compared(kind: str, *net: str) -> dict[str, float]:
    """Images a second in each precision, and how many times as many in bfloat16."""
    rounds = [{each: one(each, kind, *net) for each in PRECISIONS} for _ in range(ROUNDS)]
    rates = {each: round(statistics.median(found[each] for found in rounds)) for each in PRECISIONS}
    return rates | {"times": round(statistics.median(found["bfloat16"] / found["float32"] for found in rounds), 2)}


def one(precision: str, *probe: str) -> float:
    """Images a second, in a process of its own."""
    return rate("limits", *probe, *alike(), f"precision={precision}").speed


def table(rows: pd.DataFrame) -> str:
    """A table for each hardware, as Markdown."""
    parts = ["# bfloat16 against float32", ABOUT.format(rounds=ROUNDS)]
    for name, of in rows.groupby("hardware", sort=False):
        shown = of.drop(columns="hardware").astype(str)
        parts += [f"## {name}", markdown_table(list(shown.columns), shown.to_numpy().tolist())]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
