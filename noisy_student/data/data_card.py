"""The data card: what to know about the images before training, with pictures.

card.md         counts by split and class, sizes, what was left out and why
class-000.png   images of each class, in the order of the classes
pool.png        images without labels
alike.png       pairs of near-duplicates, one of which was removed
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from noisy_student.core.files import replacing, write_bytes
from noisy_student.core.markdown import escaped, markdown_table
from noisy_student.store.pictures import to_pillow
from noisy_student.store.selection import Selection

CARD = "card.md"
ACROSS, DOWN = 12, 4  # images on a sheet
TILE_SIDE, GAP = 64, 4  # pixels on the screen
TABLE_ROWS = 20  # of a table of examples
PAPER = 255


def write_card(
    folder: Path,
    report: dict[str, Any],
    images: Selection,
    labels: np.ndarray,
    rows: dict[str, np.ndarray],
    near: dict[int, tuple[int, float]],
    tables: dict[str, pd.DataFrame],
) -> None:
    """Write the card of splits with these `rows` into `folder`.

    `images` and `labels` (N,) are those of all rows, `tables` what was left out and quarantined, by their titles.
    """
    with replacing(folder) as temporary:
        temporary.mkdir(parents=True)
        for number in range(len(report["classes"])):
            of_class = rows["labeled"][labels[rows["labeled"]] == number]
            save_sheet(temporary / f"class-{number:03}.png", images[of_class[: ACROSS * DOWN]])
        save_sheet(temporary / "pool.png", images[rows["pool"][: ACROSS * DOWN]])
        if near:
            pairs = [row for gone, (like, _) in sorted(near.items())[: ACROSS * DOWN // 2] for row in (gone, like)]
            save_sheet(temporary / "alike.png", images[np.array(pairs)])
        write_bytes(temporary / CARD, markdown(report, bool(near), tables).encode())


def markdown(report: dict[str, Any], alike: bool, tables: dict[str, pd.DataFrame]) -> str:
    """The text of the card."""
    classes, splits = report["classes"], [name for name, count in report["images"].items() if count]
    by_class = report["images_by_class"]
    counts = [[name, *(f"{by_class[split][name]:,}" for split in splits)] for name in classes]
    total = ["all", *(f"{report['images'][split]:,}" for split in splits)]
    facts = [
        [key.replace("_", " "), _shown(value)] for key, value in report.items() if not isinstance(value, dict | list)
    ]
    parts = [
        "# Data card",
        _table(["fact", ""], facts),
        "## Images by class",
        "Pool images are counted by class only if their class is known to the evaluation.",
        _table(["class", *splits], [*counts, total]),
        "## What they look like",
        *(f"### {escaped(name)}\n\n![{escaped(name)}](class-{number:03}.png)" for number, name in enumerate(classes)),
        "### The pool\n\n![images without labels](pool.png)",
    ]
    if alike:
        parts.append(
            "## Near-duplicates\n\nLeft: the removed image. Right: the image that it is like.\n\n![pairs](alike.png)"
        )
    for title, table in tables.items():
        if len(table):
            more = (
                f"The first {TABLE_ROWS} of {len(table):,}; all are in {title}.csv.\n\n"
                if len(table) > TABLE_ROWS
                else ""
            )
            head = table.head(TABLE_ROWS).astype(object).where(table.head(TABLE_ROWS).notna(), "")
            parts.append(
                f"## {title.capitalize().replace('_', ' ')}\n\n{more}{_table(list(table), head.to_numpy().tolist())}"
            )
    return "\n\n".join(parts) + "\n"


def save_sheet(path: Path, images: np.ndarray, numbered: bool = False) -> None:
    """Write `images` uint8 (n,H,W,C) as one picture; `numbered` adds their numbers from 1 on."""
    content = io.BytesIO()
    _sheet(images, numbered).save(content, "PNG", compress_level=1)
    write_bytes(path, content.getvalue())


def _sheet(images: np.ndarray, numbered: bool) -> Image.Image:
    """`images` uint8 (n,H,W,C) in rows of ACROSS, each TILE_SIDE pixels high or a whole number of times as large."""
    height, width, channels = images.shape[1:]
    times = max(1, TILE_SIDE // height)
    images = images.repeat(times, axis=1).repeat(times, axis=2)
    high, wide = height * times + GAP, width * times + GAP
    lines = -(-len(images) // ACROSS)
    sheet = np.full((lines * high + GAP, min(len(images), ACROSS) * wide + GAP, channels), PAPER, np.uint8)
    corners = [((number % ACROSS) * wide + GAP, (number // ACROSS) * high + GAP) for number in range(len(images))]
    for (left, top), image in zip(corners, images, strict=True):
        sheet[top : top + high - GAP, left : left + wide - GAP] = image
    picture = to_pillow(sheet)
    if numbered:
        draw = ImageDraw.Draw(picture)
        for number, corner in enumerate(corners, 1):
            draw.text(corner, str(number), fill="white", stroke_width=2, stroke_fill="black")
    return picture


def _table(head: list[str], rows: list[list[Any]]) -> str:
    return markdown_table([escaped(cell) for cell in head], [[escaped(_shown(cell)) for cell in row] for row in rows])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
