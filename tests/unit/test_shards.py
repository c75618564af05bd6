"""Images in shards: what is read of tars and Parquet files, on the disk and from a store, and what is refused."""

import io
import os
import re
import tarfile

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import store
from PIL import Image
from preparing import DATA, NO_CORRECTIONS, run_prepare
from test_decoding import encoded as encoded_image
from test_user_files import HOW, photo

from commands import list_shards as command
from noisy_student.core.errors import UserError
from noisy_student.data.listing import HIDDEN
from noisy_student.data.shards import about_how_many, list_shards
from noisy_student.data.user_images import BadFraction, load_user_images
from noisy_student.store import shard_files
from noisy_student.store.decoding import decode
from noisy_student.store.shard_files import ENDINGS, found_shards, translate_store_errors
from noisy_student.store.splits import read_split

SOME = BadFraction(0.9, "data.max_bad_fraction")


def encoded(seed: int) -> bytes:
    return encoded_image(photo(seed))


def write_tar(path, members: dict[str, bytes | str]) -> None:
    """A tar of files by name; a text is where a link leads."""
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def labeled_tar(path, numbers, pool=()) -> None:
    """Cats and dogs in turn, and a pool."""
    members = {}
    for number in numbers:
        members |= {f"{number:06}.png": encoded(number), f"{number:06}.cls": [b"cat", b" dog\n"][number % 2]}
        members[f"{number:06}.txt"] = b"a caption"
    write_tar(path, members | {f"{number:06}.png": encoded(number) for number in pool})


@pytest.fixture
def listed(tmp_path, monkeypatch):
    """Lists the shards of the current folder, and loads their images."""
    monkeypatch.chdir(tmp_path)

    def load():
        command.main([f"*{ending}" for ending in ENDINGS if list(tmp_path.glob(f"*{ending}"))])
        return load_user_images("shards", tmp_path / "shards.csv", HOW, SOME)

    return load


def reasons(dataset) -> dict[str, str]:
    return dict(dataset.quarantine()[["path", "reason"]].to_numpy().tolist())


def test_a_tar_and_a_parquet_file_with_the_same_images_are_read_alike(tmp_path, listed):
    labeled_tar(tmp_path / "a.tar", range(6), pool=range(6, 300))
    of_tar = listed()
    (tmp_path / "a.tar").unlink()
    rows = {"key": [f"{n:06}" for n in range(300)], "jpg": [encoded(n) for n in range(300)]}
    labels = [("cat", "dog")[n % 2] if n < 6 else None for n in range(300)]
    pq.write_table(pa.table(rows | {"label": labels}), tmp_path / "b.parquet", row_group_size=200)
    of_parquet = listed()
    for dataset in (of_tar, of_parquet):
        assert dataset.classes == ["cat", "dog"]
        assert dataset.labels.tolist() == [0, 1] * 3
        assert dataset.all_ids().tolist() == [f"{n:06}" for n in range(300)]
    assert np.array_equal(of_tar.all_images()[:], of_parquet.all_images()[:])
    assert len(np.unique(of_tar.index().hashes)) == 300


def test_numbers_are_labels_too_and_rows_without_a_key_are_named_by_their_place(tmp_path, listed):
    images = [{"bytes": encoded(n), "path": None} for n in range(4)]
    pq.write_table(pa.table({"image": images, "label": [3.0, 7.0, None, None]}), tmp_path / "train-0.parquet")
    dataset = listed()
    assert dataset.classes == ["3", "7"]
    assert dataset.all_ids().tolist() == [f"train-0/{n:08}" for n in range(4)]


