"""Manifests as tools write them: what is read, and what is refused in which sentence."""

import pandas as pd
import pytest

from noisy_student.core.errors import UserError
from noisy_student.data import manifest, manifest_rows
from noisy_student.data.listing import list_manifest
from noisy_student.data.manifest import read_manifest
from noisy_student.data.manifest_rows import MAX_BYTES, Sample


@pytest.fixture
def write(tmp_path):
    def write_to(name: str, content: bytes):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_to


def rows(path) -> list[list[str]]:
    return read_manifest(path)[["path", "label"]].to_numpy().tolist()


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\nin/a.jpg,cat\nin/b.jpg,\n",
        b"\xef\xbb\xbfpath,label\r\nin/a.jpg,cat\r\nin/b.jpg,\r\n",
        b"Filename,Class\nin/a.jpg,cat\nin/b.jpg,\n",
        b"CATEGORY,FILE_PATH\ncat,in/a.jpg\n,in/b.jpg\n",
        b"path,label,date,url\nin/a.jpg,cat,2024-01-01,https://a.b/c\nin/b.jpg,,,\n",
        b"path;label\nin/a.jpg;cat\nin/b.jpg;\n",
        b"path\tlabel\nin/a.jpg\tcat\nin/b.jpg\t\n",
        b"path,label\nin\\a.jpg,cat\nin\\b.jpg,\n",
        b"path , label\n in/a.jpg ,cat \nin/b.jpg, \n",
        b'path, label\nin/a.jpg, "cat"\nin/b.jpg,\n',
        "path,label\nin/a.jpg,\u200bcat \u200b\nin/b.jpg,\n".encode(),
        b"File Name;Class\nin/a.jpg;cat\nin/b.jpg;\n",
        b"sep=;\r\npath;label\r\nin/a.jpg;cat\r\nin/b.jpg;\r\n",
        b'path;label;"date, time, place, person"\nin/a.jpg;cat;x\nin/b.jpg;;\n',
        b"path;label;date, time, place, person\nin/a.jpg;cat;x\nin/b.jpg;;\n",
    ],
    ids=[
        "plain",
        "BOM",
        "filename",
        "capitals",
        "more columns",
        "semicolons",
        "tabs",
        "backslashes",
        "spaces",
        "spaces around quotes",
        "spaces of no width",
        "spaces in names",
        "named separator",
        "quoted commas",
        "commas in a name",
    ],
)
def test_what_tools_write_is_read_alike(write, content):
    assert rows(write("m.csv", content)) == [["in/a.jpg", "cat"], ["in/b.jpg", ""]]


def test_columns_that_are_not_used_are_named(write, capsys):
    read_manifest(write("m.csv", b"path,label,date,url\na,b,c,d\n"))
    assert "the columns date, url are not used" in capsys.readouterr().out


def test_a_spreadsheets_letters_are_read(write, capsys):
    for encoding in ("utf-8", "latin-1", "cp1252"):
        content = "path;label\nim\xe1genes/a.jpg;\xc9l\xe9phant\n".encode(encoding)
        assert rows(write("m.csv", content)) == [["im\xe1genes/a.jpg", "\xc9l\xe9phant"]]
    assert capsys.readouterr().out.count("read as Windows-1252") == 2


def test_a_backslash_beside_slashes_is_part_of_a_name(write):
    assert rows(write("m.csv", b"path,label\nin/a\\b.jpg,cat\n")) == [["in/a\\b.jpg", "cat"]]


def test_a_windows_path_beside_slashes_is_one_unless_its_file_is_there(write):
    write("b\\c.jpg", b"")
    content = b"path,label\np/a.jpg,\nb\\c.jpg,cat\nb\\d.jpg,cat\n"
    assert [path for path, _ in rows(write("m.csv", content))] == ["p/a.jpg", "b\\c.jpg", "b/d.jpg"]


def test_a_path_with_both_is_one_of_windows_where_its_file_is_there(write, tmp_path):
    (tmp_path / "in/x").mkdir(parents=True)
    write("in/x/a.jpg", b"")
    assert rows(write("m.csv", b"path,label\nin/x\\a.jpg,cat\nin/x\\b.jpg,cat\n")) == [
        ["in/x/a.jpg", "cat"],
        ["in/x\\b.jpg", "cat"],
    ]


