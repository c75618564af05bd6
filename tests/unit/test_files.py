import os
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noisy_student.core.errors import UserError
from noisy_student.core.files import (
    digest,
    read_array,
    read_csv,
    read_json,
    read_parquet,
    release,
    write_array,
    write_bytes,
    write_csv,
    write_json,
    write_parts,
)

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FLOATS | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("files")


def test_a_file_is_whole_and_alone_in_a_folder_that_was_not_there(tmp_path):
    path = tmp_path / "models" / "iter0" / "model.json"
    write_bytes(path, b"old")
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "history.csv"
    write_bytes(path, b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"


@given(value=JSON)
def test_json_comes_back_as_it_was(folder, value):
    write_json(folder / "value.json", value)
    assert read_json(folder / "value.json") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_figure_that_is_none(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "summary.json", {"accuracy": value})
    assert not list(tmp_path.iterdir())


@given(values=st.lists(FLOATS, min_size=1))
def test_floats_keep_all_their_digits_in_csv(folder, values):
    write_csv(folder / "curve.csv", pd.DataFrame({"loss": values}, dtype=float))
    assert read_csv(folder / "curve.csv")["loss"].tolist() == values


def test_csv_as_text_keeps_ids_and_class_names_as_they_are(tmp_path):
    table = pd.DataFrame({"id": ["007", "1e3", "a,b"], "actual": ["NA", "null", "true"]})
    write_csv(tmp_path / "predictions.csv", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "predictions.csv", text=True), table)


@pytest.mark.parametrize(
    "array", [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros((0, 3), np.uint8), np.eye(3, order="F")]
)
def test_an_array_comes_back_as_it_was(tmp_path, array):
    write_array(tmp_path / "logits.npy", array)
    back = read_array(tmp_path / "logits.npy")
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)


def test_an_array_whose_memory_was_let_go_is_read_again(tmp_path):
    array = np.arange(100_000)
    write_array(tmp_path / "array.npy", array)
    read = read_array(tmp_path / "array.npy")
    for _ in range(2):
        assert np.array_equal(read, array)
        release(read)
    release(array)  # of an array in memory there is nothing to let go
    assert array[7] == 7


def test_an_array_in_parts_is_the_file_that_numpy_writes(tmp_path):
    array = np.arange(60, dtype=np.uint8).reshape(10, 3, 2)
    write_parts(tmp_path / "parts.npy", array.shape, array.dtype, (array[at : at + 4] for at in range(0, 10, 4)))
    np.save(tmp_path / "whole.npy", array)
    assert (tmp_path / "parts.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert write_array(tmp_path / "whole.npy", array) == digest(tmp_path / "parts.npy")


def test_the_same_values_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_array(tmp_path / name / "a.npy", np.eye(2))
        write_json(tmp_path / name / "a.json", {"b": 1, "a": 0.1})
    for name in ("a.npy", "a.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_array_with_pickles_is_neither_written_nor_read(tmp_path):
    pickled = np.array([{}], dtype=object)
    with pytest.raises(ValueError, match="array of objects"):
        write_array(tmp_path / "a.npy", pickled)
    np.save(tmp_path / "b.npy", pickled, allow_pickle=True)
    with pytest.raises(UserError):
        read_array(tmp_path / "b.npy")


def test_csv_keeps_a_carriage_return(tmp_path):
    table = pd.DataFrame({"path": ["a\rb.jpg", "c.jpg"], "reason": ["empty", ""]})
    write_csv(tmp_path / "a.csv", table)
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv", text=True), table)


def test_a_damaged_array_is_read_or_refused(tmp_path):
    write_array(tmp_path / "a.npy", np.arange(4))
    whole = (tmp_path / "a.npy").read_bytes()
    refused = 0
    for place, bit in product(range(128), range(8)):
        (tmp_path / "a.npy").write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
        try:
            assert isinstance(read_array(tmp_path / "a.npy"), np.ndarray)
        except UserError:
            refused += 1
    assert refused


@pytest.mark.parametrize("read", [read_json, read_csv, read_array, read_parquet])
@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00{", b'a\n"b'])
def test_what_cannot_be_read_is_refused_by_name_in_one_line(tmp_path, read, content):
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
