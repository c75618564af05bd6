import os
import shutil

import pandas as pd
import pytest

from noisy_student.core.errors import UserError
from noisy_student.data.listing import HIDDEN, LINKED, check_folders, list_folder, list_manifest


@pytest.fixture
def folder(tmp_path):
    for path in ("labeled/cat/a.jpg", "labeled/dog/deep/er/b.jpg", "pool/c.jpg", "pool/may/d.jpg", "test/cat/e.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def rows(listing) -> list[tuple]:
    return [tuple(row) for row in listing.files[["path", "split", "label", "drop"]].to_numpy()]


def reasons(listing) -> dict[str, str]:
    return dict(listing.unusable[["path", "reason"]].to_numpy())


def test_test_images_come_first_then_labeled_ones_then_the_pool_by_drops(folder):
    assert rows(list_folder(folder)) == [
        ("test/cat/e.jpg", "test", "cat", ""),
        ("labeled/cat/a.jpg", "labeled", "cat", ""),
        ("labeled/dog/deep/er/b.jpg", "labeled", "dog", ""),
        ("pool/c.jpg", "pool", "", ""),
        ("pool/may/d.jpg", "pool", "", "may"),
    ]


def test_every_file_is_listed_or_refused_with_its_reason(folder):
    (folder / "labeled/lost.jpg").touch()
    (folder / "readme.txt").touch()
    (folder / ".gitkeep").touch()  # of git's alone
    (folder / "pool/.DS_Store").touch()
    (folder / "other").mkdir()
    (folder / "other/f.jpg").touch()
    (folder / "pool/may/june").mkdir()
    os.symlink("..", folder / "pool/may/june/round")
    os.symlink("loop.jpg", folder / "pool/loop.jpg")
    os.symlink("x" * 300, folder / "pool/long.jpg")
    os.symlink("c.jpg/x", folder / "pool/through.jpg")
    (folder / "pool" / os.fsdecode(b"\xff.jpg")).touch()
    listed = list_folder(folder)
    assert len(listed) == 5 + 9
    found = reasons(listed)
    assert found["labeled/lost.jpg"] == "in no folder of a class"
    assert found["readme.txt"] == found["other/f.jpg"] == "outside of labeled/, pool/ and test/"
    assert found["pool/.DS_Store"] == HIDDEN
    assert found["pool/may/june/round"] == LINKED
    assert {"pool/loop.jpg", "pool/long.jpg", "pool/through.jpg"} <= set(listed.files["path"])  # links to no folder
    assert found["pool/\\xff.jpg"] == "its name is no UTF-8"


@pytest.mark.parametrize("linked", ["pool", "test", "pool/june", "labeled/horse"])
def test_a_linked_split_class_or_drop_is_refused(folder, tmp_path, linked):
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(folder / linked, ignore_errors=True)
    os.symlink(tmp_path / "elsewhere", folder / linked)
    with pytest.raises(UserError, match=f"{linked} is a link to a folder"):
        list_folder(folder)


def test_names_may_be_anything(folder):
    for name in ("Café au lait", "猫", "a b, c\"d'"):
        (folder / "labeled" / name).mkdir()
        (folder / "labeled" / name / "x\ny.jpg").touch()
    (folder / "labeled/Cafe\u0301 au lait").mkdir()  # the same name in another normal form
    (folder / "labeled/Cafe\u0301 au lait/z.jpg").touch()
    labels = list_folder(folder).files["label"].value_counts()
    assert labels["Café au lait"] == 2
    assert {"猫", "a b, c\"d'"} <= set(labels.index)


def test_a_folder_without_labels_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no folder labeled/"):
        list_folder(tmp_path)


def manifest(tmp_path, name="images.csv", **columns):
    table = pd.DataFrame(columns)
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    return path


@pytest.mark.parametrize("name", ["images.csv", "images.parquet"])
def test_a_manifest_names_path_label_split_and_group(tmp_path, name):
    path = manifest(
        tmp_path,
        name,
        path=["a.jpg", "b/c.jpg", "d.jpg"],
        label=["cat", "", "007"],
        split=["", "", "test"],
        group=["x", "x", ""],
    )
    listing = list_manifest(path)
    assert rows(listing) == [("d.jpg", "test", "007", ""), ("a.jpg", "labeled", "cat", ""), ("b/c.jpg", "pool", "", "")]
    assert listing.files["group"].tolist() == ["", "x", "x"]
    assert listing.root == tmp_path


def test_rows_that_cannot_be_are_refused_with_their_reason(tmp_path):
    path = manifest(
        tmp_path, path=["a.jpg", "a.jpg", "", "t.jpg"], label=["cat", "dog", "cat", ""], split=["", "", "", "test"]
    )
    listing = list_manifest(path)
    assert len(listing) == 4
    assert listing.unusable["reason"].tolist() == [
        "no path",
        "listed twice, with another label",
        "a test image without a label",
    ]


def test_a_folder_that_may_have_been_meant_is_named(tmp_path):
    (tmp_path / "labelled").mkdir()
    with pytest.raises(UserError, match=r"no folder labeled/ .*, but labelled/; see data.path"):
        check_folders(tmp_path, needs_pool=True)
    (tmp_path / "labelled").rename(tmp_path / "labeled")
    (tmp_path / "unsorted").mkdir()
    check_folders(tmp_path, needs_pool=False)
    with pytest.raises(UserError, match=r"no folder pool/ .*, but unsorted/; rename the one that is meant"):
        check_folders(tmp_path, needs_pool=True)
    (tmp_path / "pool").mkdir()
    check_folders(tmp_path, needs_pool=True)
