import io
import json
import shutil
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from noisy_student.core.errors import UserError
from noisy_student.store.selection import Selection, gather
from noisy_student.store.splits import pixel_hash, read_split, read_truth, write_split, write_truth

PREPARATION = {"image_size": 8, "resize": "pad"}
CLASSES = ["cat", "dog"]


def index_of(images, labels=None):
    table = {"id": [f"source/{number}" for number in range(len(images))], "sha256": pixel_hash(images)}
    return pd.DataFrame(table if labels is None else table | {"label": labels})


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (10, 8, 6, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path, images):
    """A split of ten images in three shards."""
    write_split(tmp_path / "split", images, index_of(images, [0, 1] * 5), CLASSES, PREPARATION, 800)
    return tmp_path / "split"


@settings(deadline=None, max_examples=30)
@given(
    images=st.tuples(*map(st.integers, (1, 1, 1, 1), (9, 5, 5, 3))).flatmap(lambda shape: arrays(np.uint8, shape)),
    shard_bytes=st.integers(128 + 75, 400),
    labeled=st.booleans(),
    rows=st.lists(st.integers(0, 8)),
)
def test_what_is_written_is_read_again(tmp_path_factory, images, shard_bytes, labeled, rows):
    folder = tmp_path_factory.mktemp("splits") / "split"
    labels = np.arange(len(images)) % 2 if labeled else None
    write_split(folder, images, index_of(images, labels), CLASSES, PREPARATION, shard_bytes)
    split = read_split(folder)

    assert len(split) == len(images)
    assert np.array_equal(split.images(), images)
    assert np.array_equal(np.concatenate(split.shards), images)
    rows = np.array([row for row in rows if row < len(images)], dtype=int)
    assert np.array_equal(split.images(rows), images[rows])
    assert split.ids.tolist() == index_of(images)["id"].tolist()
    assert (split.labels is None) == (not labeled)
    assert not labeled or np.array_equal(split.labels, labels)
    assert (split.classes, split.image_size, split.channels) == (CLASSES, images.shape[1:3], images.shape[3])
    assert all(path.stat().st_size <= shard_bytes for path in folder.glob("*.npy"))


def test_shards_are_mapped_not_read_and_images_are_a_copy_that_may_be_written(folder):
    split = read_split(folder)
    assert len(split.shards) == 3
    assert all(isinstance(shard, np.memmap) for shard in split.shards)
    taken = split.images()
    assert taken.flags.writeable
    assert not isinstance(taken, np.memmap)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell how much of a file is in memory")
def test_images_that_are_read_in_any_order_do_not_stay_in_memory(tmp_path, monkeypatch):
    megabytes, process = 64, psutil.Process()
    images = np.zeros((1000 * megabytes, 10, 10, 10), np.uint8)
    write_split(tmp_path / "split", images, index_of(images), CLASSES, PREPARATION, 8_000_000)
    rows = np.random.default_rng(0).permutation(len(images)).reshape(-1, 1000)

    def grown(read: Callable[[np.ndarray], object]) -> float:
        """Megabytes of files in this process's memory that reading all images adds."""
        before = process.memory_info().shared
        for batch in rows:
            read(batch)
        return (process.memory_info().shared - before) / 1e6

    split, mapped = read_split(tmp_path / "split"), read_split(tmp_path / "split").shards
    monkeypatch.setattr("noisy_student.store.selection.MAX_MAPPED", 8_000_000)
    assert grown(split.selection().__getitem__) < 1
    assert grown(lambda batch: [shard[batch % len(shard)] for shard in mapped]) > megabytes / 2


@pytest.mark.parametrize("shard_bytes", [800, 8000], ids=["three shards", "one shard"])
def test_the_same_images_give_the_same_bytes_however_they_lie_in_memory(tmp_path, images, shard_bytes):
    selection = Selection([images[:3], images[3:]], np.arange(10))
    for name, same in (("plain", images), ("fortran", np.asfortranarray(images)), ("selection", selection)):
        write_split(tmp_path / name, same, index_of(images, [0, 1] * 5), CLASSES, PREPARATION, shard_bytes)
        assert contents(tmp_path / name) == contents(tmp_path / "plain")


def test_the_index_carries_no_metadata_that_could_vary(folder):
    assert pq.read_schema(folder / "index.parquet").pandas_metadata is None


def test_rows_that_are_not_there_are_an_error(folder, images):
    split = read_split(folder)
    for rows in ([10], [-1], [0, 99]):
        with pytest.raises(IndexError):
            split.images(np.array(rows))
    assert np.array_equal(gather([images[:1], images[1:]], np.array([9, 0, 9])), images[[9, 0, 9]])


def test_a_hash_tells_pixels_and_shapes_apart():
    flat = np.zeros((1, 4, 1), dtype=np.uint8)
    other = flat.copy()
    other[0, 0, 0] = 1
    assert len(set(pixel_hash([flat, flat.copy(), flat.reshape(2, 2, 1), other]))) == 3


class Failing(Selection):
    """Images that cannot be read any more after the first shard."""

    def __getitem__(self, part):
        if part.start:
            raise OSError("the disk is gone")
        return super().__getitem__(part)