def test_a_column_that_is_not_used_is_named_once_in_any_encoding(write, capsys):
    read_manifest(write("m.csv", "path,label,note\na,\xc9l\xe9phant,x\n".encode("latin-1")))
    assert capsys.readouterr().out.count("the columns note are not used") == 1


def test_columns_of_a_parquet_file_that_are_not_used_may_hold_anything(tmp_path):
    table = pd.DataFrame({"path": ["a"], "label": ["cat"], "embedding": [[0.5, 1.0]], "jpeg": [b"\xff\xd8"]})
    table.to_parquet(tmp_path / "m.PARQUET")
    assert rows(tmp_path / "m.PARQUET") == [["a", "cat"]]
    table.assign(label=[["cat", "dog"]]).to_parquet(tmp_path / "m.parquet")
    with pytest.raises(UserError, match=r"no text but list<element: string> in the column label; make it text"):
        read_manifest(tmp_path / "m.parquet")


def test_a_spreadsheets_own_file_is_to_be_saved_as_csv(write):
    with pytest.raises(UserError, match="is a spreadsheet; save it as CSV in UTF-8"):
        read_manifest(write("m.xlsx", b"PK"))


def test_splits_may_be_in_capitals_and_named_train(write):
    table = read_manifest(write("m.csv", b"path,label,Split\na,x,Train\nb,x,TEST\nc,x,\n"))
    assert table["split"].tolist() == ["", "test", ""]


def test_labels_such_as_na_and_null_stay_what_they_are(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\na,NA\nb,null\nc,nan\n")
    assert sorted(list_manifest(tmp_path / "m.csv").files["label"]) == ["NA", "nan", "null"]


def test_a_small_manifest_that_holds_much_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "images.parquet"
    pd.DataFrame({"path": ["x" * 1000] * 20_000, "label": [""] * 20_000}).to_parquet(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(manifest_rows, "MAX_BYTES", 1_000_000)
    with pytest.raises(UserError, match="holds more than 1,000,000 bytes"):
        list_manifest(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cannot read"),
        (b"a.jpg,cat\n", "no column for the path among a.jpg, cat; call it one of path, file, filename"),
        (b"path\na\n", "no column for the label among path; call it one of label, class, category"),
        (b"path,label,label\na,b,c\n", "two columns for the label, label and label; keep one"),
        (b"path,label,class\na,b,c\n", "two columns for the label, label and class; keep one"),
        (b"path,label,split\na,b,validation\n", "the split 'validation'; it may be test, train or empty"),
        (b"path,label\na,b,c,d\n", "cannot read"),
        (b"\xff\xfep\0a\0", "saved as UTF-16; save it as CSV in UTF-8"),
        (b"path,label\n\x81\xff,b\n", "cannot read"),  # in no encoding that is known here
    ],
)
def test_a_manifest_that_is_none_is_refused_in_a_sentence(tmp_path, content, said):
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(UserError, match=said) as refusal:
        list_manifest(tmp_path / "m.csv")
    assert len(str(refusal.value).splitlines()) == 1


def test_a_garbled_or_a_missing_manifest_is_refused_at_once(tmp_path):
    with (tmp_path / "m.csv").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match=r"no column for the path|cannot read"):
        list_manifest(tmp_path / "m.csv")
    (tmp_path / "m.parquet").write_bytes(b"PAR1 or not")
    with pytest.raises(UserError, match="cannot read"):
        list_manifest(tmp_path / "m.parquet")
    with pytest.raises(UserError, match="cannot read"):
        list_manifest(tmp_path / "missing.csv")


@pytest.fixture
def long_manifest(tmp_path):
    """A manifest of 40 labeled rows among 4,000 without a label, as Parquet and as CSV."""
    paths = [f"{number:05}.jpg" for number in range(4040)]
    labels = ["cat" if number % 101 == 0 else "" for number in range(4040)]
    table = pd.DataFrame({"path": paths, "label": labels})
    table.to_parquet(tmp_path / "m.parquet", row_group_size=100)
    table.to_csv(tmp_path / "m.csv", index=False)
    return table


