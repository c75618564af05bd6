"""One's own images from the folder to the splits, with all that a folder can hold."""

import json
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from preparing import DATA, NO_CORRECTIONS, SPLITS, run_prepare
from test_decoding import BAD

from noisy_student.core.errors import UserError
from noisy_student.core.signals import Stopped
from noisy_student.data.user_images import BadFraction, _check_bad_fraction, load_user_images
from noisy_student.store.decoding import Preparation
from noisy_student.store.splits import pixel_hash, read_split

HOW = Preparation(image_size=8, resize="crop", background=0, max_megapixels=1)
OWN = {
    **DATA,
    "source": "folder",
    "test": 8,
    "labeled_per_class": None,
    "calibration": 4,
    "validation": 4,
    "near_duplicates": 0.96,
    **HOW.model_dump(exclude_none=True),
    "max_bad_fraction": 0.5,
    "shard_megabytes": 1,
}


def photo(seed: int, color: bool = True) -> Image.Image:
    """Noise that no other seed has, 20 x 16 pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    return Image.fromarray(noise if color else noise[..., 0])


def folder_of_photos(root, labeled=15, pool=20, color=True):
    """Cats and dogs, as many labeled ones of each, and a pool."""
    for number in range(2 * labeled + pool):
        where = "pool" if number >= 2 * labeled else f"labeled/{('cat', 'a dog')[number % 2]}"
        (root / where).mkdir(parents=True, exist_ok=True)
        photo(number, color).save(root / where / f"{number:03}.png")


def save_text(path):
    path.parent.mkdir(parents=True)
    path.write_text("no image")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of_photos(tmp_path / "images")
    (tmp_path / "corrections.csv").write_text(NO_CORRECTIONS)
    return tmp_path


def run(**changes) -> dict:
    """Prepare the images and return the report."""
    run_prepare(OWN | changes)
    return json.loads(Path("out/report.json").read_text())


def refused(capsys, **changes) -> str:
    with pytest.raises(SystemExit) as ended:
        run(**changes)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


def splits():
    return {name: read_split(Path("out") / name) for name in SPLITS}


def test_a_folder_becomes_splits_with_the_names_of_its_classes(here):
    report = run()
    assert report["classes"] == ["a dog", "cat"]
    assert report["images"] == {"test": 8, "calibration": 4, "validation": 4, "labeled": 14, "pool": 20}
    found = splits()
    assert found["labeled"].image_size == (8, 8)
    assert found["labeled"].channels == 3
    assert all(name.startswith("labeled/") for name in found["test"].ids)
    assert all(name.startswith("pool/") for name in found["pool"].ids)
    for split in (found["labeled"], found["test"]):
        named = [name.split("/")[1] for name in split.ids]
        assert named == [split.classes[label] for label in split.labels]
    everything = [each for split in found.values() for each in pixel_hash(split.images())]
    assert len(set(everything)) == len(everything) == 50
    assert found["labeled"].preparation == HOW.model_dump(exclude_none=True)


def test_gray_images_stay_one_channel(here):
    for path in (here / "images").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    run()
    assert splits()["pool"].images().shape == (20, 8, 8, 1)
    index = pd.read_parquet("out/pool/index.parquet")
    assert index["sha256"].tolist() == pixel_hash(splits()["pool"].images())


@pytest.mark.parametrize("split", ["labeled/cat", "pool", "test/cat"])
def test_bad_files_are_set_apart_with_their_reason_and_nothing_else_changes(here, split):
    (here / "images/test/cat").mkdir(parents=True)
    for number in range(900, 910):
        photo(number).save(here / f"images/test/cat/{number}.png")
    (here / "images" / split / "folder.jpg").mkdir()
    before = run(test=None)
    kept = {name: found.ids.tolist() for name, found in splits().items()}
    for name, content in BAD.items():
        (here / "images" / split / f"{name}.jpg").write_bytes(content)
    os.symlink("/etc/passwd", here / "images" / split / "link.jpg")
    os.symlink("nowhere", here / "images" / split / "dangling.jpg")
    os.mkfifo(here / "images" / split / "pipe.jpg")
    after = run(test=None, max_bad_fraction=0.9)
    assert {name: found.ids.tolist() for name, found in splits().items()} == kept
    assert after["quarantined"] == len(BAD) + 3
    assert after["files"] == before["files"] + len(BAD) + 3 == after["usable"] + after["quarantined"]
    quarantine = pd.read_csv("out/quarantine.csv", keep_default_na=False)
    assert len(quarantine) == after["quarantined"]
    assert (quarantine["reason"] != "").all()
    assert not quarantine["path"].duplicated().any()
    unread = quarantine["path"].str.contains("link|dangling|pipe|empty")
    assert (quarantine["sha256"].str.len() == np.where(unread, 0, 64)).all()


def test_too_many_bad_files_stop_the_stage_with_the_commonest_reasons(here, capsys):
    for number in range(3):
        (here / f"images/pool/{number}.jpg").write_bytes(b"text")
    (here / "images/pool/empty.jpg").touch()
    (here / "images/pool/.DS_Store").touch()  # of the system's, and no bad image
    said = refused(capsys, max_bad_fraction=0.01)
    assert "4 of 55 files cannot be used, more than data.max_bad_fraction 0.01 allows" in said
    assert "3 no image of a known format, such as pool/0.jpg; 1 empty" in said
    assert "hidden" not in said
    assert "or write `max_bad_fraction: 0.08` below `data:` in params.yaml" in said
    assert "all are in work/quarantine.csv" in said
    assert len(pd.read_csv("work/quarantine.csv")) == 4
    assert not os.path.exists("out")
    assert run(max_bad_fraction=0.08)["quarantined"] == 5


def test_a_fraction_that_the_error_proposes_is_enough():
    bad = pd.DataFrame({"path": [f"{number}" for number in range(29)], "reason": "empty"})
    with pytest.raises(UserError, match=r"`max_bad_fraction: 0\.29` below `pretraining:`"):
        _check_bad_fraction(bad, 100, BadFraction(0.28, "pretraining.max_bad_fraction"), None)
    _check_bad_fraction(bad, 100, BadFraction(0.29, "pretraining.max_bad_fraction"), None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: (images / "labeled").rename(images / "labels"), "has no folder labeled/"),
        (lambda images: [file.write_bytes(b"?") for file in (images / "labeled/cat").glob("*")], "class 'cat'"),
        (lambda images: (images / "labeled/cat").rename(images / "pool/cat"), "labels of 1 class"),
        (lambda images: (images / "labeled").rename(images / "test"), "has no folder labeled/"),
        (lambda images: (images / "labeled/cat").rename(images / "none"), "labels of 1 class"),
        (lambda images: (images / "labeled/bird").mkdir(), "class 'bird'"),
    ],
)
def test_a_folder_that_cannot_be_split_is_refused_in_a_sentence(here, capsys, change, said):
    change(here / "images")
    assert said in refused(capsys)


@pytest.mark.parametrize("empty", [lambda pool: None, Path.mkdir, lambda pool: save_text(pool / "notes.txt")])
def test_an_empty_pool_is_refused_with_its_folder(here, capsys, empty):
    shutil.rmtree(here / "images/pool")
    empty(here / "images/pool")
    assert "images/pool is missing or has no usable image; put unlabeled images there" in refused(capsys)


def test_labeled_images_that_are_left_can_be_the_pool(here):
    shutil.rmtree(here / "images/pool")
    assert run(labeled_per_class=5)["images"]["pool"] == 4


def test_a_manifest_without_a_pool_is_refused_with_its_name(here, capsys):
    paths = sorted(str(path.relative_to(here / "images")) for path in (here / "images/labeled").rglob("*.png"))
    table = pd.DataFrame({"path": paths, "label": [path.split("/")[1] for path in paths]})
    table.to_csv(here / "images/list.csv", index=False)
    said = refused(capsys, source="manifest", path="images/list.csv")
    assert "images/list.csv lists no usable image without a label" in said


def test_a_class_of_the_test_split_alone_is_refused(here, capsys):
    (here / "images/test/bird").mkdir(parents=True)
    photo(1000).save(here / "images/test/bird/1.png")
    assert "the class 'bird' of images is in the test split alone" in refused(capsys)
    assert "there is no such folder" in refused(capsys, path="nowhere")


def test_a_new_drop_changes_no_old_shard_and_no_labeled_image(here):
    run()
    before = {file.name: file.read_bytes() for file in (here / "out/pool").glob("*.npy")}
    labeled = (here / "out/labeled/images-00000.npy").read_bytes()
    (here / "images/pool/june").mkdir()
    for number in range(2000, 2010):
        photo(number).save(here / f"images/pool/june/{number}.png")
    run()
    after = {file.name: file.read_bytes() for file in (here / "out/pool").glob("*.npy")}
    assert before.items() <= after.items()
    assert len(after) == len(before) + 1
    assert (here / "out/labeled/images-00000.npy").read_bytes() == labeled


def test_what_is_like_a_held_out_image_leaves_the_training_side_and_is_listed(here, capsys):
    run()
    assert "near-duplicates" not in capsys.readouterr().out
    held_out = splits()["test"].ids[0]
    Image.open(here / "images" / held_out).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(
        here / "images/pool/again.png"
    )
    Image.open(here / "images" / held_out).save(here / "images/pool/copy.png")
    report = run()
    assert "left out as near-duplicates: 1 (0 labeled, 1 of the pool); out/card/card.md" in capsys.readouterr().out
    assert report["near_duplicates_taken_out"] == 1
    assert report["duplicates_dropped"] == 1
    left_out = pd.read_csv("out/left_out.csv").set_index("id")
    assert left_out.loc["pool/again.png", ["why", "like"]].tolist() == ["near", held_out]
    assert left_out.loc["pool/copy.png", ["why", "like"]].tolist() == ["identical", held_out]
    assert not {"pool/again.png", "pool/copy.png"} & set(splits()["pool"].ids)
    assert run(near_duplicates=None)["near_duplicates_taken_out"] == 0


def test_corrections_move_an_image_from_the_pool_to_the_labeled_ones(here):
    before = run()
    test_before = splits()["test"].ids.tolist()
    (here / "corrections.csv").write_text("id,label,guess\npool/030.png,cat,a dog\npool/031.png,,cat\n")
    after = run()
    assert after["images"]["labeled"] == before["images"]["labeled"] + 1
    labeled = splits()["labeled"]
    assert labeled.classes[labeled.labels[labeled.ids.tolist().index("pool/030.png")]] == "cat"
    assert "pool/030.png" not in splits()["pool"].ids
    assert "pool/031.png" in splits()["pool"].ids
    assert splits()["test"].ids.tolist() == test_before


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("id,label\nnowhere.png,cat\n", "labels 'nowhere.png', which is no image"),
        ("id,label\npool/030.png,cot\n", "did you mean cat?"),
        ("id,label\npool/030.png,cat\npool/030.png,a dog\n", "two labels; keep one"),
        ("path,class\n", "must have one column id and one column label"),
        ("id,label,label\n", "must have one column id and one column label"),
        ("", "must have one column id and one column label"),
        ("id,label\npool/030.png,cat,dog\n", "another number of fields in line 2"),
        ("id,label\n\n\npool/030.png\n", "another number of fields in line 4"),
    ],
)
def test_corrections_that_cannot_be_are_refused(here, capsys, lines, said):
    (here / "corrections.csv").write_text(lines)
    assert said in refused(capsys)


def test_a_class_that_has_no_label_left_to_train_on_is_refused(here, capsys):
    lines = [f"labeled/cat/{number:03}.png,a dog\n" for number in range(0, 30, 2)]
    (here / "corrections.csv").write_text("id,label\n" + "".join(lines))
    assert "the class 'cat' has no labeled image left to train on" in refused(capsys)


def test_a_color_picture_in_the_pool_does_not_change_gray_labels(here):
    for path in (here / "images/labeled").rglob("*.png"):
        Image.open(path).convert("L").save(path)
    run()
    assert splits()["labeled"].channels == splits()["pool"].channels == 1
    pool = splits()["pool"]
    assert len(pool) == 20
    index = pd.read_parquet("out/pool/index.parquet")
    assert index["sha256"].tolist() == pixel_hash(pool.images())


def test_a_group_is_held_out_or_trained_on_and_in_one_held_out_split(here):
    paths = sorted(str(path.relative_to(here / "images")) for path in (here / "images").rglob("*.png"))
    group = {path: f"burst {number % 12}" for number, path in enumerate(paths)}
    label = {path: path.split("/")[1] if path.startswith("labeled") else "" for path in paths}
    table = pd.DataFrame({"path": paths, "label": label.values(), "group": group.values()})
    table.to_csv(here / "images/list.csv", index=False)
    report = run(source="manifest", path="images/list.csv", test=6, calibration=2, validation=2)
    found = {name: {group[image] for image in split.ids} for name, split in splits().items()}
    sides = [found["test"], found["calibration"], found["validation"], found["labeled"] | found["pool"]]
    assert sum(map(len, sides)) == len(set().union(*sides))
    in_splits = sum(report["images"].values())
    assert in_splits + report["images_of_groups_left_out"] + report["near_duplicates_taken_out"] == 50


def test_the_card_shows_every_class_and_counts_what_was_written(here):
    (here / "images/pool/text.jpg").write_bytes(b"text")
    run()
    card = (here / "out/card/card.md").read_text()
    assert "| all | 8 | 4 | 4 | 14 | 20 |" in card
    assert "| pool/text.jpg |" in card
    assert sorted(path.name for path in (here / "out/card").glob("*.png")) == [
        "class-000.png",
        "class-001.png",
        "pool.png",
    ]
    assert Image.open(here / "out/card/pool.png").size == (12 * 68 + 4, 2 * 68 + 4)


def test_a_signal_ends_the_decoding_at_once(here, monkeypatch):
    def stop(number, frame):
        raise Stopped(number)

    monkeypatch.setattr("noisy_student.data.parallel_decoding.decode", lambda *_: time.sleep(60))
    before, started = signal.signal(signal.SIGALRM, stop), time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, 3)  # the decoders are at work by then
    try:
        with pytest.raises(Stopped):
            load_user_images("folder", here / "images", HOW, BadFraction(0.0, "data.max_bad_fraction"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 10
    assert not multiprocessing.active_children()


def test_memory_and_disk_are_looked_at_first(here, monkeypatch):
    class Full:
        f_bavail, f_frsize = 1, 4096

    monkeypatch.setattr(os, "statvfs", lambda folder: Full)
    with pytest.raises(UserError, match=r"lower data\.image_size"):
        load_user_images("folder", here / "images", HOW, BadFraction(0.0, "data.max_bad_fraction"), here / "work")
    assert not list((here / "work").glob("decoded-*"))


def test_twelve_bits_in_files_of_sixteen_keep_all_their_levels(here):
    """The white of all files is that of the labeled ones: it is in the card's figures and in the preparation."""
    folder_of_photos(here / "images", color=False)
    for file in here.glob("images/**/*.png"):
        values = np.asarray(Image.open(file)).astype(np.uint16) * 16  # 0 to 4080
        Image.fromarray(values).save(file)
    deeper = Image.fromarray(np.full((16, 20), 40_000, np.uint16))
    deeper.save(here / "images/pool/deeper.png")
    shallow = np.asarray(photo(500, color=False))
    Image.fromarray(shallow).save(here / "images/pool/shallow.png")  # 8 bits, which are read as ever
    dataset = load_user_images("folder", here / "images", HOW, BadFraction(0, "data.max_bad_fraction"))
    assert dataset.found_preparation() == {"white": 4095}
    assert dataset.figures()["white_of_16_bit_files"] == 4095
    assert dataset.unlabeled is not None
    by_name = dict(zip(dataset.unlabeled.ids, np.asarray(dataset.unlabeled.images[:]), strict=True))
    assert (by_name["pool/deeper.png"] == 255).all()
    assert by_name["pool/shallow.png"].std() > 20
    levels = np.asarray(dataset.images[:])
    assert len(np.unique(levels)) > 100
    assert levels.max() > 180
    run_prepare(OWN | {"white": None})
    assert read_split(here / "out/labeled").preparation["white"] == 4095
    (card,) = (here / "out").glob("**/card.md")
    assert "| white of 16 bit files | 4,095 |" in card.read_text()


