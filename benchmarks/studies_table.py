"""A study's rows as a Markdown table of means and 95 % intervals. Pure."""

from itertools import pairwise
from typing import Any

import pandas as pd

from commands.docs import percent

FIGURES = {  # columns of the table, by what they are called in history.csv
    "accuracy": "test accuracy",
    "validation_accuracy": "validation accuracy",
    "pseudo_label_precision": "label precision",
    "kept_fraction": "pool kept",
}


def markdown(name: str, plan: dict[str, Any], rows: pd.DataFrame) -> str:
    """The table of a study: a line for each setting and iteration, then the paired differences."""
    seeds = sorted(int(seed) for seed in rows["seed"].unique())
    first = rows.iloc[0]
    labels = " / ".join(f"{count:,.0f}" for count in rows["training_labels"].unique())
    figures = [figure for figure in FIGURES if figure in rows]
    rates = "images_per_second" in rows
    columns = ["setting", "iteration", "model", "parameters", *["images/s"] * rates, "n"]
    lines = [
        f"# {name}: {plan['question']}",
        "",
        f"{labels} training labels, {first.held_out_labels:,.0f} held-out labels (calibration and "
        f"validation); seeds {', '.join(map(str, seeds))}; mean ± half of the 95 % t interval over seeds, in per cent.",
        "",
        f"| {' | '.join(columns)} | {' | '.join(FIGURES[figure] for figure in figures)} |",
        f"|---|---|---|{'---:|' * (len(columns) - 3 + len(figures))}",
    ]
    for (setting, iteration), group in rows.groupby(["setting", "iteration"], sort=False):
        values = [percent(group[figure]) for figure in figures]
        model = f"{group['model'].iloc[0]} | {int(group['parameters'].iloc[0]):,}"
        if rates:
            model += f" | {group['images_per_second'].iloc[0]:,.0f}"
        lines.append(f"| {setting} | {iteration} | {model} | {len(group)} | {' | '.join(values)} |")
    lines += [
        "",
        f"| setting | paired difference in {FIGURES[figures[0]]}, points | n | mean | seeds above 0 |",
        "|---|---|---:|---:|---:|",
    ]
    for setting, group in rows.groupby("setting", sort=False):
        found = {} if plan.get("chooses") else _between_iterations(group[_is_iteration(group)])
        found |= _of_distilled(group, figures[0])
        found |= _between_settings(group[_is_iteration(group)], rows[_is_iteration(rows)], figures[0], plan)
        for what, differences in found.items():
            above = f"{int((differences > 0).sum())} of {len(differences)}"
            lines.append(f"| {setting} | {what} | {len(differences)} | {percent(differences, sign='+')} | {above} |")
    if "gain_over_oracle_control" in rows:
        lines += ["", f"Of the gap between iter0 and the oracle control {percent(gap_closed(rows))} % is closed."]
    if "answer" in plan:
        lines += ["", plan["answer"]]
    return "\n".join(lines) + "\n"


def gap_closed(rows: pd.DataFrame) -> pd.Series:
    """By setting and seed: how much of the way from iter0 to the oracle control the last iteration has gone."""
    runs = rows[_is_iteration(rows)].groupby(["setting", "seed"])
    first, last, over = runs["accuracy"].first(), runs["accuracy"].last(), runs["gain_over_oracle_control"].last()
    return (last - first) / (last - over - first)


def _between_iterations(group: pd.DataFrame) -> dict[str, pd.Series]:
    """By seed: each iteration over the one before it, the last over iter0, and the last over its control."""
    by_seed = group.pivot(index="seed", columns="iteration", values="accuracy")
    order = [name for name in group["iteration"].unique() if name in by_seed]
    found = {f"{b} - {a}": (by_seed[b] - by_seed[a]).dropna() for a, b in pairwise(order)}
    if len(order) > 2:
        found[f"{order[-1]} - {order[0]}"] = (by_seed[order[-1]] - by_seed[order[0]]).dropna()
    for column in group.columns[group.columns.str.fullmatch("gain_over_(.*_)?control")]:
        name = column.removeprefix("gain_over_").replace("_", " ")
        found[f"last iteration - {name}"] = group[column].dropna()
    return {what: differences for what, differences in found.items() if len(differences)}


def _is_iteration(rows: pd.DataFrame) -> pd.Series:
    """Which rows are of iterations; the others are of models that one was distilled into."""
    return rows["iteration"].str.fullmatch("iter[0-9]+")


def _of_distilled(group: pd.DataFrame, figure: str) -> dict[str, pd.Series]:
    """By seed: each model that an iteration was distilled into over its teacher, and over the one called alone."""
    by_seed = group.pivot(index="seed", columns="iteration", values=figure)
    found: dict[str, pd.Series] = {}
    for row in group[~_is_iteration(group)].drop_duplicates("iteration").itertuples():
        others = [other for other in (row.teacher, "alone") if other in by_seed and other != row.iteration]
        found |= {f"{row.iteration} - {other}": by_seed[row.iteration] - by_seed[other] for other in others}
    return found


def _between_settings(
    group: pd.DataFrame, rows: pd.DataFrame, figure: str, plan: dict[str, Any]
) -> dict[str, pd.Series]:
    """By seed: the figure of the setting's last iteration over that of the first setting's.

    Where `plan` has groups, endings of names, the first setting of the same ending is meant, and each iteration.
    """
    setting = group["setting"].iloc[0]
    ending = next((ending for ending in plan.get("groups", []) if setting.endswith(ending)), "")
    first = next(name for name in rows["setting"] if name.endswith(ending))
    if setting == first:
        return {}
    base = rows[rows["setting"] == first]
    if not ending:
        last, base = (each.groupby("seed")[figure].last() for each in (group, base))
        return {f"over {first}": (last - base).dropna()}
    ours, theirs = (each.pivot(index="seed", columns="iteration", values=figure) for each in (group, base))
    return {f"{name} over {first}": (ours[name] - theirs[name]).dropna() for name in ours if name in theirs}