def test_a_write_that_fails_leaves_nothing_and_spares_what_was_there(tmp_path, folder, images):
    before = contents(folder)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(OSError, match="gone"):
            write_split(target, Failing([images], np.arange(10)), index_of(images), CLASSES, PREPARATION, 800)
    assert [path.name for path in tmp_path.iterdir()] == ["split"]
    assert contents(folder) == before


def test_what_a_killed_run_left_is_not_taken_over(tmp_path, folder, images):
    before = contents(folder)
    (tmp_path / "split.tmp").mkdir()
    (tmp_path / "split.tmp" / "images-00009.npy").write_bytes(b"half")
    write_split(folder, images, index_of(images, [0, 1] * 5), CLASSES, PREPARATION, 800)
    assert contents(folder) == before


def test_a_folder_of_other_things_is_not_replaced(tmp_path, images):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds no split"):
        write_split(tmp_path, images, index_of(images), CLASSES, PREPARATION, 800)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda images: images.astype(np.float32), "uint8"),
        (lambda images: images[..., 0], "uint8"),
        (lambda images: images[:0], "at least one"),
        (lambda images: images.repeat(30, axis=1), "shard_megabytes"),
    ],
    ids=["floats", "no channels", "none", "larger than a shard"],
)
def test_other_images_are_refused(tmp_path, images, change, said):
    changed = change(images)
    with pytest.raises(UserError, match=said):
        write_split(tmp_path / "split", changed, index_of(changed), CLASSES, PREPARATION, 800)
    assert not list(tmp_path.iterdir())


def test_as_many_ids_as_images_are_asked_for(tmp_path, images):
    with pytest.raises(UserError, match="as many ids"):
        write_split(tmp_path / "split", images, index_of(images[:9]), CLASSES, PREPARATION, 800)


def described(**changes):
    def damage(folder):
        path = folder / "split.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def first_shard(**changes):
    """split.json that knows of one shard alone, which it describes otherwise."""

    def damage(folder):
        shards = json.loads((folder / "split.json").read_text())["shards"]
        described(shards=[shards[0] | changes])(folder)

    return damage


def flip_a_bit(folder):
    content = bytearray((folder / "images-00001.npy").read_bytes())
    content[-1] ^= 1
    (folder / "images-00001.npy").write_bytes(content)


def saved(array, allow_pickle=False):
    content = io.BytesIO()
    np.save(content, array, allow_pickle=allow_pickle)
    return content.getvalue()


def shard(content):
    return lambda folder: (folder / "images-00001.npy").write_bytes(content)


def indexed(**columns):
    def damage(folder):
        table = pq.read_table(folder / "index.parquet").to_pydict() | columns
        pq.write_table(pa.table(table), folder / "index.parquet")

    return damage


DAMAGES = {
    "no folder": shutil.rmtree,
    "no split.json": lambda folder: (folder / "split.json").unlink(),
    "split.json cut off": lambda folder: (folder / "split.json").write_text('{"classes": ['),
    "split.json of a list": lambda folder: (folder / "split.json").write_text("[]"),
    "another key": described(kind="images"),
    "another type": described(images="10"),
    "another size": described(image_size=[6, 8]),
    "another number of images": described(images=11),
    "too few shards": first_shard(),
    "a shard outside": first_shard(file="../images-00000.npy", images=10),
    "too few classes": described(classes=["cat"]),
    "no shard": lambda folder: (folder / "images-00001.npy").unlink(),
    "shard cut off": lambda folder: shard((folder / "images-00001.npy").read_bytes()[:300])(folder),
    "empty shard": shard(b""),
    "shard of floats": shard(saved(np.zeros((4, 8, 6, 3)))),
    "shard of fewer images": shard(saved(np.zeros((3, 8, 6, 3), dtype=np.uint8))),
    "shard of objects": shard(saved(np.array([{}] * 4, dtype=object), allow_pickle=True)),
    "shard of another pixel": flip_a_bit,
    "no index": lambda folder: (folder / "index.parquet").unlink(),
    "index of something else": lambda folder: (folder / "index.parquet").write_bytes(b"PAR1 or not"),
    "index without ids": lambda folder: pq.write_table(pa.table({"label": [0] * 10}), folder / "index.parquet"),
    "an id twice": indexed(id=["same"] * 10),
    "labels of text": indexed(label=["cat"] * 10),
    "a label missing": indexed(label=[None, *[0] * 9]),
    "a label below zero": indexed(label=[-1, *[0] * 9]),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_split_is_refused_in_one_sentence(folder, damage):
    damage(folder)
    with pytest.raises(UserError) as refusal:
        read_split(folder)
    said = str(refusal.value)
    assert str(folder) in said
    assert said.endswith("; run `dvc repro` to make it again")
    assert "\n" not in said


def test_the_truth_is_read_in_the_order_of_the_pool(tmp_path):
    write_truth(tmp_path / "truth.parquet", ["b", "a", "c"], np.array([3, -1, 0]))
    truth = read_truth(tmp_path / "truth.parquet")
    assert truth.tolist() == [3, -1, 0]
    assert truth.dtype == np.int64


def test_a_damaged_truth_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_truth(tmp_path / "truth.parquet")
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "truth.parquet")
    with pytest.raises(UserError, match="no column label"):
        read_truth(tmp_path / "truth.parquet")