@pytest.mark.parametrize("name", ["m.parquet", "m.csv"])
def test_of_a_very_long_manifest_a_sample_is_kept(long_manifest, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(manifest, "ROWS_AT_ONCE", 100)
    whole = read_manifest(tmp_path / name, Sample(500))
    assert whole["path"].tolist() == long_manifest["path"].tolist()
    monkeypatch.setattr(manifest_rows, "MANY", 1000)
    assert len(read_manifest(tmp_path / name)) == 4040  # no part of it is to be drawn
    kept = read_manifest(tmp_path / name, Sample(500))
    assert (kept["label"] == "cat").sum() == 40
    assert (kept["label"] == "").sum() == 550
    assert kept["path"].is_monotonic_increasing
    assert "550 of 4,000 rows without labels are drawn from" in capsys.readouterr().out
    numbers = kept.loc[kept["label"] == "", "path"].str[:5].astype(int)
    assert numbers.mean() == pytest.approx(2020, rel=0.1)  # from all of it


def test_a_sample_does_not_depend_on_how_the_rows_come(long_manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest_rows, "MANY", 1000)
    found = []
    for at_once in (50, 5000):
        monkeypatch.setattr(manifest, "ROWS_AT_ONCE", at_once)
        found.append(read_manifest(tmp_path / "m.parquet", Sample(300))["path"].tolist())
    found.append(read_manifest(tmp_path / "m.csv", Sample(300))["path"].tolist())
    assert found[0] == found[1] == found[2]


def test_a_sample_takes_no_more_memory_than_what_is_kept(long_manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "ROWS_AT_ONCE", 100)
    monkeypatch.setattr(manifest_rows, "MAX_BYTES", 80_000)
    with pytest.raises(UserError, match=r"holds more than 80,000 bytes; set data\.pool"):
        read_manifest(tmp_path / "m.parquet")
    monkeypatch.setattr(manifest_rows, "MANY", 500)
    assert len(read_manifest(tmp_path / "m.parquet", Sample(100))) == 150


def sampled(tmp_path, monkeypatch, table: pd.DataFrame, sample: Sample) -> list[str]:
    """The paths that are kept of `table`, of which 1,000 rows are many."""
    monkeypatch.setattr(manifest_rows, "MANY", 1000)
    table.to_parquet(tmp_path / "m.parquet")
    return read_manifest(tmp_path / "m.parquet", sample)["path"].tolist()


def paths(count: int) -> pd.DataFrame:
    return pd.DataFrame({"path": [f"{number:05}.jpg" for number in range(count)], "label": ""})


@pytest.mark.parametrize("wanted", [1900, 2000, 5000])
def test_a_pool_of_about_all_rows_takes_all(tmp_path, monkeypatch, wanted):
    assert len(sampled(tmp_path, monkeypatch, paths(2000), Sample(wanted))) == 2000


def test_images_that_a_person_has_labeled_stay_when_the_manifest_grows(tmp_path, monkeypatch):
    few = sampled(tmp_path, monkeypatch, paths(2000), Sample(100))
    more = sampled(tmp_path, monkeypatch, paths(9000), Sample(100, frozenset(few)))
    assert set(few) <= set(more)
    assert len(more) == len(few) + 110


def test_the_sample_has_different_paths_and_takes_training_rows_for_those_of_the_pool(tmp_path, monkeypatch):
    twice = pd.concat([paths(2000), paths(2000)], ignore_index=True).assign(split="train")
    kept = sampled(tmp_path, monkeypatch, twice, Sample(500))
    assert len(kept) == len(set(kept)) == 550


def test_rows_without_a_path_do_not_push_others_out(tmp_path, monkeypatch):
    kept = sampled(tmp_path, monkeypatch, pd.concat([paths(2000), paths(300).assign(path=" ")]), Sample(500))
    assert sorted(set(kept)) != [""]
    assert len([path for path in kept if path]) == 550


def test_an_empty_manifest_has_no_rows(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\n")
    assert read_manifest(tmp_path / "m.csv").empty
