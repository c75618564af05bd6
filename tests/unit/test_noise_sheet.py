from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from commands.noise_sheet import HEAD, MAGNITUDES, NAMES, TILE, main, sheet
from noisy_student.store.splits import pixel_hash, write_split
from noisy_student.training.augmentation.mixing import MASKS
from noisy_student.training.augmentation.operations import OPERATIONS
from noisy_student.training.augmentation.policy import scales

LEAST_ROWS = len(OPERATIONS) + 6 + len(MASKS)  # affine, jitter, two crops, flip and cutout stand between them


@pytest.fixture
def split(tmp_path, digits) -> Path:
    images = digits[0][:5]
    index = pd.DataFrame({"id": [str(i) for i in range(5)], "label": digits[1][:5], "sha256": pixel_hash(images)})
    write_split(tmp_path / "labeled", images, index, ["zero", "one", "two"], {}, 1_000_000)
    return tmp_path / "labeled"


def test_every_row_begins_with_the_image_itself_but_for_what_has_no_magnitude(digits):
    two = torch.from_numpy(digits[0][:2]).permute(0, 3, 1, 2)
    picture = np.asarray(sheet(two).convert("L")).astype(int)
    step, half = TILE + 6, picture.shape[1] // 2
    rows = [
        [picture[top : top + TILE, left : left + TILE] for left in range(side + NAMES, side + half, step)]
        for side in (0, half)
        for top in range(HEAD, picture.shape[0], step)
    ]
    assert len(rows) >= LEAST_ROWS
    assert all(len(row) == len(MAGNITUDES) for row in rows)
    itself = rows[0][0]
    begins = [np.abs(row[0] - itself).max() <= 1 for row in rows]
    assert begins.count(False) <= sum(name not in (*scales(8, 8), "identity") for name in OPERATIONS)
    changed = [np.abs(row[-1] - row[0]).mean() for row in rows]
    assert sum(change > 1 for change in changed) >= 15  # color changes no gray image, nor does identity


def test_what_a_move_uncovers_has_the_gray_value_that_is_asked_for(digits):
    two = torch.from_numpy(digits[0][:2]).permute(0, 3, 1, 2)
    dark, gray = (np.asarray(sheet(two, fill).convert("L")).astype(int) for fill in (0, 99))
    assert (gray >= dark).all()
    assert np.mean(gray[dark != gray] == 99) > 0.5  # the others lie between it and the image


def test_the_picture_is_written_and_an_image_that_is_not_there_is_refused(split, digits, tmp_path, capsys):
    main([str(tmp_path / "new" / "noise.png"), "--images", str(split), "--image", "4"])
    two = torch.from_numpy(digits[0][[4, 1]]).permute(0, 3, 1, 2)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "noise.png")), np.asarray(sheet(two)))
    for arguments, said in (
        (["noise.png", "--image", "5"], "--image was 5"),
        (["noise.png", "--fill", "256"], "--fill was 256; it must be from 0 to 255"),
        (["noise"], "name a file that ends in .png"),
    ):
        with pytest.raises(SystemExit):
            main([str(tmp_path / arguments[0]), "--images", str(split), *arguments[1:]])
        assert said in capsys.readouterr().err
