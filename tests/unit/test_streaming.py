"""A pool that stays in its shards: it gives what a copied one gives, from the disk and over a bad line to a store."""

import http.server
import subprocess
import sys
import threading
import time

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import store
import torch
from preparing import DATA, NO_CORRECTIONS, run_prepare
from test_shards import encoded, labeled_tar
from torch import nn

from commands import list_shards as command
from noisy_student.core.errors import UserError
from noisy_student.core.files import read_csv
from noisy_student.data.shard_contents import images_in
from noisy_student.data.shards import list_shards
from noisy_student.models.classifier import Classifier
from noisy_student.models.prediction import predict_split
from noisy_student.store import encoded_images, shard_files
from noisy_student.store.splits import read_split, read_truth
from noisy_student.training.batches import Batches
from noisy_student.training.labeled_images import LabeledImages
from noisy_student.training.order import WINDOW
from noisy_student.training.placed_images import PlacedImages, placed

OWN = {**DATA, "source": "shards", "path": "shards.csv", "test": 8, "labeled_per_class": None, "calibration": 4}
OWN |= {"validation": 4, "near_duplicates": 0.96, "image_size": 16, "max_bad_fraction": 0.5}
COPIED, STREAMED = OWN, OWN | {"streamed_pool": True}


CPU = torch.device("cpu")


