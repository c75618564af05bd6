"""Photographs laid out as a folder, from small tables of the same columns."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from benchmarks import photo_folders


def tile(number: int, quality: int) -> bytes:
    """A file of a small image of large blocks."""
    blocks = np.random.default_rng(number).integers(256, size=(5, 5), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((40, 40)).save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture
def source(tmp_path) -> Path:
    """Tables of 40 shirts and 6 hats: clothing with ten test and six validation images, tiles without splits.

    Two tiles in a row show the same.
    """
    labels = ["shirt"] * 40 + ["hat"] * 6
    table = pd.DataFrame({"path": [f"{i}.jpg" for i in range(46)], "label": labels})
    table["jpeg"] = [tile(i // 2, quality=80 + i % 2) for i in range(46)]
    table.drop(columns="path").to_parquet(tmp_path / "tiles.parquet")
    table["jpeg"] = [bytes([i]) for i in range(46)]
    table.assign(split=["test"] * 10 + ["validation"] * 6 + ["train"] * 30).to_parquet(tmp_path / "clothing.parquet")
    return tmp_path


def laid_out(source: Path, *arguments: str) -> dict[str, set[bytes]]:
    """The images of each part of the folder."""
    folder = source / "-".join(arguments).replace("--", "")
    photo_folders.main([arguments[0], str(source), str(folder), *arguments[1:]])
    return {
        part: {file.read_bytes() for file in folder.glob(f"{part}/**/*.jpg")} for part in ("labeled", "pool", "test")
    }


def test_clothing_keeps_its_test_split_and_leaves_its_validation_split_out(source):
    parts = laid_out(source, "clothing", "--labels-per-class", "5")
    assert parts["test"] == {bytes([i]) for i in range(10)}
    assert {name: len(images) for name, images in parts.items()} == {"labeled": 5 + 3, "pool": 22, "test": 10}
    assert not parts["labeled"] & parts["pool"]
    assert not (parts["labeled"] | parts["pool"]) & {bytes([i]) for i in range(16)}


def test_recipes_are_chosen_on_the_validation_split_and_see_no_test_image(source):
    parts = laid_out(source, "clothing_validation", "--labels-per-class", "5")
    assert parts["test"] == {bytes([i]) for i in range(10, 16)}
    assert not (parts["labeled"] | parts["pool"]) & {bytes([i]) for i in range(16)}
    as_ever = laid_out(source, "clothing", "--labels-per-class", "5")
    assert parts["labeled"] == as_ever["labeled"]


def test_another_draw_labels_other_images_and_tests_on_the_same(source):
    one, other = (laid_out(source, "tiles", "--labels-per-class", "5", "--draw", draw) for draw in "01")
    assert one["labeled"] != other["labeled"]
    assert one["test"] == other["test"]
    assert len(one["test"]) == 10 + 2


def test_photographs_of_one_tile_are_all_tested_on_or_none(source):
    tested = laid_out(source, "tiles")["test"]
    for number in range(23):
        assert len(tested & {tile(number, quality=80), tile(number, quality=81)}) in (0, 2)


def test_images_of_another_draw_are_not_mixed_in(source, capsys):
    laid_out(source, "tiles")
    with pytest.raises(SystemExit):
        laid_out(source, "tiles")
    assert "is there, and its images would mix with these; remove it" in capsys.readouterr().err