def test_classes_that_differ_in_capitals_alone_are_named(here, capsys):
    folder_of_photos(here / "images")
    for name in ("Cat", "A dog"):
        (here / "images/labeled" / name).mkdir()
        photo(700 + len(name)).save(here / "images/labeled" / name / "x.png")
    load_user_images("folder", here / "images", HOW, BadFraction(0, "data.max_bad_fraction"))
    said = capsys.readouterr().out
    assert "the classes 'Cat' and 'cat' differ in capitals or spaces alone; if they are one, give them one name" in said
    assert "the classes 'A dog' and 'a dog' differ" in said


def test_in_a_manifest_spaces_around_a_label_are_none_of_it_and_capitals_are_named(here, capsys):
    folder_of_photos(here / "images")
    files = sorted(path.relative_to(here) for path in (here / "images/labeled").rglob("*.png"))[:4]
    lines = [f"{file},{label}" for file, label in zip(files, ("cat", "cat ", "Dog", " dog"), strict=True)]
    (here / "list.csv").write_text("\n".join(["path,label", *lines]))
    found = load_user_images("manifest", here / "list.csv", HOW, BadFraction(0, "data.max_bad_fraction"))
    assert found.classes == ["Dog", "cat", "dog"]
    assert np.bincount(found.labels).tolist() == [1, 2, 1]
    assert "the classes 'Dog' and 'dog' differ in capitals or spaces alone" in capsys.readouterr().out


