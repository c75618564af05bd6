"""Pictures of the documentation, drawn as SVG out of the rows of studies. Pure."""

from html import escape

import numpy as np
import pandas as pd

from noisy_student.core.metrics import mean_interval

WIDTH, HEIGHT = 960, 448
INK, SOFT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
STUDENT, CONTROL, OTHER, ORACLE = "#1d4ed8", "#b45309", "#6b7280", "#047857"
FONT = "system-ui, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif"
NOTES = (
    "Mean and 95 % interval over seeds. Control: the last student's net, trained as long on labels alone.",
    "Oracle: the student of a teacher that is always right. UDA: consistency alone on the whole pool.",
)
Point = tuple[str, str, str, np.ndarray]  # name, what is below it, color, accuracies of the seeds in percent


def accuracy_picture(mnist: pd.DataFrame, fashion: pd.DataFrame) -> str:
    """Accuracy by iteration with 95 % intervals over seeds, beside the control, consistency alone and the oracle."""
    panels = [
        _panel(64, 456, "MNIST-5k, 100 labels", points(mnist)),
        _panel(578, 360, "Fashion-MNIST, 1,000 labels", points(fashion)),
    ]
    title = "Test accuracy by iteration, beside runs that say whether the pool helped"
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="{FONT}">',
        f"<title>{title}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(28, 36, title, size=19, weight=600, anchor="start"),
        *panels,
        *(_text(28, HEIGHT - 36 + 18 * line, note, anchor="start") for line, note in enumerate(NOTES)),
        "</svg>",
    ]
    return "\n".join(body) + "\n"


def points(rows: pd.DataFrame) -> list[Point]:
    """What a study has to show, from left to right: the iterations first."""
    runs = rows.query("setting == 'default'")
    found: list[Point] = []
    for iteration, group in runs.groupby("iteration"):
        found.append((str(iteration), group["model"].iloc[0], STUDENT, 100 * group["accuracy"].to_numpy()))
    last = runs.groupby("seed").last()
    for name, color in (("control", CONTROL), ("oracle_control", ORACLE)):
        if f"gain_over_{name}" in last:
            accuracies = 100 * (last["accuracy"] - last[f"gain_over_{name}"]).to_numpy()
            below = "labels alone" if name == "control" else "true labels"
            found.append((name.removesuffix("_control"), below, color, accuracies))
    alone = rows.query("setting == 'consistency_alone'").groupby("seed").last()
    found.append(("UDA", "consistency", OTHER, 100 * alone["accuracy"].to_numpy()))
    return found


def _panel(left: int, width: int, title: str, shown: list[Point]) -> str:
    top, bottom = 104, 340
    intervals = [mean_interval(accuracies) for *_, accuracies in shown]
    low = int(np.floor(min(mean - half for mean, half in intervals)))
    high = int(np.ceil(max(mean + half for mean, half in intervals)))
    students = sum(color == STUDENT for _, _, color, _ in shown)
    step = width / len(shown)
    across = [left + step * (place + 0.5) for place in range(len(shown))]

    def height(accuracy: float) -> float:
        return bottom - (accuracy - low) / (high - low) * (bottom - top)

    seeds = f"{len(shown[0][3])} seeds"
    parts = [_text(left, 76, title, size=15, weight=600, anchor="start"), _text(left + width, 76, seeds, anchor="end")]
    for level in range(low, high + 1):
        parts.append(_line(left, height(level), left + width, height(level), GRID))
        parts.append(_text(left - 8, height(level) + 4, f"{level} %" if level == high else str(level), anchor="end"))
    middle = left + step * students
    parts.append(_line(middle, top - 8, middle, bottom + 44, "#cbd5e1", dashes="3 4"))
    way = " ".join(f"{x:.1f},{height(mean):.1f}" for x, (mean, _) in zip(across[:students], intervals, strict=False))
    parts.append(f'<polyline points="{way}" fill="none" stroke="{STUDENT}" stroke-width="2" opacity="0.35"/>')
    for x, (mean, half), (name, below, color, _) in zip(across, intervals, shown, strict=True):
        ends = [height(mean - half), height(mean + half)]
        parts.append(_line(x, ends[0], x, ends[1], color, width=2))
        parts += [_line(x - 5, end, x + 5, end, color, width=2) for end in ends]
        inside = color if color == STUDENT else "#ffffff"
        circle = f'cx="{x:.1f}" cy="{height(mean):.1f}" r="5.5" fill="{inside}" stroke="{color}" stroke-width="2"'
        parts.append(f"<circle {circle}/>")
        aside = x + 10, height(mean) + 5
        behind = f'x="{aside[0]:.1f}" y="{aside[1] - 13:.1f}" width="33" height="17"'
        parts.append(f'<rect {behind} fill="#ffffff" opacity="0.85"/>')
        parts.append(_text(*aside, f"{mean:.1f}", size=13, color=color, weight=600, anchor="start"))
        parts.append(_text(x, bottom + 24, name, size=13, weight=600, color=color))
        parts.append(_text(x, bottom + 41, below, size=11))
    return "\n".join(parts)


def _text(
    x: float, y: float, text: str, size: int = 12, color: str = "", weight: int = 400, anchor: str = "middle"
) -> str:
    color = color or (INK if weight > 400 else SOFT)
    style = f'font-size="{size}" font-weight="{weight}" fill="{color}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, color: str, width: float = 1, dashes: str = "") -> str:
    style = f'stroke="{color}" stroke-width="{width}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'