def test_what_a_tar_should_not_hold_is_quarantined_and_everything_is_counted(tmp_path, listed):
    labeled_tar(tmp_path / "a.tar", range(4), pool=[4])
    write_tar(
        tmp_path / "b.tar",
        {
            "../../etc/x.png": encoded(10),
            "/abs.png": encoded(11),
            "link.png": "/etc/passwd",
            ".cache/x.png": encoded(12),
            "._mac.png": encoded(12),
            "two.jpg": encoded(13),
            "two.png": encoded(14),
            "000001.png": encoded(15),
            "alone.cls": b"cat",
            "broken.png": b"no image",
            "binary.png": encoded(16),
            "binary.cls": b"\xff\xfe",
            "folder/deep.er.jpg": encoded(17),
            "folder/fine.JPG": encoded(18),
        },
    )
    dataset = listed()
    assert reasons(dataset) == {
        "b.tar/../../etc/x.png": "its name leads out of the shard",
        "b.tar//abs.png": "its name leads out of the shard",
        "b.tar/link.png": "a link or a device, no file",
        "b.tar/.cache/x.png": HIDDEN,
        "b.tar/._mac.png": HIDDEN,
        "b.tar/folder/deep.er.jpg": "a second dot in its name: the key ends at the first",
        "b.tar/two.png": "a second image with its key",
        "b.tar/000001": "its key is that of another image",
        "b.tar/alone.cls": "a label without an image",
        "b.tar/broken": "no image of a known format",
        "b.tar/binary.cls": "a label that is no text in UTF-8",
    }
    assert dataset.all_ids().tolist() == [*(f"{n:06}" for n in range(5)), "two", "binary", "folder/fine"]
    assert dataset.figures()["files"] == len(dataset.all_ids()) + len(reasons(dataset))


def rewritten(path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "used", "expected"),
    [
        (lambda tar: tar[: tar.index(b"12.png")], 2, "no end mark: more may have been cut off"),
        (lambda tar: tar + tar, 6, "damaged, or several tars in one: nothing behind byte "),
        (lambda tar: tar.replace(b"12.png", bytes(6)), 2, "damaged or cut off: nothing behind byte "),
        (lambda tar: tar[: tar.index(b"12.png")] + bytes(512) + tar[tar.index(b"12.png") :], 2, "damaged, or several"),
        (lambda tar: tar + b"x" * 3000, 6, "damaged, or several tars in one: nothing behind byte "),
        (lambda tar: tar[: tar.index(b"12.png")] + b"y" * 600, 2, "damaged or cut off: nothing behind byte "),
    ],
    ids=["cut off", "two", "a name overwritten", "a hole", "something behind it", "something else in it"],
)
def test_of_a_damaged_tar_what_stands_before_the_damage_is_used(tmp_path, listed, change, used, expected):
    labeled_tar(tmp_path / "a.tar", range(4))
    write_tar(tmp_path / "b.tar", {f"{n}.png": encoded(n) for n in range(10, 16)})
    rewritten(tmp_path / "b.tar", change)
    dataset = listed()
    assert len(dataset.unlabeled.ids) == used
    assert reasons(dataset)["b.tar"].startswith(expected)
    assert list(reasons(dataset)) == ["b.tar"]