def test_a_test_class_that_differs_in_a_capital_alone_is_told_the_class_that_may_be_meant(here):
    folder_of_photos(here / "images")
    (here / "images/test/Cat").mkdir(parents=True)
    photo(700).save(here / "images/test/Cat/x.png")
    with pytest.raises(UserError, match=r"class 'Cat' of .* in the test split alone \(there is the class 'cat'\)"):
        load_user_images("folder", here / "images", HOW, BadFraction(0, "data.max_bad_fraction"))


def test_a_folder_with_a_space_beside_its_name_is_of_the_class_without_it(here):
    folder_of_photos(here / "images")
    (here / "images/labeled/cat ").mkdir()
    photo(700).save(here / "images/labeled/cat /x.png")
    dataset = load_user_images("folder", here / "images", HOW, BadFraction(0, "data.max_bad_fraction"))
    assert "cat " not in dataset.classes
    assert "labeled/cat /x.png" in set(dataset.ids)


def test_a_class_that_the_test_split_lacks_is_named(here, capsys):
    folder_of_photos(here / "images")
    (here / "images/test/cat").mkdir(parents=True)
    photo(700).save(here / "images/test/cat/x.png")
    load_user_images("folder", here / "images", HOW, BadFraction(0, "data.max_bad_fraction"))
    assert "warning: the test split has no image of a dog" in capsys.readouterr().out


def test_a_folder_whose_name_is_blank_is_no_class(here):
    folder_of_photos(here / "images")
    (here / "images/labeled/  ").mkdir()
    photo(700).save(here / "images/labeled/  /x.png")
    with pytest.raises(UserError, match=r"1 in no folder of a class, such as labeled/  /x\.png"):
        load_user_images("folder", here / "images", HOW, BadFraction(0, "data.max_bad_fraction"))
