"""Charts of the page, as SVG that stands in HTML and takes its colors from the page's style. Pure functions."""

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from noisy_student.core.metrics import reliability

# Colors that matplotlib draws with, and the variable of the page's style that takes the place of each.
INK, SOFT, GRID, FIRST, SECOND, THIRD = "#000001", "#000002", "#000003", "#000004", "#000005", "#000006"
VARIABLES = {INK: "ink", SOFT: "soft", GRID: "line", FIRST: "first", SECOND: "second", THIRD: "third"}
LONGEST, WRAPPED = 20, 18  # letters of a name in a chart, and of a line of it
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a class may be called $x$
    "svg.hashsalt": "page",  # the same chart has the same ids
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
}


class Chart:
    """A figure with axes, called `name`, and what a person who cannot see it is told."""

    def __init__(self, name: str, alternative: str, width: float = 5.4, height: float = 3.0):
        self.name, self.alternative = name, alternative
        self.figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(self.figure)
        self.axes: Axes = self.figure.subplots()

    def svg(self) -> str:
        """The chart as an SVG element whose colors and font are the page's, and whose ids begin with its name."""
        content = io.StringIO()
        self.figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn = content.getvalue()
        drawn = drawn[drawn.index("<svg") :]
        for color, variable in VARIABLES.items():
            drawn = drawn.replace(color, f"var(--{variable})")
        drawn = re.sub(r"<(metadata|style|title).*?</\1>", "", drawn, flags=re.DOTALL)
        drawn = re.sub(r"font-family: [^;\"]*;? ?", "", drawn)
        drawn = re.sub(r'((?: id="|href="#|url\(#))', rf"\1{self.name}-", drawn)
        return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true">', drawn, count=1)


def short(name: str) -> str:
    """`name` with an end that a chart has room for."""
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def wrapped(name: str) -> str:
    """`name` on as many lines as it takes, broken behind its underscores."""
    return "\n".join(line.replace(" ", "") for line in textwrap.wrap(name.replace("_", "_ "), WRAPPED))


@contextmanager
def styled() -> Iterator[None]:
    """Within the block, charts have the page's style."""
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser has the letters
        yield


def accuracy_chart(models: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]], deploy: str | None) -> Chart:
    """Test accuracy with its 95 % interval by iteration, beside other models: controls and distilled ones.

    Each has name, model, accuracy, accuracy_low and accuracy_high. The name `deploy` is marked.
    """
    shown = [*((each, FIRST) for each in models), *((each, SECOND) for each in others)]
    told = ", ".join(f"{each['name']} {100 * each['accuracy']:.1f} %" for each, _ in shown)
    chart = Chart("accuracy", f"Test accuracy with 95 % intervals: {told}.", width=max(5.4, 1.1 * len(shown)))
    for place, (each, color) in enumerate(shown):
        _accuracy(chart.axes, place, each, color, each["name"] == deploy)
    chart.axes.plot(range(len(models)), [100 * each["accuracy"] for each in models], color=FIRST, alpha=0.4)
    for each in others:
        chart.axes.axhline(100 * each["accuracy"], color=SECOND, linestyle=":", linewidth=1)
    names = [f"{short(each['name'])}\n{wrapped(each['model'].rpartition('/')[2])}" for each, _ in shown]
    chart.axes.set_xticks(range(len(shown)), names, fontsize=10 if len(shown) < 5 else 8)
    chart.axes.set(xlim=(-0.5, len(shown) - 0.4), ylabel="test accuracy, %")
    chart.axes.grid(visible=False, axis="x")
    chart.axes.margins(y=0.12)
    return chart


def _accuracy(axes: Axes, place: int, model: dict[str, Any], color: str, deploy: bool) -> None:
    """The accuracy of a model at `place` on the axis, with its interval."""
    middle, low, high = (100 * model[key] for key in ("accuracy", "accuracy_low", "accuracy_high"))
    axes.errorbar(place, middle, [[middle - low], [high - middle]], fmt="o", color=color, capsize=4)
    axes.annotate(f"{middle:.1f}", (place, middle), (8, 7), textcoords="offset points", va="center")
    if deploy:
        above = axes.annotate("to deploy", (place, high), (0, 6), textcoords="offset points", ha="center")
        above.set(color=THIRD, weight="bold")


def confidence_chart(iteration: str, counts: dict[str, list[int]]) -> Chart:
    """How many pool images have which confidence: all of them and the kept ones, in bins of equal width."""
    pool, kept = sum(counts["all"]), sum(counts["kept"])
    told = f"The teacher's confidence in the pool's labels for {iteration}: {kept:,} of {pool:,} images are kept."
    chart = Chart("confidence", told, width=4.6, height=2.8)
    width = 1 / len(counts["all"])
    places = [width * (each + 0.5) for each in range(len(counts["all"]))]
    chart.axes.bar(places, counts["all"], 0.9 * width, color=GRID, label="not kept")
    chart.axes.bar(places, counts["kept"], 0.9 * width, color=FIRST, label="kept")
    chart.axes.set(xlabel="confidence", ylabel="pool images, log scale", yscale="symlog", xlim=(0, 1))
    chart.axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    chart.axes.legend(loc="upper left")
    return chart