def test_a_header_that_points_at_itself_ends_the_tar(tmp_path, listed):
    labeled_tar(tmp_path / "a.tar", range(4), pool=[4])
    header = tarfile.TarInfo("b.png").tobuf()
    size = tarfile.itn(-512, 12, tarfile.GNU_FORMAT)
    header = header[:124] + size + header[136:]
    checksum = sum(header[:148]) + 8 * 32 + sum(header[156:512])
    header = header[:148] + f"{checksum:06o}\0 ".encode() + header[156:]
    write_tar(tmp_path / "b.tar", {"5.png": encoded(5)})
    rewritten(tmp_path / "b.tar", lambda tar: tar[: tar.rindex(b"IEND") // 512 * 512 + 512] + header + tar[-1024:])
    dataset = listed()
    assert dataset.unlabeled.ids.tolist() == ["000004", "5"]
    assert reasons(dataset)["b.tar"].startswith("damaged or cut off")


def test_names_that_begin_with_a_dot_and_a_slash_are_plain_ones(tmp_path, listed):
    write_tar(
        tmp_path / "a.tar",
        {f"./{n}.{end}": make(n) for n in range(4) for end, make in (("png", encoded), ("cls", label))},
    )
    dataset = listed()
    assert dataset.all_ids().tolist() == ["0", "1", "2", "3"]
    assert dataset.labels.tolist() == [0, 1, 0, 1]


def label(number: int) -> bytes:
    return [b"\xef\xbb\xbfcat", b"dog"][number % 2]


def test_a_second_label_a_sparse_file_and_a_name_that_is_no_text_are_quarantined(tmp_path, listed):
    labeled_tar(tmp_path / "a.tar", range(4))
    write_tar(
        tmp_path / "b.tar", {"k.png": encoded(9), "k.cls": b"cat", "\udcff.png": encoded(10), "l.png": encoded(11)}
    )
    with tarfile.open(tmp_path / "b.tar", "a") as archive:
        again = tarfile.TarInfo("k.cls")
        again.size = 3
        archive.addfile(again, io.BytesIO(b"dog"))
        sparse = tarfile.TarInfo("s.png")
        sparse.type = tarfile.GNUTYPE_SPARSE
        archive.addfile(sparse)
    dataset = listed()
    assert dict(zip(dataset.ids, dataset.labels, strict=True))["k"] == 0
    assert reasons(dataset) == {
        "b.tar/k.cls": "a second label with its key",
        "b.tar/\\xff.png": "its name is no UTF-8",
        "b.tar/s.png": "a sparse file; pack it without --sparse",
    }


@pytest.mark.parametrize("pattern", [lambda n: n % 3 == 0, lambda n: n < 150 or n == 170, lambda n: n % 40 > 20])
def test_labels_may_stand_anywhere_in_a_parquet_file(tmp_path, listed, pattern):
    labels = [("cat", "dog")[n % 2] if pattern(n) else None for n in range(300)]
    images = [encoded(n) for n in range(300)]
    pq.write_table(pa.table({"jpg": images, "label": labels}), tmp_path / "a.parquet", row_group_size=128)
    dataset = listed()
    right = {f"a/{n:08}": np.asarray(decode(images[n], HOW).pixels) for n in range(300)}
    for name, image in zip(dataset.all_ids(), dataset.all_images()[:], strict=True):
        assert np.array_equal(image, right[name]), name
    assert len(dataset.labels) == sum(map(pattern, range(300)))


def test_files_of_one_name_in_two_folders_have_ids_of_their_own(tmp_path, listed):
    for folder, labels in (("train", ["cat", "dog"]), ("more", [-1, -1])):
        (tmp_path / folder).mkdir()
        table = {"jpg": [encoded(len(folder) + n) for n in range(2)], "label": labels, "key": [None, ""]}
        pq.write_table(pa.table(table), tmp_path / folder / "0.parquet")
    command.main(["*/*.parquet"])
    dataset = load_user_images("shards", tmp_path / "shards.csv", HOW, SOME)
    assert dataset.all_ids().tolist() == [f"{f}/0/{n:08}" for f in ("train", "more") for n in range(2)]
    assert (dataset.labels.tolist(), dataset.unlabeled.labels.tolist()) == ([0, 1], [-1, -1])


def test_gray_images_of_sixteen_bits_get_one_white_in_shards_too(tmp_path, listed):
    def deep(number: int) -> bytes:
        return encoded_image(Image.fromarray(np.full((16, 16), 4095 - number, np.uint16)))

    labels = [("cat", "dog")[n % 2] if n < 4 else None for n in range(200)]
    pq.write_table(pa.table({"jpg": [deep(n) for n in range(200)], "label": labels}), tmp_path / "a.parquet")
    dataset = listed()
    assert dataset.found_preparation() == {"white": 4095}
    assert dataset.all_images()[:].min() > 240


def test_shards_without_images_are_refused(tmp_path, listed):
    write_tar(tmp_path / "a.tar", {"a.txt": b"a caption"})
    pq.write_table(pa.table({"jpg": pa.array([], pa.binary())}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="has labels of 0 class; it needs two classes or more"):
        listed()


@pytest.mark.parametrize("labels", [[0.5, 1.0], [[1], [2]], [{"a": 1}, {"a": 2}]], ids=["parts", "lists", "structs"])
def test_a_column_that_is_no_label_is_refused(tmp_path, listed, labels):
    pq.write_table(pa.table({"jpg": [encoded(0), encoded(1)], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has .* in the column label; make it text or whole numbers"):
        listed()


@pytest.mark.parametrize(("kept", "used", "more"), [(0.5, 4, {}), (0.97, 7, {"b.tar/17.png": "cut off"})])
def test_a_torn_tar_gives_what_stands_before_the_tear(tmp_path, listed, kept, used, more):
    labeled_tar(tmp_path / "a.tar", range(4))
    write_tar(tmp_path / "b.tar", {f"{n}.png": encoded(n) for n in range(10, 18)})
    content = (tmp_path / "b.tar").read_bytes()
    end = len(content.rstrip(b"\0"))
    (tmp_path / "b.tar").write_bytes(content[: int(kept * end)])
    dataset = listed()
    assert len(dataset.unlabeled.ids) == used
    assert reasons(dataset) == {"b.tar": "no end mark: more may have been cut off"} | more


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("b.tar", b"no tar", "b.tar cannot be read ("),
        ("b.tar", b"", "b.tar cannot be read (empty file)"),
        ("b.parquet", b"no Parquet file", "b.parquet cannot be read ("),
    ],
)
def test_a_shard_that_is_none_is_refused(tmp_path, listed, name, content, expected):
    labeled_tar(tmp_path / "a.tar", range(4), pool=[4])
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(expected)):
        listed()


def test_a_parquet_file_without_images_is_refused(tmp_path, listed):
    pq.write_table(pa.table({"url": ["a"], "caption": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(
        UserError, match=r"a.parquet has no column of encoded images among url, caption; call it one of"
    ):
        listed()
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet has no column of encoded images among image; call it one of jpg"):
        listed()


def test_a_shard_that_changed_or_is_gone_since_it_was_listed_is_refused(tmp_path, listed):
    labeled_tar(tmp_path / "a.tar", range(4), pool=[4])
    labeled_tar(tmp_path / "b.tar", range(5, 10))
    listed()
    listing = list_shards(tmp_path / "shards.csv")
    labeled_tar(tmp_path / "b.tar", range(2))

    def read() -> None:
        for rows in listing.tasks():
            list(listing.contents(rows))

    for use in (lambda: list_shards(tmp_path / "shards.csv"), read):
        with pytest.raises(
            UserError, match=r"b.tar has changed since it was listed \(.* bytes then, .* now\); run `noi"
        ):
            use()
    changed = os.stat(tmp_path / "a.tar").st_mtime + 5
    os.utime(tmp_path / "a.tar", (changed, changed))
    with pytest.raises(UserError, match=r"a.tar has changed since it was listed \(another version of the same size\)"):
        list_shards(tmp_path / "shards.csv")
    (tmp_path / "a.tar").unlink()
    with pytest.raises(UserError, match=r"a.tar is gone; run `noisy-student list-shards` again"):
        list_shards(tmp_path / "shards.csv")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("url,size\na.tar,3\n", "is no list of shards with the columns url, bytes, version; run `noisy"),
        ("url,bytes,version\n", "is no list of shards"),
        ("url,bytes,version\na.tar,3,\na.tar,3,\n", "is no list of shards"),
        ("url,bytes,version\na.tar,many,\n", "cannot read "),
        ("url,bytes,version\n,3,\n", "is no list of shards"),
        ("url,bytes,version\nhttp://me:secret@host/a.tar,3,\n", "a URL has a name, a password or a signature in it"),
        ("", "cannot read "),
    ],
)
def test_a_list_that_is_none_is_refused(tmp_path, content, expected):
    (tmp_path / "shards.csv").write_text(content)
    with pytest.raises(UserError, match=expected):
        list_shards(tmp_path / "shards.csv")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("none-*.tar", r"no file matches none-\*.tar; give paths or URLs"),
        ("http://me:secret@host/a.tar", "a URL has a name, a password or a signature in it; leave them"),
        ("note.txt", "note.txt is no shard, whose name ends in .tar or .parquet; unpack it"),
        ("http://host/a.tar?X-Amz-Signature=secret", "a URL has a name, a password or a signature in it"),
        ("https://host/a.tar#token=secret", "a URL has a name, a password or a signature in it"),
        ("webhdfs://host/a.tar?delegation=secret", "a URL has a name, a password or a signature in it"),
        ("simplecache::http://host/a.tar", "a URL with :: in it is not read"),
        ("http://me:secret@host/x-[ab].tar", "a URL has a name, a password or a signature in it"),
        ("nowhere://a.tar", "nowhere://a.tar cannot be read"),
    ],
)
def test_what_cannot_be_listed_is_refused(tmp_path, monkeypatch, pattern, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("no shard")
    with pytest.raises(UserError, match=expected) as refused:
        found_shards([pattern], tmp_path)
    assert "secret" not in str(refused.value)


def test_what_a_store_says_is_told_without_its_signature():
    said = "403, url='http://me:secret@host/real.tar?X-Amz-Credential=secret&X-Amz-Signature=secret'"
    told = r"a.tar cannot be read \(403, url='http://host/real.tar\?'\)"
    with pytest.raises(UserError, match=told) as refused, translate_store_errors("http://host/a.tar"):
        raise OSError(said)
    assert "secret" not in str(refused.value)


def test_how_many_images_there_are_is_told_by_the_first_shard(tmp_path, listed):
    for number in range(4):
        labeled_tar(tmp_path / f"{number}.tar", range(10 * number, 10 * number + 10))
    listed()
    assert about_how_many(tmp_path / "shards.csv") == pytest.approx(40, rel=0.05)


def test_a_new_shard_changes_no_shard_of_the_pool_that_was_there(tmp_path, monkeypatch, listed):
    (tmp_path / "corrections.csv").write_text(NO_CORRECTIONS)
    labeled_tar(tmp_path / "a.tar", range(30), pool=range(30, 50))
    labeled_tar(tmp_path / "c.tar", (), pool=range(50, 70))
    own = {**DATA, "source": "shards", "path": "shards.csv", "test": 8, "labeled_per_class": None, "calibration": 4}
    own |= {"validation": 4, "near_duplicates": None, "image_size": 8}
    for out in ("before", "after"):
        command.main(["*.tar"])
        run_prepare(own, out=out)
        labeled_tar(tmp_path / "d.tar", (), pool=range(70, 75))
    before, after = (read_split(tmp_path / out / "pool") for out in ("before", "after"))
    assert (len(before), len(after)) == (40, 45)
    assert after.ids[:40].tolist() == before.ids.tolist()
    assert [len(shard) for shard in after.shards] == [20, 20, 5]


def test_shards_in_a_store_give_what_they_give_on_the_disk(tmp_path, listed, monkeypatch, capsys):
    labeled_tar(tmp_path / "a.tar", range(6), pool=range(6, 150))
    rows = {"key": [f"{n:06}" for n in range(150, 200)], "jpg": [encoded(n) for n in range(150, 200)]}
    pq.write_table(pa.table(rows), tmp_path / "b.parquet")
    on_disk = listed()
    with store.server() as address:
        store.use(address, monkeypatch)
        bucket = fsspec.filesystem("s3", skip_instance_cache=True)
        bucket.mkdir("photos")
        bucket.put([str(tmp_path / "a.tar"), str(tmp_path / "b.parquet")], "photos/")
        command.main(["s3://photos/*"])
        in_store = load_user_images("shards", tmp_path / "shards.csv", HOW, SOME)
        listing = list_shards(tmp_path / "shards.csv")
        assert np.array_equal(in_store.all_images()[:], on_disk.all_images()[:])
        assert in_store.all_ids().tolist() == on_disk.all_ids().tolist()
        content = (tmp_path / "a.tar").read_bytes()
        bucket.pipe("photos/a.tar", content[:-1] + b"x")
        with pytest.raises(UserError, match=r"s3://photos/a\.tar has changed .* \(another version of the same size\)"):
            list(listing.contents(range(3)))
        bucket.put(str(tmp_path / "b.parquet"), "photos/a.tar")
        with pytest.raises(UserError, match=r"s3://photos/a\.tar has changed since it was listed \("):
            list(listing.contents(range(3)))
        bucket.rm("photos/a.tar")
        with pytest.raises(UserError, match=r"s3://photos/a\.tar is gone; run `noisy-student list-shards` again"):
            list(listing.contents(range(3)))
    monkeypatch.setattr(shard_files, "WAITS", (0.1, 0.1))
    with pytest.raises(UserError, match=r"s3://photos/b\.parquet cannot be read \(Could not connect ") as away:
        list(listing.contents(range(150, 160)))
    assert capsys.readouterr().out.count("; trying again in 0.1 s") == 2
    assert store.SECRET not in str(away.value) + (tmp_path / "shards.csv").read_text()