def training_data(folder) -> tuple[PlacedImages, PlacedImages]:
    """Some made-up labeled images, and the pool."""
    split = read_split(folder)
    images = np.zeros((10, 16, 16, split.channels), np.uint8)
    labeled = LabeledImages(images, np.eye(3, dtype=np.float32)[[0] * 10])
    pool = LabeledImages(split.selection(), np.full((len(split), 3), 1 / 3, np.float32))
    return placed(labeled, CPU), placed(pool, CPU)


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """A folder with a tar and a Parquet file, some of whose images are bad or the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corrections.csv").write_text(NO_CORRECTIONS)
    monkeypatch.setattr(encoded_images, "BLOCK_BYTES", 1500)  # so that a tar has many
    labeled_tar(tmp_path / "a.tar", range(40), pool=range(40, 120))
    images = [*(encoded(n) for n in range(115, 200)), b"no image"]
    pq.write_table(pa.table({"jpg": images}), tmp_path / "b.parquet", row_group_size=32)
    command.main(["*.tar", "*.parquet"])
    return tmp_path


def by_id(folder) -> pd.DataFrame:
    split = read_split(folder)
    found = {"id": split.ids, "image": [image.tobytes() for image in split.images()]}
    return pd.DataFrame(found).sort_values("id", ignore_index=True)


def same_files(one, other, names) -> None:
    for name in names:
        for file in sorted(path for path in (one / name).rglob("*") if path.is_file()):
            assert (other / file.relative_to(one)).read_bytes() == file.read_bytes(), file


@pytest.mark.parametrize("more", [{}, {"labeled_per_class": 3}], ids=["all labels", "labels left for the pool"])
def test_a_streamed_pool_has_the_images_of_a_copied_one(shards, more):
    run_prepare(COPIED | more, out="copied")
    run_prepare(STREAMED | more, out="streamed")
    copied, streamed = (by_id(shards / out / "pool") for out in ("copied", "streamed"))
    assert len(streamed) >= 145
    pd.testing.assert_frame_equal(streamed, copied)
    assert sorted(path.name for path in (shards / "streamed/pool").iterdir()) == [
        "index-00000.parquet",
        "index-00001.parquet",
        "split.json",
    ]
    same_files(shards / "copied", shards / "streamed", ["labeled", "calibration", "validation", "test"])
    for table in ("quarantine.csv", "left_out.csv", "report.json"):
        assert (shards / "streamed" / table).read_text() == (shards / "copied" / table).read_text()
    truth = read_truth(shards / "streamed/pool_truth.parquet")
    assert (truth >= 0).sum() == (read_truth(shards / "copied/pool_truth.parquet") >= 0).sum()
    assert len(read_csv(shards / "streamed/quarantine.csv")) == 1


def test_each_shard_is_one_of_the_split_and_any_rows_can_be_read(shards):
    run_prepare(STREAMED, out="out")
    split = read_split(shards / "out/pool")
    assert [len(shard) for shard in split.shards] == [80, 80]  # 115 to 119 are in both, and one is no image
    rows = np.array([150, 3, 3, 79, 80, 0])
    assert np.array_equal(split.images(rows), split.images()[rows])
    assert np.array_equal(split.shards[1][10:12], split.images()[90:92])
    assert split.images(rows[:0]).shape == (0, 16, 16, split.channels)


def test_a_block_is_read_once_while_a_training_stays_near_it(shards, monkeypatch, make_recipe):
    run_prepare(STREAMED, out="out")
    split = read_split(shards / "out/pool")
    read = []
    real = encoded_images.read_encoded
    monkeypatch.setattr(encoded_images, "read_encoded", lambda *place: read.append(place) or real(*place))
    labeled, pool = training_data(shards / "out/pool")
    blocks = len(np.unique(pool.order.blocks))
    assert blocks > 2 * WINDOW
    batches = Batches(make_recipe(batch_size=24, pool_ratio=2, steps=10), labeled, pool, seed=0)
    parts = [part for step in range(10) for part in batches.parts(step)]  # of 16 pool images each: an epoch
    seen = torch.cat([part.images[part.from_pool.bool()] for part in parts]).permute(0, 2, 3, 1).numpy()
    assert len(read) == blocks
    assert sorted(image.tobytes() for image in seen) == sorted(image.tobytes() for image in split.images())


def test_a_training_that_begins_in_the_middle_gets_the_same_batches(shards, make_recipe):
    run_prepare(STREAMED, out="out")
    recipe = make_recipe(
        batch_size=24, pool_ratio=2, steps=40, noise={"operations": 2, "magnitude": 15.0, "flip": True}
    )
    whole = Batches(recipe, *training_data(shards / "out/pool"), seed=0)
    parts = [[part.images for part in whole.parts(step)] for step in range(40)]
    for start in (7, 16, 33):
        resumed = Batches(recipe, *training_data(shards / "out/pool"), seed=0)
        for step in range(start, min(start + 20, 40)):
            for one, other in zip(resumed.parts(step), parts[step], strict=True):
                assert torch.equal(one.images, other)


def test_a_streamed_pool_gets_the_logits_of_a_copied_one(shards, runtime):
    logits = []
    for data, out in ((COPIED, "copied"), (STREAMED, "streamed")):
        run_prepare(data, out=out)
        split = read_split(shards / out / "pool")
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(16 * 16 * split.channels, 3))
        classifier = Classifier(network, torch.zeros(split.channels), torch.ones(split.channels))
        found = np.concatenate([seen.logits for _, seen in predict_split(classifier, split, runtime, "pool")])
        logits.append(found[np.argsort(split.ids)])
    assert np.array_equal(*logits)


@pytest.mark.parametrize(("more", "left"), [({}, 0), ({"labeled_per_class": 3}, 18)], ids=["no pool", "leftovers"])
def test_shards_without_a_pool_image_are_as_with_a_copied_pool(shards, more, left, capsys):
    labeled_tar(shards / "a.tar", range(40))
    command.main(["a.tar"])
    if left:
        run_prepare(STREAMED | more, out="out")
        assert len(read_split(shards / "out/pool")) == left
    else:
        with pytest.raises(SystemExit):
            run_prepare(STREAMED | more, out="out")
        assert "lists no usable image without a label; list shards of images without labels" in capsys.readouterr().err


def test_a_pool_that_is_prepared_anew_is_read_anew(shards):
    for seed in (0, 5):
        run_prepare(STREAMED | {"labeled_per_class": 3}, seed=seed, out="out")
        table = by_id(shards / "out/pool").set_index("id")["image"]
        run_prepare(COPIED | {"labeled_per_class": 3}, seed=seed, out="copied")
        assert table.to_dict() == by_id(shards / "copied/pool").set_index("id")["image"].to_dict()


def test_a_store_that_tells_no_version_is_refused(shards, capsys):
    memory = fsspec.filesystem("memory")
    memory.put(str(shards / "a.tar"), "/photos/a.tar")
    command.main(["memory://photos/a.tar"])
    listed = read_csv(shards / "shards.csv").assign(version="")
    listed.to_csv(shards / "shards.csv", index=False)
    with pytest.raises(SystemExit):
        run_prepare(STREAMED)
    assert "so a streamed pool could change unseen" in capsys.readouterr().err


def test_a_web_server_that_does_not_answer_is_asked_again(shards, monkeypatch, capsys):
    answers = [503, 503, 404]

    class Busy(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(answers[0])

        def do_GET(self) -> None:
            self.send_error(answers.pop(0))

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setattr(shard_files, "WAITS", (0.01,) * 5)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Busy) as busy:
        threading.Thread(target=busy.serve_forever, daemon=True).start()
        shard = shard_files.Shard(f"http://127.0.0.1:{busy.server_address[1]}/a.tar", 10, "")
        with pytest.raises(UserError, match="is gone; run `noisy-student list-shards` again"):
            images_in(shard, shards)
        busy.shutdown()
    with pytest.raises(UserError, match=r"a\.tar cannot be read \(Cannot connect to host"):
        images_in(shard, shards)  # the server is gone
    assert "trying again" in capsys.readouterr().out


def test_a_process_ends_at_once_where_a_thread_still_waits():
    code = (
        "import time; from noisy_student.core.ahead import ahead, Worker; worker = Worker()\n"
        "for _ in range(3): worker.submit(lambda: time.sleep(60))\n"
        "for _ in ahead(time.sleep(60 * n) for n in range(3)): raise SystemExit(3)"
    )
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code]).returncode == 3
    assert time.monotonic() - started < 30


def test_a_damaged_index_of_a_shard_is_refused(shards):
    run_prepare(STREAMED, out="out")
    index = shards / "out/pool/index-00001.parquet"
    pq.write_table(pq.read_table(index).slice(1), index)
    with pytest.raises(UserError, match=r"index-00001.parquet does not say where 80 images are in their shard; "):
        read_split(shards / "out/pool").images()
    index.unlink()
    assert len(read_split(shards / "out/pool")) == 160
    with pytest.raises(UserError, match=r"index-00001.parquet"):
        _ = read_split(shards / "out/pool").ids


def test_a_shard_that_changed_after_it_was_prepared_is_refused(shards):
    run_prepare(STREAMED, out="out")
    labeled_tar(shards / "a.tar", range(3))
    split = read_split(shards / "out/pool")
    with pytest.raises(
        UserError, match=r"a\.tar has changed since it was listed \(.*\); run `noisy-student list-shards"
    ):
        split.images()
    (shards / "a.tar").unlink()
    with pytest.raises(UserError, match=r"a\.tar is gone; run `noisy-student list-shards` again"):
        split.images()


def test_a_pool_of_files_is_not_streamed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run_prepare(DATA | {"streamed_pool": True})
    assert "data.streamed_pool is for images in shards; set it to false" in capsys.readouterr().err


def test_a_shard_that_breaks_off_goes_on_behind_what_was_read(shards, monkeypatch):
    listing = list_shards(shards / "shards.csv")
    places = listing.places[listing.places["shard"] == 1]
    real, breaks = encoded_images._from_parquet, [3, 5]

    def broken(file, left):
        for number, content in enumerate(real(file, left)):
            if breaks and number == breaks[0]:
                del breaks[0]
                raise shard_files.Unreachable("b.parquet cannot be read (a test)")
            yield content

    monkeypatch.setattr(shard_files, "WAITS", (0.01,))
    whole = list(encoded_images.read_encoded(listing.shards[1], shards, places))
    monkeypatch.setattr(encoded_images, "_from_parquet", broken)
    assert list(encoded_images.read_encoded(listing.shards[1], shards, places)) == whole
    assert not breaks


@pytest.mark.parametrize("pause", [0, 0.002], ids=["cut off", "cut off and slow"])
def test_over_a_line_that_is_cut_off_ten_times_nothing_is_lost(shards, monkeypatch, pause):
    run_prepare(STREAMED, out="on_disk")
    monkeypatch.setattr(shard_files, "WAITS", (0.01,) * 10)
    with store.server() as address:
        store.use(address, monkeypatch)
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("photos")
        bucket.put([str(shards / "a.tar"), str(shards / "b.parquet")], "photos/")
        with store.bad_line(address, cuts=10, after=9000, pause=pause) as (line, left):
            store.use(line, monkeypatch)
            command.main(["s3://photos/*"])
            run_prepare(STREAMED, out="in_store")
            in_store = by_id(shards / "in_store/pool")
            assert left == [0]
    on_disk = by_id(shards / "on_disk/pool")
    on_disk["id"] = on_disk["id"].str.replace("b/", "s3://photos/b/")  # a row without a key is named by its shard
    pd.testing.assert_frame_equal(in_store, on_disk.sort_values("id", ignore_index=True))