def threshold_chart(rows: list[dict[str, Any]], threshold: float) -> Chart:
    """How many reach a threshold of confidence and how many of these are right, with the chosen one."""
    table = pd.DataFrame(rows).astype(float)
    chosen = table[table["threshold"] == threshold].iloc[0]
    told = f"{100 * chosen['reached']:.0f} % of the pool reach the chosen threshold, {threshold:.3f}."
    chart = Chart("threshold", told, width=4.6, height=2.8)
    lines = {
        "reached": (SOFT, "reach it"),
        "precision": (FIRST, "right, of the pool"),
        "calibration_precision": (SECOND, "right, of calibration"),
    }
    for column, (color, name) in lines.items():
        if table[column].notna().any():
            chart.axes.plot(table["threshold"], 100 * table[column], color=color, label=name, linewidth=2)
    chart.axes.axvline(threshold, color=SOFT, linestyle=":")
    chart.axes.set(xlabel="threshold of confidence", ylabel="%", ylim=(0, 103), xlim=(0, 1))
    chart.axes.legend(loc="lower left")
    return chart


def class_chart(rows: list[dict[str, Any]]) -> Chart:
    """Each class's share of the calibration split, of the pool, as the teacher predicts them, and of what is kept."""
    table = pd.DataFrame(rows)
    kept = table["unique"] / max(table["unique"].sum(), 1)
    largest = table.loc[kept.idxmax(), "class"]
    told = f"Shares of the classes; most kept images, {100 * kept.max():.0f} %, are labeled {largest}."
    chart = Chart("classes", told, height=0.9 + 0.36 * len(table))
    shares = {"calibration": (table["calibration_share"], SOFT), "pool": (table["predicted_share"], GRID)}
    shares |= {"kept": (kept, FIRST)}
    for place, (name, (share, color)) in enumerate(shares.items()):
        down = [row + 0.26 * (place - 1) for row in range(len(table))]
        chart.axes.barh(down, 100 * share, 0.24, color=color, label=name)
    chart.axes.set_yticks(range(len(table)), [short(name) for name in table["class"]])
    chart.axes.invert_yaxis()
    chart.axes.grid(visible=False, axis="y")
    chart.axes.set_xlabel("share, %")
    chart.axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return chart


def reliability_chart(predictions: pd.DataFrame) -> Chart:
    """Accuracy against calibrated confidence on the test split; columns actual, predicted, confidence."""
    right = (predictions["actual"] == predictions["predicted"]).to_numpy()
    bins = reliability(predictions["confidence"].to_numpy(), right)
    worst = max(bins, key=lambda each: each[0] * abs(each[1] - each[2]))
    figures = f"the model is {100 * worst[1]:.1f} % sure of them on average and right in {100 * worst[2]:.1f} %"
    said = f"The gap weighs most for {worst[0]:,} images: {figures}."
    chart = Chart("reliability", said, width=4.6, height=3.2)
    chart.axes.plot([0, 100], [0, 100], color=GRID)
    sizes = [12 + 180 * images / len(predictions) for images, _, _ in bins]
    sure, found = ([100 * each[column] for each in bins] for column in (1, 2))
    chart.axes.plot(sure, found, color=FIRST, alpha=0.4)
    chart.axes.scatter(sure, found, sizes, color=FIRST)
    chart.axes.set(xlabel="confidence, %", ylabel="accuracy, %", xlim=(0, 103), ylim=(0, 103))
    return chart


def severity_chart(models: list[dict[str, Any]]) -> Chart:
    """Accuracy on clean and on corrupted images by severity; each of `models` has name, clean, by_severity."""
    first_and_last = ((each["name"], 100 * each["clean"], 100 * each["by_severity"][-1]) for each in models)
    ends = [f"{name} from {first:.1f} to {last:.1f} %" for name, first, last in first_and_last]
    said = f"From clean images to the severest common corruptions, accuracy falls: {', '.join(ends)}."
    chart = Chart("severity", said, width=4.6, height=3.2)
    earlier = [SOFT, *[SECOND, THIRD] * len(models)]
    colors = [*earlier[: len(models) - 1], FIRST]
    for each, color in zip(models, colors, strict=True):
        accuracies = [100 * value for value in (each["clean"], *each["by_severity"])]
        chart.axes.plot(range(len(accuracies)), accuracies, color=color, label=each["name"], linewidth=2, marker="o")
    chart.axes.set(xlabel="severity; 0 is a clean image", ylabel="accuracy, %")
    chart.axes.legend(loc="lower left")
    return chart


def learning_chart(curves: pd.DataFrame) -> Chart:
    """Validation accuracy by step of each iteration's training."""
    ends = curves.groupby("iteration", sort=False)["validation_accuracy"].last()
    told = ", ".join(f"{name} ends at {100 * value:.1f} %" for name, value in ends.items())
    chart = Chart("learning", f"Accuracy on the validation split: {told}.", width=4.6, height=3.2)
    colors = [SOFT, SECOND, FIRST, THIRD]
    for place, (name, curve) in enumerate(curves.groupby("iteration", sort=False)):
        color = colors[place - len(ends)] if len(ends) <= len(colors) else colors[place % len(colors)]
        accuracy = 100 * curve["validation_accuracy"]
        chart.axes.plot(curve["step"], accuracy, color=color, label=name, linewidth=2, marker="o", markersize=3)
    chart.axes.set(xlabel="step", ylabel="validation accuracy, %")
    chart.axes.legend(loc="lower right")
    return chart
